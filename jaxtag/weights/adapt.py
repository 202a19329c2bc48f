"""Weights of a model with other classes, another image size or other channels, made to fit."""

import math
from collections.abc import Mapping

import flax.linen as nn
import jax
import numpy as np
from flax.traverse_util import flatten_dict

from jaxtag.models.vit import interpolate_positions

# What can be adapted -> how.
ADAPTATIONS = {
    "head": "starts the classifier anew",
    "image_size": "interpolates position embeddings",
    "channels": "sums or repeats the first kernel's channels",
}
Shapes = Mapping[str, tuple[int, ...]]


def inputs(model: nn.Module, channels: int, image_size: int | None) -> list[jax.ShapeDtypeStruct]:
    """What `model.init` takes."""
    size = image_size or getattr(getattr(model, "encoder", model), "image_size", 224)
    height, width = (size, size) if isinstance(size, int) else size
    images = jax.ShapeDtypeStruct((1, height, width, channels), np.float32)
    tokens = jax.ShapeDtypeStruct((1, 1, 2), np.int32)
    return [images, tokens] if hasattr(model, "decoder") else [images]


def shapes(model: nn.Module, arguments: list[jax.ShapeDtypeStruct]) -> Shapes:
    """Path -> shape of all variables of a model."""
    found = jax.eval_shape(model.init, jax.random.key(0), *arguments)
    return {path: leaf.shape for path, leaf in flatten_dict(found, sep="/").items()}


def adaptation_for(path: str, found: tuple[int, ...] | None, wanted: tuple[int, ...]) -> str | None:
    """Which of `WORDS` makes a variable of shape `found` (None: missing) fit, if any does."""
    if path.startswith("params/head/"):
        return "head"
    if found is None or len(found) != len(wanted):
        return None
    if path.endswith("/pos_embed") and found[1] == wanted[1] and "decoder" not in path:
        return "image_size"
    others = found[:2] + found[3:] == wanted[:2] + wanted[3:]
    if len(wanted) == 4 and others and (wanted[2] == 1 or found[2] == 3):
        return "channels"
    return None


def fresh(
    model: nn.Module, paths: list[str], arguments: list[jax.ShapeDtypeStruct]
) -> dict[str, np.ndarray]:
    """The variables at `paths` as the model itself starts them; nothing else is computed."""

    @jax.jit
    def start() -> dict[str, jax.Array]:
        zeros = [jax.numpy.zeros(a.shape, a.dtype) for a in arguments]
        flat = flatten_dict(model.init(jax.random.key(0), *zeros), sep="/")
        return {path: flat[path] for path in paths}

    return jax.device_get(start()) if paths else {}


def positions(array: np.ndarray, model: nn.Module, wanted: tuple[int, ...]) -> np.ndarray:
    """Position embeddings `[extra + h * h, D]` for the grid of `model`, bicubically.

    Raises ValueError where they are not of a square grid.
    """
    extra = int(model.class_token)
    side = math.isqrt(len(array) - extra)
    if side * side + extra != len(array):
        raise ValueError(f"{len(array)} position embeddings are not those of a square picture")
    size = model.image_size
    pair = (size, size) if isinstance(size, int) else size
    grid = array[extra:].reshape(side, side, -1)
    grid = interpolate_positions(grid, tuple(s // model.patch_size for s in pair))
    return np.concatenate([array[:extra], np.asarray(grid).reshape(-1, wanted[1])])


def first_kernel(kernel: np.ndarray, channels: int) -> np.ndarray:
    """A kernel `[h, w, C, features]` for pictures of `channels`, as timm adapts it.

    One channel: the sum over theirs, so that grey pictures give what equal channels gave. More:
    repeated in turn and scaled by C / channels, so that the output keeps its size.
    """
    if channels == 1:
        return kernel.sum(2, keepdims=True)
    theirs = kernel.shape[2]
    repeated = np.tile(kernel, (1, 1, -(-channels // theirs), 1))[:, :, :channels]
    return repeated * np.float32(theirs / channels)
