"""Generation settings, and the decoder run one token at a time with a key-value cache."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxtag.models.decoder import Captioner, DecoderBlock

METHODS = ("greedy", "beam", "sample")
Cache = list[tuple[jax.Array, jax.Array]]  # keys and values [B, H, T * W, d] of each layer
Memory = list[tuple[jax.Array, jax.Array]]  # keys and values [B, H, N, d] of the image, likewise


@dataclass(frozen=True)
class GenerationConfig:
    """How captions are generated; each distinct configuration compiles once per batch shape.

    Attributes:
        method: "greedy", "beam" or "sample".
        max_length: maximum number of tokens, `bos_id` and `eos_id` included.
        beam_size: hypotheses per image (beam).
        length_penalty: a finished hypothesis scores log-probability / (tokens after the first) **
            length_penalty (beam).
        early_stopping: when the search of an image ends once `beam_size` hypotheses have finished,
            with the meaning it has in transformers. True: at once. False: when the best running
            hypothesis, scored at its current length, is worse than the worst finished one. "never":
            the same, scored at the length that is best for it, so that nothing better is missed.
        temperature: divides the logits (sample).
        top_k: sample from the `top_k` most likely tokens; 0: from all.
        top_p: of those, from the fewest that hold `top_p` of the probability.
        bos_id: first token of every caption.
        eos_id: token that ends a caption.
        pad_id: token after the end.
    """

    method: str = "greedy"
    max_length: int = 32
    beam_size: int = 4
    length_penalty: float = 1.0
    early_stopping: bool | str = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    bos_id: int = 1
    eos_id: int = 2
    pad_id: int = 0

    def __post_init__(self) -> None:
        checks = {
            f"method must be one of {', '.join(METHODS)}": self.method in METHODS,
            "max_length must be at least 2": self.max_length >= 2,
            "beam_size must be at least 1": self.beam_size >= 1,
            'early_stopping must be True, False or "never"': self.early_stopping
            in (True, False, "never"),
            "temperature must be above 0": self.temperature > 0,
            "top_k must be at least 0": self.top_k >= 0,
            "top_p must lie in (0, 1]": 0 < self.top_p <= 1,
        }
        for message, valid in checks.items():
            if not valid:
                raise ValueError(f"{message}; got {self}")


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
        self.width = config.beam_size if config.method == "beam" else 1
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
