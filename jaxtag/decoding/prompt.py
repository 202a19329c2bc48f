"""Prompts: the tokens that captions begin with, as many as each image has."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from jaxtag.decoding.generation_config import GenerationConfig


class Prompt(NamedTuple):
    """The prompts of a batch.

    Attributes:
        tokens: int32 `[B, T]` by position in the caption; negative where none is fixed.
        lengths: int32 `[B]`, bos counted.
    """

    tokens: Int[Array, "B T"]
    lengths: Int[Array, " B"]

    @classmethod
    def make(cls, prompts: Int[Array, "B P"], config: GenerationConfig) -> "Prompt":
        """From the tokens after bos; negative ones fill a row after its prompt."""
        rest = config.max_length - 1 - prompts.shape[1]
        tokens = jnp.pad(prompts.astype(jnp.int32), ((0, 0), (1, rest)), constant_values=-1)
        return cls(tokens, (tokens >= 0).sum(1) + 1)

    def at(self, position: jax.Array) -> tuple[Int[Array, " B"], Bool[Array, " B"]]:
        """The token of each image at a position, and whether it is fixed."""
        tokens = jax.lax.dynamic_index_in_dim(self.tokens, position, axis=1, keepdims=False)
        return tokens, tokens >= 0


def without_prompts(
    found: dict[str, jax.Array], prompts: Int[Array, "B P"], pad_id: int
) -> dict[str, jax.Array]:
    """What `generate` returns, its tokens without those of the prompts after bos."""
    moved = dict(found)
    for name in {"tokens", "token_scores"} & set(found):
        values = found[name]
        length = values.shape[-1]
        lengths = (prompts >= 0).sum(1).reshape(-1, *(1,) * (values.ndim - 1))
        places = jnp.arange(length)
        places = jnp.broadcast_to(places + jnp.where(places > 0, lengths, 0), values.shape)
        kept = jnp.take_along_axis(values, jnp.minimum(places, length - 1), axis=-1)
        moved[name] = jnp.where(places < length, kept, pad_id)
    return moved
