"""Beam search with the semantics of `transformers` 5.x, as one compiled loop."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxtag.decoding.cached_decoder import CachedDecoder
from jaxtag.decoding.generation_config import GenerationConfig
from jaxtag.decoding.prompt import Prompt

# Score of empty entries and excluded candidates. Finite, because sums and products with it must
# stay numbers.
NO_SCORE = -1.0e9


def search(
    decoder: CachedDecoder, config: GenerationConfig, prompt: Prompt | None = None
) -> dict[str, jax.Array]:
    """Returns the best hypothesis of each image: `tokens` int32 `[B, T]`, `scores` float32 `[B]`.

    Each step takes the 2W best continuations of the W running hypotheses. Those among the first W
    that end enter the W best finished ones; the W best that do not end keep running. 2W are taken
    so that W keep running even if all of the best W end.
    """
    batch, width, length = decoder.batch, decoder.width, config.max_length
    cache, beam_indices = decoder.init_cache()
    tokens = jnp.full((batch, width, length), config.pad_id, jnp.int32)
    tokens = tokens.at[:, :, 0].set(config.bos_id)
    state = {
        "position": jnp.int32(0),
        "running": tokens,
        # All hypotheses start equal: only one may be continued.
        "running_scores": jnp.full((batch, width), NO_SCORE).at[:, 0].set(0.0),
        "finished": tokens,
        "finished_scores": jnp.full((batch, width), NO_SCORE),
        "is_finished": jnp.zeros((batch, width), bool),
        "improvable": jnp.ones(batch, bool),
        "cache": cache,
        "beam_indices": beam_indices,
    }

    def is_unfinished(state: dict[str, Any]) -> jax.Array:
        is_open = state["improvable"]
        if config.early_stopping is True:
            is_open = is_open & ~jnp.all(state["is_finished"], axis=1)
        return (state["position"] + 1 < length) & jnp.any(is_open)

    def step(state: dict[str, Any]) -> dict[str, Any]:
        position = state["position"]
        last = jax.lax.dynamic_index_in_dim(state["running"], position, axis=2, keepdims=False)
        logits, cache, beam_indices = decoder(last, position, state["cache"], state["beam_indices"])
        generated, longest = position + 1, jnp.int32(length - 1)  # tokens that count to a score
        if prompt is not None:
            logits, is_fixed = _fix(logits, prompt, position + 1)
            generated = jnp.maximum(generated - (prompt.lengths - 1), 1)
            longest = longest - (prompt.lengths - 1)
        candidates = _continuations(logits, state, position)
        ends = (candidates["token"] == config.eos_id) | (position + 2 >= length)
        if prompt is not None:
            ends = ends & ~is_fixed[:, None]
        new = {"position": position + 1, "cache": cache}
        new |= _select_running(candidates, ends, beam_indices, width)
        new |= _update_finished(candidates, ends, state, generated, config)
        new["improvable"] = state["improvable"] & _can_improve(new, generated, longest, config)
        return new

    state = jax.lax.while_loop(is_unfinished, step, state)
    return {
        "tokens": _pad_after_end(state["finished"][:, 0], config),
        "scores": state["finished_scores"][:, 0],
    }


def _fix(logits: jax.Array, prompt: Prompt, position: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Logits `[B, W, V]` that leave the prompt's token alone where there is one, and where.

    The first hypothesis takes it at no cost; the others, which nothing has scored yet, stay empty.
    """
    token, is_fixed = prompt.at(position)
    only = jnp.where(jnp.arange(logits.shape[-1]) == token[:, None], 0.0, NO_SCORE)[:, None]
    return jnp.where(is_fixed[:, None, None], only, logits), is_fixed


def _continuations(
    logits: jax.Array, state: dict[str, Any], position: jax.Array
) -> dict[str, jax.Array]:
    """The 2W best of W * V continuations, best first: score, parent, token, tokens `[B, 2W, T]`."""
    width = logits.shape[1]
    # Normalization shifts all logits of a hypothesis alike: their order gives its best tokens.
    best, token = jax.lax.top_k(logits, 2 * width)
    total = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    scores = best - total + state["running_scores"][..., None]
    scores, order = jax.lax.top_k(scores.reshape(scores.shape[0], -1), 2 * width)
    parent = order // (2 * width)
    token = jnp.take_along_axis(token.reshape(token.shape[0], -1), order, axis=1)
    tokens = jnp.take_along_axis(state["running"], parent[..., None], axis=1)
    tokens = jax.lax.dynamic_update_slice_in_dim(tokens, token[..., None], position + 1, axis=2)
    return {"score": scores, "parent": parent, "token": token, "tokens": tokens}


def _select_running(
    candidates: dict[str, jax.Array], ends: jax.Array, beam_indices: jax.Array, width: int
) -> dict[str, jax.Array]:
    """The W best continuations that do not end, and where the cache holds their past."""
    scores, order = jax.lax.top_k(jnp.where(ends, NO_SCORE, candidates["score"]), width)
    parent = jnp.take_along_axis(candidates["parent"], order, axis=1)
    return {
        "running": jnp.take_along_axis(candidates["tokens"], order[..., None], axis=1),
        "running_scores": scores,
        "beam_indices": jnp.take_along_axis(beam_indices, parent[..., None], axis=1),
    }


def _update_finished(
    candidates: dict[str, jax.Array],
    ends: jax.Array,
    state: dict[str, Any],
    length: jax.Array,
    config: GenerationConfig,
) -> dict[str, jax.Array]:
    """The W best finished hypotheses, with those that end now, of `length` generated tokens."""
    width = state["is_finished"].shape[1]
    is_closed = ~state["improvable"]
    if config.early_stopping is True:
        is_closed = is_closed | jnp.all(state["is_finished"], axis=1)
    ended = ends & (jnp.arange(2 * width) < width)
    penalty = length.astype(jnp.float32) ** config.length_penalty
    penalized = candidates["score"] / (penalty[:, None] if penalty.ndim else penalty)
    penalized = jnp.where(ended & ~is_closed[:, None], penalized, NO_SCORE)

    scores = jnp.concatenate([state["finished_scores"], penalized], axis=1)
    scores, order = jax.lax.top_k(scores, width)
    tokens = jnp.concatenate([state["finished"], candidates["tokens"]], axis=1)
    is_finished = jnp.concatenate([state["is_finished"], ended & ~is_closed[:, None]], axis=1)
    return {
        "finished": jnp.take_along_axis(tokens, order[..., None], axis=1),
        "finished_scores": scores,
        "is_finished": jnp.take_along_axis(is_finished, order, axis=1),
    }


def _can_improve(
    state: dict[str, Any], length: jax.Array, longest: jax.Array, config: GenerationConfig
) -> jax.Array:
    """Whether a running hypothesis may still beat the worst finished one: bool `[B]`.

    Args:
        length: tokens that were generated so far.
        longest: that can be generated.
    """
    if config.early_stopping == "never" and config.length_penalty > 0:
        length = longest
    best = state["running_scores"][:, 0] / length.astype(jnp.float32) ** config.length_penalty
    worst = jnp.where(
        jnp.all(state["is_finished"], 1), jnp.min(state["finished_scores"], 1), NO_SCORE
    )
    return best > worst


def _pad_after_end(tokens: jax.Array, config: GenerationConfig) -> jax.Array:
    """Tokens `[B, T]` with `pad_id` after the first `eos_id`, bos not counted."""
    ends = (tokens == config.eos_id).at[:, 0].set(False)
    after = jnp.cumsum(ends, axis=1) - ends > 0
    return jnp.where(after, config.pad_id, tokens)
