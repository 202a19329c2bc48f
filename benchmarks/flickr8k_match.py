"""Trains images and texts of Flickr8k in one space on frozen features, and tags Corel-5K by words.

    python -m jaxtag.prepare --dataset=flickr8k_captions --source=FLICKR8K
    python -m jaxtag.prepare --dataset=corel5k --source=COREL5K
    python benchmarks/flickr8k_match.py

Features are EfficientNet-Lite0's (the extra `weights`), kept in the user's cache. A text is the
mean of its tokens' embeddings; it and a linear map of the features are trained with CLIP's loss.
--held_out=1000 evaluates on the last 1,000 training images, for choosing settings; without it all
are trained on, and the dev part is evaluated. Corel-5K's 374 tags are taken as texts: nothing is
trained on Corel.
"""

import argparse
import itertools
import time

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxtag import models
from jaxtag.array_types import AnyArray
from jaxtag.data import sources
from jaxtag.data.tokenizer import Tokenizer
from jaxtag.datasets.prepared import open_split
from jaxtag.inference import feature_cache, features, zero_shot
from jaxtag.losses import contrastive
from jaxtag.metrics import multilabel
from jaxtag.metrics.image_text import image_text_metrics
from jaxtag.models.embedder import l2_normalize

MODEL, LENGTH, WIDTH = "efficientnet_lite0", 24, 512
BATCH, EPOCHS, RATE, DECAY = 256, 8, 2e-3, 0.05


class Towers(nn.Module):
    """A linear map of features, and the mean of the embeddings of a text's tokens."""

    vocab_size: int

    def setup(self) -> None:
        self.text_encoder = models.TextEncoder(
            vocab_size=self.vocab_size,
            max_length=LENGTH,
            width=WIDTH,
            depth=0,
            heads=1,
            mlp_dim=1,
            pool="mean",
            dropout=0.3,
        )
        self.project_image = nn.Dense(WIDTH, use_bias=False)
        self.project_text = nn.Dense(WIDTH, use_bias=False)
        self.dropout = nn.Dropout(0.3)
        self.logit_scale = self.param("logit_scale", nn.initializers.constant(np.log(14.3)), ())

    def image(self, vectors: AnyArray, train: bool = False) -> jax.Array:
        return l2_normalize(self.project_image(self.dropout(vectors, deterministic=not train)))

    def text(self, tokens: AnyArray, train: bool = False) -> jax.Array:
        return l2_normalize(self.project_text(self.text_encoder(tokens, train)["pooled"]))

    def __call__(self, vectors: AnyArray, tokens: AnyArray) -> tuple[jax.Array, jax.Array]:
        return self.image(vectors, True), self.text(tokens, True)


def train(vectors: np.ndarray, tokens: list[np.ndarray], towers: Towers):
    """The parameters after EPOCHS; in each step an image has one of its texts."""
    steps = EPOCHS * len(vectors) // BATCH
    schedule = optax.warmup_cosine_decay_schedule(0.0, RATE, steps // 20, steps)
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(
            schedule,
            b2=0.98,
            weight_decay=DECAY,
            mask=lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params),
        ),
    )

    @jax.jit
    def step(params, state, vectors, tokens, key):
        def loss(params):
            image, text = towers.apply({"params": params}, vectors, tokens, rngs={"dropout": key})
            mask, bias = jnp.ones(len(image)), jnp.zeros(())
            total, weight = contrastive.clip(image, text, mask, params["logit_scale"], bias)
            return total / weight

        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    rng, order = np.random.default_rng(0), np.zeros(0, int)
    key = jax.random.key(0)
    params = towers.init({"params": key, "dropout": key}, vectors[:1], tokens[0][:1])["params"]
    state = optimizer.init(params)
    for number in range(steps):
        if len(order) < BATCH:
            order = np.concatenate([order, rng.permutation(len(vectors))])
        rows, order = order[:BATCH], order[BATCH:]
        drawn = np.stack([tokens[row][rng.integers(len(tokens[row]))] for row in rows])
        params, state = step(params, state, vectors[rows], drawn, jax.random.fold_in(key, number))
    return params


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir")
    parser.add_argument("--held_out", type=int, default=0)
    arguments = parser.parse_args()
    extractor = features.from_model(MODEL, MODEL)

    def read(dataset: str, split: str):
        source = open_split(dataset, split, arguments.data_dir)
        return source, feature_cache.split_features(extractor, source).vectors

    source, vectors = read("flickr8k_captions", "train")
    captions = [list(texts) for texts in sources.iter_captions(source)]
    if arguments.held_out:
        count = len(vectors) - arguments.held_out
        test_vectors, test_captions = vectors[count:], captions[count:]
        vectors, captions = vectors[:count], captions[:count]
    else:
        test_source, test_vectors = read("flickr8k_captions", "validation")
        test_captions = [list(texts) for texts in sources.iter_captions(test_source)]
    mean, deviation = vectors.mean(0), vectors.std(0) + 1e-3
    tokenizer = Tokenizer.train(itertools.chain.from_iterable(captions), 3000)
    towers = Towers(len(tokenizer))
    began = time.process_time()
    tokens = [tokenizer.encode(texts, LENGTH) for texts in captions]
    params = train((vectors - mean) / deviation, tokens, towers)
    print(f"trained on {len(vectors):,} images in {time.process_time() - began:.0f} CPU seconds")
    embed_image = jax.jit(lambda x: towers.apply({"params": params}, x, method="image"))
    embed_text = jax.jit(lambda t: towers.apply({"params": params}, t, method="text"))

    def embed_texts(texts: list[str]) -> np.ndarray:
        return np.asarray(embed_text(tokenizer.encode(texts, LENGTH)))

    metrics = image_text_metrics(
        np.asarray(embed_image((test_vectors - mean) / deviation)),
        embed_texts(list(itertools.chain.from_iterable(test_captions))),
        np.repeat(np.arange(len(test_captions)), [len(texts) for texts in test_captions]),
    )
    print({name: round(value, 3) for name, value in metrics.items()})

    source, vectors = read("corel5k", "validation")
    names = source.class_names("tags")
    prompts = [prompt.replace("{}", name) for name in names for prompt in zero_shot.PROMPTS]
    of_names = embed_texts(prompts).reshape(len(names), len(zero_shot.PROMPTS), -1).mean(1)
    of_names /= np.linalg.norm(of_names, axis=1, keepdims=True)
    similarity = np.asarray(embed_image((vectors - mean) / deviation)) @ of_names.T
    tags = np.zeros(similarity.shape, bool)
    for row, record in enumerate(source.iter_fields(["tags"])):
        tags[row, list(record["tags"])] = True
    scores = multilabel.ranking_metrics(similarity, tags, np.ones_like(tags))
    print("Corel-5K:", {name: round(value, 3) for name, value in scores.items()})


if __name__ == "__main__":
    main()
