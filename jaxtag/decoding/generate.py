"""Captions from a captioner: greedy, beam search and sampling, each one compiled loop.

The encoder runs once, the pictures' keys and values for cross-attention are computed once and
shared by the hypotheses of a picture, and a `lax.while_loop` with a key-value cache runs until
every caption has ended. With the same weights greedy and beam search give the tokens that
`transformers` (5.x) gives with `generate`.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxtag.decoding import beam_search
from jaxtag.decoding.cached_decoder import CachedDecoder, GenerationConfig
from jaxtag.models.captioner import Captioner


def generate(
    model: Captioner,
    variables: dict[str, Any],
    images: jax.Array,
    *,
    rng: jax.Array | None = None,
    **settings: Any,
) -> dict[str, jax.Array]:
    """Captions for images `[B, H, W, 3]` (normalised); `settings` are fields of `Settings`.

    Gives `tokens` int32 `[B, max_length]` (bos … eos, then pad, as a tokenizer encodes captions)
    and `scores` float32 `[B]`: the caption's log-probability (greedy, sample), or with beam
    search that divided by its length penalty. `sample` needs `rng`. On a mesh, pass images
    sharded over their first dimension. Compiled once for each model, settings and shapes.

    Raises ValueError for settings that make no sense or do not fit the model.
    """
    chosen = validate(model, GenerationConfig(**settings))
    if chosen.method == "sample" and rng is None:
        raise ValueError('method="sample" needs rng, a jax.random.key')
    rng = jax.random.key(0) if rng is None else rng
    return _generate(model, chosen, variables, images, rng)


def validate(model: Captioner, settings: GenerationConfig) -> GenerationConfig:
    """Returns `settings`; raises ValueError where they do not fit the model."""
    if settings.max_length > model.decoder.max_length:
        raise ValueError(
            f"max_length ({settings.max_length}) is more than the decoder's positions "
            f"({model.decoder.max_length})"
        )
    if settings.method == "beam" and 2 * settings.beam_size > model.decoder.vocab_size:
        raise ValueError(f"beam_size ({settings.beam_size}) is more than half of the vocabulary")
    return settings


@partial(jax.jit, static_argnums=(0, 1))
def _generate(
    model: Captioner,
    settings: GenerationConfig,
    variables: dict[str, Any],
    images: jax.Array,
    rng: Any,
) -> dict[str, jax.Array]:
    stepper = CachedDecoder(model, variables, images, settings)
    if settings.method == "beam":
        return beam_search.search(stepper, settings)
    return _greedy_or_sample(stepper, settings, rng)


def _greedy_or_sample(
    stepper: CachedDecoder, settings: GenerationConfig, rng: jax.Array
) -> dict[str, jax.Array]:
    """Greedy search and sampling: one hypothesis a picture."""
    cache, slots = stepper.start()
    tokens = jnp.full((stepper.batch, settings.max_length), settings.pad_id, jnp.int32)
    tokens = tokens.at[:, 0].set(settings.bos_id)
    state = {
        "position": jnp.int32(0),
        "tokens": tokens,
        "scores": jnp.zeros(stepper.batch, jnp.float32),
        "done": jnp.zeros(stepper.batch, bool),
        "cache": cache,
        "slots": slots,
    }

    def unfinished(state: dict[str, Any]) -> jax.Array:
        return (state["position"] + 1 < settings.max_length) & ~jnp.all(state["done"])

    def turn(state: dict[str, Any]) -> dict[str, Any]:
        position, done = state["position"], state["done"]
        last = jax.lax.dynamic_slice_in_dim(state["tokens"], position, 1, axis=1)
        logits, cache, slots = stepper(last, position, state["cache"], state["slots"])
        logits = logits[:, 0]
        if settings.method == "sample":
            key = jax.random.fold_in(rng, position)
            chosen = jax.random.categorical(key, warp_logits(logits, settings))
        else:
            chosen = jnp.argmax(logits, axis=-1)
        chosen = chosen.astype(jnp.int32)
        logit = jnp.take_along_axis(logits, chosen[:, None], axis=-1)[:, 0]
        gained = logit - jax.nn.logsumexp(logits, axis=-1)
        written = jnp.where(done, settings.pad_id, chosen)
        return {
            "position": position + 1,
            "tokens": jax.lax.dynamic_update_slice_in_dim(
                state["tokens"], written[:, None], position + 1, axis=1
            ),
            "scores": state["scores"] + jnp.where(done, 0.0, gained),
            "done": done | (chosen == settings.eos_id),
            "cache": cache,
            "slots": slots,
        }

    state = jax.lax.while_loop(unfinished, turn, state)
    return {"tokens": state["tokens"], "scores": state["scores"]}


def warp_logits(logits: jax.Array, settings: GenerationConfig) -> jax.Array:
    """Logits `[B, V]` after temperature, top_k and top_p; tokens left out are -inf."""
    logits = logits / settings.temperature
    if 0 < settings.top_k < logits.shape[-1]:
        least = jax.lax.top_k(logits, settings.top_k)[0][:, -1:]
        logits = jnp.where(logits < least, -jnp.inf, logits)
    if settings.top_p < 1.0:
        ordered = -jnp.sort(-logits, axis=-1)
        probabilities = jax.nn.softmax(ordered, axis=-1)
        # A token stays while the likelier ones hold less than top_p: the likeliest always does.
        before = jnp.cumsum(probabilities, axis=-1) - probabilities
        least = jnp.min(jnp.where(before < settings.top_p, ordered, jnp.inf), -1, keepdims=True)
        logits = jnp.where(logits < least, -jnp.inf, logits)
    return logits
