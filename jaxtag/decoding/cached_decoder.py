"""The decoder run one token at a time with a key-value cache."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxtag.decoding.generation_config import GenerationConfig
from jaxtag.models.decoder import Captioner, DecoderBlock

Cache = list[tuple[jax.Array, jax.Array]]  # keys and values [B, H, T * W, d] of each layer
Memory = list[tuple[jax.Array, jax.Array]]  # keys and values [B, H, N, d] of the image, likewise


def encode(model: Captioner, variables: dict[str, Any], images: jax.Array) -> Memory:
    """What the decoder's layers attend to of images, normalized `[B, H, W, 3]`."""
    block = DecoderBlock(**model.decoder.block_fields())
    layers = model.decoder.layer_params(_cast_matrices(model, variables))
    features: Any = model.apply(variables, images, method="encode")
    memory: Memory = []
    for layer in layers:
        read: Any = partial(block.apply, {"params": layer}, method="read_memory")
        features, keys_values = read(features)
        memory.append(keys_values)
    return memory


def _cast_matrices(model: Captioner, variables: dict[str, Any]) -> dict[str, Any]:
    """The decoder's parameters, its matrices in its dtype: cast once, not in each iteration."""
    dtype = model.decoder.dtype
    params = variables["params"]["decoder"]
    return jax.tree.map(lambda p: p.astype(dtype) if p.ndim > 1 else p, params)


class CachedDecoder:
    """A captioner's decoder as a function of one token per hypothesis and its cache.

    The cache holds keys and values `[B, H, T * W, d]` per layer, position-major (after the image's
    N, of a decoder that reads it as a prefix). A hypothesis never moves in it: `beam_indices` int32
    `[B, W, T]` says which of the W entries at each position belongs to its past, so that beam
    search reorders a small table of integers instead of the cache.

    Args:
        model: the captioner.
        variables: its variables.
        memory: of the images, from `encode`.
        config: sets the number of hypotheses per image and the length of the cache.

    Attributes:
        batch: B.
        width: W, the number of hypotheses per image.
        length: T, the maximum number of tokens.
    """

    def __init__(
        self,
        model: Captioner,
        variables: dict[str, Any],
        memory: Memory,
        config: GenerationConfig,
    ) -> None:
        decoder = model.decoder.clone(parent=None)
        self._decoder, self._params = decoder, _cast_matrices(model, variables)
        self._layers = decoder.layer_params(self._params)
        self._block = DecoderBlock(**decoder.block_fields())
        self._memory = memory
        self._is_prefix = decoder.form == "prefix"
        self._prefix_length = memory[0][0].shape[2] if self._is_prefix else 0
        self.batch = memory[0][0].shape[0]
        self.width = config.num_hypotheses
        self.length = config.max_length

    def init_cache(self) -> tuple[Cache, jax.Array]:
        """Returns a cache that is empty but for a prefix, and beam indices of -1."""
        heads = self._decoder.heads
        shape = (self.batch, heads, self.length * self.width, self._decoder.width // heads)
        empty = jnp.zeros(shape, self._decoder.dtype)
        beam_indices = jnp.full((self.batch, self.width, self.length), -1, jnp.int32)
        cache = [(empty, empty) for _ in self._layers]
        if self._is_prefix:
            cache = [
                (jnp.concatenate([keys, empty], 2), jnp.concatenate([values, empty], 2))
                for keys, values in self._memory
            ]
        return cache, beam_indices

    def __call__(
        self, tokens: jax.Array, position: jax.Array, cache: Cache, beam_indices: jax.Array
    ) -> tuple[jax.Array, Cache, jax.Array]:
        """Runs the decoder on tokens int32 `[B, W]` at `position`.

        Returns:
            (logits `[B, W, V]` of the next token, cache, beam indices).
        """
        entries = jnp.arange(self.width, dtype=jnp.int32)
        own = jnp.broadcast_to(entries[None, :, None], (self.batch, self.width, 1))
        beam_indices = jax.lax.dynamic_update_slice_in_dim(beam_indices, own, position, axis=2)
        mask = beam_indices[..., None] == entries
        mask = mask.reshape(self.batch, 1, self.width, self.length * self.width)
        start = position * self.width
        if self._is_prefix:
            seen = jnp.ones((*mask.shape[:3], self._prefix_length), bool)
            mask, start = jnp.concatenate([seen, mask], axis=3), start + self._prefix_length

        apply: Any = partial(self._decoder.apply, {"params": self._params})
        x = apply(tokens[..., None], position[None], method="embed")[:, :, 0]
        new_cache: Cache = []
        for layer, past, memory in zip(self._layers, cache, self._memory, strict=True):
            step: Any = partial(self._block.apply, {"params": layer}, method="step")
            x, past = step(x, past, None if self._is_prefix else memory, start, mask)
            new_cache.append(past)
        return apply(x, method="logits"), new_cache, beam_indices
