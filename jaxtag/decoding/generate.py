"""Captions from a captioner: greedy, beam search and sampling, each one compiled loop.

The encoder runs once, the images' keys and values for cross-attention are computed once and shared
by the hypotheses of an image, and a `lax.while_loop` with a key-value cache runs until every
caption has ended. With the same weights, greedy and beam search return the tokens that `generate`
of `transformers` (5.x) returns.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxtag.array_types import Inputs
from jaxtag.decoding import beam_search
from jaxtag.decoding.cached_decoder import CachedDecoder, encode
from jaxtag.decoding.constraints import constrain
from jaxtag.decoding.generation_config import GenerationConfig
from jaxtag.decoding.prompt import Prompt
from jaxtag.models.decoder import Captioner


def generate(
    model: Captioner,
    variables: dict[str, Any],
    images: Inputs,
    *,
    rng: jax.Array | None = None,
    prompts: Int[Array | np.ndarray, "B P"] | None = None,
    **settings: Any,
) -> dict[str, jax.Array]:
    """Generates a caption for each image; compiled once per model, configuration and shapes.

    On a mesh, pass images that are sharded over their first dimension.

    Args:
        model: the captioner.
        variables: its variables.
        images: normalized; or the encoder's features, for a model with `BackboneOutput`.
        rng: random key; needed for "sample".
        prompts: the tokens that each caption begins with after bos, as many as its image has:
            negative numbers fill the rest of a row. They count to `max_length` and not to `scores`.
        settings: fields of `GenerationConfig`.

    Returns:
        `tokens` int32 `[B, max_length]` (bos … eos, then pad, as a tokenizer encodes captions) and
        `scores` float32 `[B]`: the caption's log-probability, which beam search divides by its
        length penalty, after what constraints and diversity take away. With
        `output_token_scores` also `token_scores` float32 `[B, max_length]`: the log-probability
        of each token by the model alone, which means nothing after eos. With
        `num_return_sequences` N above 1 all have an axis N after the first, the best first.

    Raises:
        ValueError: a setting is invalid or does not fit the model.
    """
    config = validate(model, GenerationConfig(**settings))
    if config.method == "sample" and rng is None:
        raise ValueError('method="sample" needs rng, a jax.random.key')
    rng = jax.random.key(0) if rng is None else rng
    if prompts is not None:
        longest = prompts.shape[1]
        if longest + 1 >= config.max_length:
            raise ValueError(
                f"prompts of {longest} tokens leave no room in max_length ({config.max_length})"
            )
        prompts = jnp.asarray(prompts)
    return _generate(model, config, variables, images, rng, prompts)


def validate(model: Captioner, config: GenerationConfig) -> GenerationConfig:
    """Returns `config`; raises ValueError where it does not fit the model."""
    if config.max_length > model.decoder.max_length:
        raise ValueError(
            f"max_length ({config.max_length}) is more than the decoder's positions "
            f"({model.decoder.max_length})"
        )
    if config.method == "beam" and 2 * config.beam_size > model.decoder.vocab_size:
        raise ValueError(f"beam_size ({config.beam_size}) is more than half of the vocabulary")
    return config


@partial(jax.jit, static_argnums=(0, 1))
def _generate(
    model: Captioner,
    config: GenerationConfig,
    variables: dict[str, Any],
    images: jax.Array,
    rng: jax.Array,
    prompts: jax.Array | None,
) -> dict[str, jax.Array]:
    decoder = CachedDecoder(model, variables, encode(model, variables, images), config)
    prompt = None if prompts is None else Prompt.make(prompts, config)
    if config.method == "beam":
        captions = beam_search.search(decoder, config, prompt)
    else:
        captions = _greedy_or_sample(decoder, config, rng, prompt)
    if config.output_token_scores:
        captions["token_scores"] = _token_scores(model, variables, images, captions["tokens"])
    if config.num_return_sequences == 1:
        captions = {name: values[:, 0] for name, values in captions.items()}
    return captions


def _token_scores(
    model: Captioner, variables: dict[str, Any], images: jax.Array, tokens: Int[Array, "B N T"]
) -> Float[Array, "B N T"]:
    """The log-probability of each token after those before it; 0 of the first."""
    logits: Any = model.apply(variables, images, tokens[:, :, :-1])
    log_probabilities = jax.nn.log_softmax(logits["logits"])
    following = jnp.maximum(tokens[:, :, 1:, None], 0)
    scores = jnp.take_along_axis(log_probabilities, following, axis=-1)[..., 0]
    return jnp.pad(scores, ((0, 0), (0, 0), (1, 0)))


def _greedy_or_sample(
    decoder: CachedDecoder, config: GenerationConfig, rng: jax.Array, prompt: Prompt | None
) -> dict[str, jax.Array]:
    """Greedy search and sampling: N hypotheses of each image that know nothing of each other."""
    cache, beam_indices = decoder.init_cache()
    shape = (decoder.batch, decoder.width)
    tokens = jnp.full((*shape, config.max_length), config.pad_id, jnp.int32)
    tokens = tokens.at[:, :, 0].set(config.bos_id)
    lengths = jnp.int32(1) if prompt is None else prompt.lengths
    state = {
        "position": jnp.int32(0),
        "tokens": tokens,
        "scores": jnp.zeros(shape, jnp.float32),
        "done": jnp.zeros(shape, bool),
        "cache": cache,
        "beam_indices": beam_indices,
    }

    def is_unfinished(state: dict[str, Any]) -> jax.Array:
        return (state["position"] + 1 < config.max_length) & ~jnp.all(state["done"])

    def step(state: dict[str, Any]) -> dict[str, Any]:
        position, done, tokens = state["position"], state["done"], state["tokens"]
        last = jax.lax.dynamic_index_in_dim(tokens, position, axis=2, keepdims=False)
        logits, cache, beam_indices = decoder(last, position, state["cache"], state["beam_indices"])
        allowed = logits
        if config.has_constraints:
            allowed = constrain(logits, tokens, position, lengths, config)
        if config.method == "sample":
            key = jax.random.fold_in(rng, position)
            token = jax.random.categorical(key, warp_logits(allowed, config))
        else:
            token = jnp.argmax(allowed, axis=-1)
        token = token.astype(jnp.int32)
        logit = jnp.take_along_axis(logits, token[..., None], axis=-1)[..., 0]
        log_probability = logit - jax.nn.logsumexp(logits, axis=-1)
        ends = token == config.eos_id
        if prompt is not None:
            fixed, is_fixed = (values[:, None] for values in prompt.at(position + 1))
            token = jnp.where(is_fixed, fixed, token)
            log_probability = jnp.where(is_fixed, 0.0, log_probability)
            ends = ends & ~is_fixed
        padded = jnp.where(done, config.pad_id, token)
        return {
            "position": position + 1,
            "tokens": jax.lax.dynamic_update_slice_in_dim(
                tokens, padded[..., None], position + 1, axis=2
            ),
            "scores": state["scores"] + jnp.where(done, 0.0, log_probability),
            "done": done | ends,
            "cache": cache,
            "beam_indices": beam_indices,
        }

    state = jax.lax.while_loop(is_unfinished, step, state)
    scores, order = jax.lax.top_k(state["scores"], decoder.width)  # the likeliest first
    tokens = jnp.take_along_axis(state["tokens"], order[..., None], axis=1)
    return {"tokens": tokens, "scores": scores}


def warp_logits(logits: Float[Array, "*B V"], config: GenerationConfig) -> Float[Array, "*B V"]:
    """Applies temperature, top_k and top_p; the logits of excluded tokens become -inf."""
    logits = logits / config.temperature
    if 0 < config.top_k < logits.shape[-1]:
        threshold = jax.lax.top_k(logits, config.top_k)[0][..., -1:]
        logits = jnp.where(logits < threshold, -jnp.inf, logits)
    if config.top_p < 1.0:
        ordered = -jnp.sort(-logits, axis=-1)
        probabilities = jax.nn.softmax(ordered, axis=-1)
        # A token stays while more likely ones hold less than top_p: the most likely always does.
        before = jnp.cumsum(probabilities, axis=-1) - probabilities
        is_included = before < config.top_p
        threshold = jnp.min(jnp.where(is_included, ordered, jnp.inf), -1, keepdims=True)
        logits = jnp.where(logits < threshold, -jnp.inf, logits)
    return logits
