"""Beam search with the semantics of `transformers` 5.x, as one compiled loop."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxtag.decoding.cached_decoder import CachedDecoder
from jaxtag.decoding.constraints import NO_SCORE, constrain
from jaxtag.decoding.generation_config import GenerationConfig
from jaxtag.decoding.prompt import Prompt

State = dict[str, jax.Array]


def search(
    decoder: CachedDecoder, config: GenerationConfig, prompt: Prompt | None = None
) -> dict[str, jax.Array]:
    """The best hypotheses of each image: `tokens` int32 `[B, N, T]`, `scores` float32 `[B, N]`.

    Each step takes the 2W best continuations of the W running hypotheses. Those among the first W
    that end enter the W best finished ones; the W best that do not end keep running. 2W are taken
    so that W keep running even if all of the best W end. Groups search one after the other in each
    step.
    """
    length, groups = config.max_length, config.num_beam_groups
    cache, beam_indices = decoder.init_cache()
    state = {
        "position": jnp.int32(0),
        "groups": [
            _init_group(decoder, indices, config)
            for indices in jnp.split(beam_indices, groups, axis=1)
        ],
        "cache": cache,
    }

    def is_unfinished(state: dict[str, Any]) -> jax.Array:
        is_open = jnp.stack([_is_open(group, config) for group in state["groups"]])
        return (state["position"] + 1 < length) & jnp.any(is_open)

    def step(state: dict[str, Any]) -> dict[str, Any]:
        position = state["position"]
        running, beam_indices = (
            jnp.concatenate([group[name] for group in state["groups"]], axis=1)
            for name in ("running", "beam_indices")
        )
        last = jax.lax.dynamic_index_in_dim(running, position, axis=2, keepdims=False)
        logits, cache, beam_indices = decoder(last, position, state["cache"], beam_indices)
        new_groups: list[State] = []
        for number, group in enumerate(state["groups"]):
            own = slice(
                number * group["running"].shape[1], (number + 1) * group["running"].shape[1]
            )
            taken = [
                jax.lax.dynamic_index_in_dim(other["running"], position + 1, 2, keepdims=False)
                for other in new_groups
            ]
            group = {**group, "beam_indices": beam_indices[:, own]}
            new_groups.append(_advance(group, logits[:, own], position, taken, config, prompt))
        return {"position": position + 1, "groups": new_groups, "cache": cache}

    state = jax.lax.while_loop(is_unfinished, step, state)
    tokens, scores = _best(state["groups"], config)
    return {"tokens": _pad_after_end(tokens, config), "scores": scores}


def _best(groups: list[State], config: GenerationConfig) -> tuple[jax.Array, jax.Array]:
    """The N best hypotheses of the only group, or of each the best that no group before has.

    A group that has found nothing else gives one that is there already.
    """
    if len(groups) == 1:
        count = config.num_return_sequences
        return groups[0]["finished"][:, :count], groups[0]["finished_scores"][:, :count]
    tokens, scores = groups[0]["finished"][:, :1], groups[0]["finished_scores"][:, :1]
    for group in groups[1:]:
        is_there = (group["finished"][:, :, None] == tokens[:, None]).all(-1).any(-1)
        is_new = group["is_finished"] & ~is_there
        best = jnp.argmax(jnp.where(is_new, group["finished_scores"], NO_SCORE), 1)[:, None]
        own = jnp.take_along_axis(group["finished"], best[..., None], axis=1)
        tokens = jnp.concatenate([tokens, own], axis=1)
        own_scores = jnp.take_along_axis(group["finished_scores"], best, axis=1)
        scores = jnp.concatenate([scores, own_scores], axis=1)
    scores, order = jax.lax.top_k(scores, config.num_return_sequences)
    return jnp.take_along_axis(tokens, order[..., None], axis=1), scores


def _init_group(decoder: CachedDecoder, beam_indices: jax.Array, config: GenerationConfig) -> State:
    shape = beam_indices.shape[:2]
    tokens = jnp.full((*shape, config.max_length), config.pad_id, jnp.int32)
    tokens = tokens.at[:, :, 0].set(config.bos_id)
    return {
        "running": tokens,
        # All hypotheses start equal: only one may be continued.
        "running_scores": jnp.full(shape, NO_SCORE).at[:, 0].set(0.0),
        "finished": tokens,
        "finished_scores": jnp.full(shape, NO_SCORE),
        "is_finished": jnp.zeros(shape, bool),
        "improvable": jnp.ones(decoder.batch, bool),
        "beam_indices": beam_indices,
    }


def _is_open(group: State, config: GenerationConfig) -> jax.Array:
    """Whether the search of an image goes on, bool `[B]`."""
    is_open = group["improvable"]
    if config.early_stopping is True:
        is_open = is_open & ~jnp.all(group["is_finished"], axis=1)
    return is_open


def _advance(
    group: State,
    logits: jax.Array,
    position: jax.Array,
    taken: list[jax.Array],
    config: GenerationConfig,
    prompt: Prompt | None,
) -> State:
    """A group after one more token of each hypothesis.

    Args:
        group: the group; its beam indices with the entries of this step.
        logits: of the token at `position` + 1, `[B, W, V]`.
        position: of the last token that is written.
        taken: the tokens that earlier groups have taken, int32 `[B, W]` each.
        config: the settings.
        prompt: what captions begin with.
    """
    generated = position + 1  # tokens that count to a score
    longest = jnp.int32(config.max_length - 1)
    lengths = jnp.int32(1) if prompt is None else prompt.lengths
    if config.has_constraints or (taken and config.diversity_penalty):
        logits = jax.nn.log_softmax(logits)
        logits = constrain(logits, group["running"], position, lengths, config)
        for tokens in taken:
            count = jax.nn.one_hot(tokens, logits.shape[-1]).sum(1, keepdims=True)
            logits = logits - config.diversity_penalty * count
        total = jnp.zeros((*logits.shape[:2], 1))
    else:
        total = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    if prompt is not None:
        logits, total, is_fixed = _fix(logits, total, prompt, position + 1)
        generated = jnp.maximum(generated - (lengths - 1), 1)
        longest = longest - (lengths - 1)
    candidates = _continuations(logits, total, group, position)
    has_ended = candidates["token"] == config.eos_id
    ends = has_ended | (position + 2 >= config.max_length)
    if prompt is not None:
        has_ended, ends = has_ended & ~is_fixed[:, None], ends & ~is_fixed[:, None]
    new = _select_running(candidates, has_ended, group)
    new |= _update_finished(candidates, ends, group, generated, config)
    new["improvable"] = group["improvable"] & _can_improve(new, generated, longest, config)
    return new


def _fix(
    logits: jax.Array, total: jax.Array, prompt: Prompt, position: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Logits and their total that leave the prompt's token alone where there is one, and where.

    The first hypothesis takes it at no cost; the others, which nothing has scored yet, stay empty.
    """
    token, is_fixed = prompt.at(position)
    only = jnp.where(jnp.arange(logits.shape[-1]) == token[:, None], 0.0, NO_SCORE)[:, None]
    is_row = is_fixed[:, None, None]
    return jnp.where(is_row, only, logits), jnp.where(is_row, 0.0, total), is_fixed


def _continuations(logits: jax.Array, total: jax.Array, state: State, position: jax.Array) -> State:
    """The 2W best of W * V continuations, best first: score, parent, token, tokens `[B, 2W, T]`.

    Their log-probabilities are `logits` less `total`.
    """
    width = logits.shape[1]
    # Normalization shifts all logits of a hypothesis alike: their order gives its best tokens.
    best, token = jax.lax.top_k(logits, 2 * width)
    scores = best - total + state["running_scores"][..., None]
    scores, order = jax.lax.top_k(scores.reshape(scores.shape[0], -1), 2 * width)
    parent = order // (2 * width)
    token = jnp.take_along_axis(token.reshape(token.shape[0], -1), order, axis=1)
    tokens = jnp.take_along_axis(state["running"], parent[..., None], axis=1)
    tokens = jax.lax.dynamic_update_slice_in_dim(tokens, token[..., None], position + 1, axis=2)
    return {"score": scores, "parent": parent, "token": token, "tokens": tokens}


def _select_running(candidates: State, ends: jax.Array, group: State) -> State:
    """The W best continuations that do not end, and where the cache holds their past."""
    beam_indices = group["beam_indices"]
    width = beam_indices.shape[1]
    scores, order = jax.lax.top_k(jnp.where(ends, NO_SCORE, candidates["score"]), width)
    parent = jnp.take_along_axis(candidates["parent"], order, axis=1)
    return {
        "running": jnp.take_along_axis(candidates["tokens"], order[..., None], axis=1),
        "running_scores": scores,
        "beam_indices": jnp.take_along_axis(beam_indices, parent[..., None], axis=1),
    }


def _update_finished(
    candidates: State,
    ends: jax.Array,
    state: State,
    length: jax.Array,
    config: GenerationConfig,
) -> State:
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
    state: State, length: jax.Array, longest: jax.Array, config: GenerationConfig
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
    """Tokens `[…, T]` with `pad_id` after the first `eos_id`, bos not counted."""
    ends = (tokens == config.eos_id).at[..., 0].set(False)
    after = jnp.cumsum(ends, axis=-1) - ends > 0
    return jnp.where(after, config.pad_id, tokens)
