"""Adapts weights to a model with other classes, another image size or other input channels."""

import math
import re
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from jaxtag.models.vit import ViT, interpolate_positions

# What can be adapted, and how.
ADAPTATIONS = {
    "head": "starts the classifier anew",
    "image_size": "interpolates position embeddings",
    "channels": "sums or repeats the first kernel's channels",
}
HEADS = ("params/head/", "params/head_dist/")  # paths of classifiers
Shape = tuple[int, ...]
_TEXT = re.compile(r"/(text_en|de)coder/")  # paths of models of texts


def model_inputs(
    model: nn.Module, channels: int, image_size: int | None
) -> list[jax.ShapeDtypeStruct]:
    """The arguments of `model.init`, for one image."""
    encoder: Any = getattr(model, "image_encoder", getattr(model, "encoder", model))
    size: Any = image_size or getattr(encoder, "image_size", 224)
    height, width = (size, size) if isinstance(size, int) else size
    images = jax.ShapeDtypeStruct((1, height, width, channels), np.float32)
    if hasattr(model, "decoder"):
        return [images, jax.ShapeDtypeStruct((1, 1, 2), np.int32)]
    if hasattr(model, "text_encoder"):
        return [images, jax.ShapeDtypeStruct((1, 2), np.int32)]
    return [images]


def variable_shapes(model: nn.Module, inputs: list[jax.ShapeDtypeStruct]) -> dict[str, Shape]:
    """The shapes of all variables of a model, by path."""
    variables = jax.eval_shape(model.init, jax.random.key(0), *inputs)
    return {path: leaf.shape for path, leaf in flatten_dict(variables, sep="/").items()}


def adaptation_for(path: str, shape: Shape | None, expected: Shape) -> str | None:
    """Which of `ADAPTATIONS`, if any, makes a variable fit.

    Args:
        path: of the variable.
        shape: of the variable in the file; None where it is missing.
        expected: its shape in the model.
    """
    if path.startswith(HEADS):
        return "head"
    if shape is None or len(shape) != len(expected):
        return None
    if path.endswith("/pos_embed") and shape[1] == expected[1] and not _TEXT.search(path):
        return "image_size"
    same_but_channels = shape[:2] + shape[3:] == expected[:2] + expected[3:]
    if len(expected) == 4 and same_but_channels and (expected[2] == 1 or shape[2] == 3):
        return "channels"
    return None


def initial_values(
    model: nn.Module, paths: list[str], inputs: list[jax.ShapeDtypeStruct]
) -> Mapping[str, np.ndarray]:
    """The variables at `paths` as the model initializes them; nothing else is computed."""

    @jax.jit
    def initialize() -> dict[str, jax.Array]:
        zeros = [jnp.zeros(leaf.shape, leaf.dtype) for leaf in inputs]
        flat = flatten_dict(model.init(jax.random.key(0), *zeros), sep="/")
        return {path: flat[path] for path in paths}

    return jax.device_get(initialize()) if paths else {}


def resize_position_embeddings(embeddings: np.ndarray, model: ViT) -> np.ndarray:
    """Interpolates position embeddings `[extra + h * h, D]` to the grid of `model`, bicubically.

    Raises:
        ValueError: they are not of a square grid.
    """
    extra = model.num_positioned_tokens
    side = math.isqrt(len(embeddings) - extra)
    if side * side + extra != len(embeddings):
        raise ValueError(f"{len(embeddings)} position embeddings are not those of a square image")
    size = model.image_size
    height, width = (size, size) if isinstance(size, int) else size
    grid = jnp.asarray(embeddings[extra:].reshape(side, side, -1))
    shape = height // model.patch_size, width // model.patch_size
    resized = np.asarray(interpolate_positions(grid, shape, antialias=model.registers > 0))
    return np.concatenate([embeddings[:extra], resized.reshape(-1, embeddings.shape[1])])


def adapt_first_kernel(kernel: np.ndarray, channels: int) -> np.ndarray:
    """Adapts a kernel `[h, w, C, features]` to images of `channels`, as timm does.

    One channel: the sum over the C channels, so that a grayscale image gives what C equal channels
    gave. More: repeated cyclically and scaled by C / channels, so that the output keeps its
    magnitude.
    """
    if channels == 1:
        return kernel.sum(2, keepdims=True)
    original = kernel.shape[2]
    repeated = np.tile(kernel, (1, 1, -(-channels // original), 1))[:, :, :channels]
    return repeated * np.float32(original / channels)
