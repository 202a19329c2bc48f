"""Beam search with the semantics of `transformers` 5.x, as one compiled loop."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxtag.decoding.cached_decoder import CachedDecoder, GenerationConfig

# A score that no hypothesis has: for places not taken and candidates that do not count. Finite,
# because sums and products with it must stay numbers.
NONE = -1.0e9


def search(stepper: CachedDecoder, settings: GenerationConfig) -> dict[str, jax.Array]:
    """The best hypothesis of each picture: `tokens` int32 `[B, T]`, `scores` float32 `[B]`.

    In each turn the 2W best continuations of the W running hypotheses are taken. Those of the
    first W that end enter the W best finished ones; the W best that do not end run on. Twice W,
    so that W go on even if all the best ones end.
    """
    batch, width, length = stepper.batch, stepper.width, settings.max_length
    cache, slots = stepper.start()
    tokens = jnp.full((batch, width, length), settings.pad_id, jnp.int32)
    tokens = tokens.at[:, :, 0].set(settings.bos_id)
    state = {
        "position": jnp.int32(0),
        "running": tokens,
        # All hypotheses are the same at first: only one may be continued.
        "running_scores": jnp.full((batch, width), NONE).at[:, 0].set(0.0),
        "finished": tokens,
        "finished_scores": jnp.full((batch, width), NONE),
        "is_finished": jnp.zeros((batch, width), bool),
        "improvable": jnp.ones(batch, bool),
        "cache": cache,
        "slots": slots,
    }

    def unfinished(state: dict[str, Any]) -> jax.Array:
        open_ = state["improvable"]
        if settings.early_stopping is True:
            open_ = open_ & ~jnp.all(state["is_finished"], axis=1)
        return (state["position"] + 1 < length) & jnp.any(open_)

    def turn(state: dict[str, Any]) -> dict[str, Any]:
        position = state["position"]
        last = jax.lax.dynamic_index_in_dim(state["running"], position, axis=2, keepdims=False)
        logits, cache, slots = stepper(last, position, state["cache"], state["slots"])
        candidates = _continuations(logits, state, position)
        ends = (candidates["token"] == settings.eos_id) | (position + 2 >= length)
        new = {"position": position + 1, "cache": cache}
        new |= _run_on(candidates, ends, slots, width)
        new |= _finish(candidates, ends, state, position + 1, settings)
        new["improvable"] = state["improvable"] & _can_improve(new, settings)
        return new

    state = jax.lax.while_loop(unfinished, turn, state)
    return {
        "tokens": _pad_after_end(state["finished"][:, 0], settings),
        "scores": state["finished_scores"][:, 0],
    }


def _continuations(
    logits: jax.Array, state: dict[str, Any], position: jax.Array
) -> dict[str, jax.Array]:
    """The 2W best of W * V continuations, best first: score, parent, token, tokens `[B, 2W, T]`."""
    width = logits.shape[1]
    # Normalising needs one number for each hypothesis; the order within one is that of its logits.
    best, token = jax.lax.top_k(logits, 2 * width)
    total = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    scores = best - total + state["running_scores"][..., None]
    scores, chosen = jax.lax.top_k(scores.reshape(scores.shape[0], -1), 2 * width)
    parent = chosen // (2 * width)
    token = jnp.take_along_axis(token.reshape(token.shape[0], -1), chosen, axis=1)
    tokens = jnp.take_along_axis(state["running"], parent[..., None], axis=1)
    tokens = jax.lax.dynamic_update_slice_in_dim(tokens, token[..., None], position + 1, axis=2)
    return {"score": scores, "parent": parent, "token": token, "tokens": tokens}


def _run_on(
    candidates: dict[str, jax.Array], ends: jax.Array, slots: jax.Array, width: int
) -> dict[str, jax.Array]:
    """The W best that do not end, and where their past lies."""
    scores, chosen = jax.lax.top_k(jnp.where(ends, NONE, candidates["score"]), width)
    parent = jnp.take_along_axis(candidates["parent"], chosen, axis=1)
    return {
        "running": jnp.take_along_axis(candidates["tokens"], chosen[..., None], axis=1),
        "running_scores": scores,
        "slots": jnp.take_along_axis(slots, parent[..., None], axis=1),
    }


def _finish(
    candidates: dict[str, jax.Array],
    ends: jax.Array,
    state: dict[str, Any],
    length: jax.Array,
    settings: GenerationConfig,
) -> dict[str, jax.Array]:
    """The W best finished hypotheses, with those that end now; `length` without the first token."""
    width = state["is_finished"].shape[1]
    closed = ~state["improvable"]
    if settings.early_stopping is True:
        closed = closed | jnp.all(state["is_finished"], axis=1)
    ended = ends & (jnp.arange(2 * width) < width)
    penalised = candidates["score"] / length.astype(jnp.float32) ** settings.length_penalty
    penalised = jnp.where(ended & ~closed[:, None], penalised, NONE)

    scores = jnp.concatenate([state["finished_scores"], penalised], axis=1)
    scores, chosen = jax.lax.top_k(scores, width)
    tokens = jnp.concatenate([state["finished"], candidates["tokens"]], axis=1)
    is_finished = jnp.concatenate([state["is_finished"], ended & ~closed[:, None]], axis=1)
    return {
        "finished": jnp.take_along_axis(tokens, chosen[..., None], axis=1),
        "finished_scores": scores,
        "is_finished": jnp.take_along_axis(is_finished, chosen, axis=1),
    }


def _can_improve(state: dict[str, Any], settings: GenerationConfig) -> jax.Array:
    """Whether a running hypothesis may still beat the worst finished one: bool `[B]`."""
    length = state["position"]
    if settings.early_stopping == "never" and settings.length_penalty > 0:
        length = jnp.int32(settings.max_length - 1)
    best = state["running_scores"][:, 0] / length.astype(jnp.float32) ** settings.length_penalty
    worst = jnp.where(jnp.all(state["is_finished"], 1), jnp.min(state["finished_scores"], 1), NONE)
    return best > worst


def _pad_after_end(tokens: jax.Array, settings: GenerationConfig) -> jax.Array:
    """Tokens `[B, T]` with `pad_id` after the first `eos_id` behind the first token."""
    ends = (tokens == settings.eos_id).at[:, 0].set(False)
    after = jnp.cumsum(ends, axis=1) - ends > 0
    return jnp.where(after, settings.pad_id, tokens)
