"""Self-critical sequence training (Rennie et al. 2017, arXiv:1612.00563): rewards of own captions.

A model draws several captions of each image. The reward of a caption is its CIDEr-D against the
image's references, its advantage the reward less the mean of the image's other captions (Luo 2020,
arXiv:2003.09971, where the paper takes the reward of the greedy caption). The loss weighs the
negative log-probability of each token by its caption's advantage.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jaxtyping import Float

from jaxtag.data import sources
from jaxtag.data.sources import Source
from jaxtag.data.tokenizer import Tokenizer
from jaxtag.distributed import mesh as meshes
from jaxtag.metrics.captioning import tokenize
from jaxtag.metrics.captioning.cider import CiderScorer
from jaxtag.tasks.caption.config import DecodingConfig

_END = "<end>"  # a word of its own: else captions learn to stop in the middle of a phrase
# The model's own distribution, whatever config.task.decoding makes of it.
SAMPLING = {
    **dataclasses.asdict(DecodingConfig()),
    "method": "sample",
}
# (variables, batch, key) -> {"tokens" int32 [B, L]}
Sample = Callable[[Any, dict[str, jax.Array], jax.Array], dict[str, jax.Array]]


class CiderReward:
    """CIDEr-D of sampled captions, with the document frequencies of the training captions.

    Args:
        source: the training split, with `captions`.
        tokenizer: decodes samples.
    """

    def __init__(self, source: Source, tokenizer: Tokenizer):
        captions = list(sources.iter_captions(source))
        words = iter(tokenize([caption for group in captions for caption in group]))
        groups = [[f"{next(words)} {_END}" for _ in group] or [""] for group in captions]
        self._scorer, self._tokenizer = CiderScorer(groups), tokenizer

    def __call__(self, tokens: np.ndarray, images: np.ndarray) -> Float[np.ndarray, " B"]:
        """The rewards of captions, int [B, L], of the images numbered `images`, int [B].

        Padding, of which `images` is negative, has a reward of 0.
        """
        texts = tokenize(self._tokenizer.decode_batch(tokens))
        ended = (tokens == self._tokenizer.eos_id).any(1)
        rewards = np.zeros(len(tokens), np.float32)
        for row in np.flatnonzero(images >= 0):
            text = f"{texts[row]} {_END}" if ended[row] else texts[row]
            rewards[row] = self._scorer.score(text, int(images[row]))[0]
        return rewards


def advantages(rewards: Float[np.ndarray, "B K"]) -> Float[np.ndarray, "B K"]:
    """Each reward less the mean of the image's other K - 1, float32."""
    count = rewards.shape[1]
    others = (rewards.sum(1, keepdims=True) - rewards) / (count - 1)
    return (rewards - others).astype(np.float32)


def make_rollout(
    sample: Sample, reward: CiderReward, mesh: Mesh, samples: int
) -> Callable[[Any, dict[str, jax.Array], jax.Array], dict[str, jax.Array]]:
    """A function that completes a batch by samples of the model and what they are worth.

    (variables, batch, key) -> the batch with `tokens` int32 [B, K, L], the samples, and
    `advantage` and `reward` float32 [B, K]. The devices draw the next sample of all images while
    the host scores the one before.
    """

    def rollout(
        variables: Any, batch: dict[str, jax.Array], key: jax.Array
    ) -> dict[str, jax.Array]:
        # All are dispatched before the first is waited for.
        keys = jax.random.split(key, samples)
        drawn = [sample(variables, batch, each)["tokens"] for each in keys]
        rows = meshes.local_row_indices(mesh, batch["index"].shape[0])
        images = _fetch(batch["index"])[rows]
        tokens, rewards = [], []
        for each in drawn:
            tokens.append(_fetch(each)[rows])
            rewards.append(reward(tokens[-1], images))
        scored = {"tokens": np.stack(tokens, 1), "reward": np.stack(rewards, 1)}
        scored["advantage"] = advantages(scored["reward"])
        return {**batch, **meshes.make_global_batch(scored, mesh)}

    return rollout


def _fetch(array: jax.Array) -> np.ndarray:
    """The whole of a global array."""
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))
