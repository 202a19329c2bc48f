"""What every way of making captions shares: its settings, and the decoder one token at a time."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxtag.models.captioner import Captioner
from jaxtag.models.decoder import DecoderBlock

METHODS = ("greedy", "beam", "sample")


@dataclass(frozen=True)
class GenerationConfig:
    """How captions are made; each distinct one is compiled once for a shape of batch.

    method: "greedy", "beam" or "sample".
    max_length: tokens of a caption at most, the first (`bos_id`) and `eos_id` included.
    beam_size: hypotheses a picture (beam).
    length_penalty: a finished hypothesis scores log-probability / (tokens after the first) **
      length_penalty (beam).
    early_stopping: what ends the search of a picture once `beam_size` hypotheses have finished,
      with the meaning it has in transformers: True: at once; False: when the best running one,
      scored at its present length, is worse than the worst finished one; "never": the same with
      the length that would be best for it, so that nothing better can be missed.
    temperature, top_k, top_p: sample from the top_k likeliest tokens (0: all), of those from the
      fewest that hold top_p of the probability.
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
        for complaint, good in checks.items():
            if not good:
                raise ValueError(f"{complaint}; got {self}")


class CachedDecoder:
    """A captioner's decoder as a function of one token for each hypothesis and its cache.

    The cache is a list of (keys, values) `[B, H, T * W, d]`, one pair a layer, position-major. A
    hypothesis never moves in it: `slots` says which of the W places of each position holds its
    past, so that beam search reorders a small table of integers instead of the cache.
    """

    def __init__(
        self,
        model: Captioner,
        variables: dict[str, Any],
        images: jax.Array,
        settings: GenerationConfig,
    ) -> None:
        decoder = model.decoder.clone(parent=None)
        # Matrices are cast once here, not in each turn of the loop.
        params = jax.tree.map(
            lambda p: p.astype(decoder.dtype) if p.ndim > 1 else p, variables["params"]["decoder"]
        )
        self.decoder, self.params = decoder, params
        self.layers = decoder.layer_params(params)
        self.block = DecoderBlock(**decoder.block_fields())
        memory = model.apply(variables, images, method="encode")
        self.memory = [
            self.block.apply({"params": layer}, memory, method="project_memory")
            for layer in self.layers
        ]
        self.batch = images.shape[0]
        self.width = settings.beam_size if settings.method == "beam" else 1
        self.length = settings.max_length

    def start(self) -> tuple[list[tuple[jax.Array, jax.Array]], jax.Array]:
        """An empty cache, and `slots` int32 `[B, W, T]` (-1: nothing there)."""
        heads = self.decoder.heads
        shape = (self.batch, heads, self.length * self.width, self.decoder.width // heads)
        empty = jnp.zeros(shape, self.decoder.dtype)
        slots = jnp.full((self.batch, self.width, self.length), -1, jnp.int32)
        return [(empty, empty) for _ in self.layers], slots

    def __call__(
        self, tokens: jax.Array, position: jax.Array, cache: Any, slots: jax.Array
    ) -> tuple[jax.Array, Any, jax.Array]:
        """Tokens int32 `[B, W]` at `position` -> logits `[B, W, V]`, cache and slots."""
        places = jnp.arange(self.width, dtype=jnp.int32)
        here = jnp.broadcast_to(places[None, :, None], (self.batch, self.width, 1))
        slots = jax.lax.dynamic_update_slice_in_dim(slots, here, position, axis=2)
        mask = slots[..., None] == places
        mask = mask.reshape(self.batch, 1, self.width, self.length * self.width)

        apply = partial(self.decoder.apply, {"params": self.params})
        x = apply(tokens[..., None], position[None], method="embed")[:, :, 0]
        new_cache = []
        for layer, past, memory in zip(self.layers, cache, self.memory, strict=True):
            x, past = self.block.apply(
                {"params": layer}, x, past, memory, position, mask, method="step"
            )
            new_cache.append(past)
        return apply(x, method="logits"), new_cache, slots
