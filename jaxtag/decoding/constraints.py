"""What captions must not say, by what they have said: with the meaning it has in transformers."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxtag.decoding.generation_config import GenerationConfig

# Score of excluded tokens. Finite, because sums and products with it must stay numbers.
NO_SCORE = -1.0e9


def constrain(
    scores: Float[Array, "B W V"],
    tokens: Int[Array, "B W T"],
    position: jax.Array,
    prompt_lengths: Int[Array, "*B"],
    config: GenerationConfig,
) -> Float[Array, "B W V"]:
    """Scores of the tokens that follow, changed as `config` has it.

    Args:
        scores: logits, or log-probabilities.
        tokens: of each hypothesis.
        position: of the last of them that is written.
        prompt_lengths: of each image, bos counted; or the one of all.
        config: `repetition_penalty`, `no_repeat_ngram_size` and `min_new_tokens` count.
    """
    if config.repetition_penalty != 1.0:
        written = jnp.broadcast_to(jnp.arange(tokens.shape[-1]) <= position, tokens.shape)
        penalty = config.repetition_penalty
        penalized = jnp.where(scores < 0, scores * penalty, scores / penalty)
        scores = jnp.where(_mark(tokens, written, scores.shape[-1]), penalized, scores)
    if config.no_repeat_ngram_size:
        following, would_repeat = _repetitions(tokens, position, config.no_repeat_ngram_size)
        scores = jnp.where(_mark(following, would_repeat, scores.shape[-1]), NO_SCORE, scores)
    if config.min_new_tokens:
        is_short = position + 1 - prompt_lengths < config.min_new_tokens
        is_end = jnp.arange(scores.shape[-1]) == config.eos_id
        scores = jnp.where(is_short.reshape(-1, 1, 1) & is_end, NO_SCORE, scores)
    return scores


def _repetitions(
    tokens: Int[Array, "B W T"], position: jax.Array, size: int
) -> tuple[Int[Array, "B W T"], Bool[Array, "B W T"]]:
    """The last token of the n-gram that starts at each position, and whether it would repeat.

    It would where its first `size - 1` tokens are the last ones that are written.
    """
    starts = jnp.arange(tokens.shape[-1])
    last = position - size + 2  # where the n-gram starts that the next token ends
    would_repeat = jnp.broadcast_to((starts < last) & (last >= 0), tokens.shape)
    for offset in range(size - 1):
        newest = jax.lax.dynamic_index_in_dim(tokens, last + offset, axis=-1)
        would_repeat &= jnp.roll(tokens, -offset, axis=-1) == newest
    return jnp.roll(tokens, 1 - size, axis=-1), would_repeat


def _mark(
    tokens: Int[Array, "B W T"], is_meant: Bool[Array, "B W T"], vocab_size: int
) -> Bool[Array, "B W V"]:
    """Whether a token of the vocabulary is among those that are meant."""

    def mark(tokens: jax.Array) -> jax.Array:
        return jnp.zeros(vocab_size, bool).at[tokens].set(True, mode="drop")

    return jax.vmap(jax.vmap(mark))(jnp.where(is_meant, tokens, vocab_size))
