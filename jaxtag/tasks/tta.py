"""Test-time augmentation: predictions averaged over several views of an image."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def predict(
    model: Callable[[jax.Array], Any], images: jax.Array, *, flip: bool, shift: int
) -> jax.Array:
    """The mean of `model(view)` over the views of `images` [B, H, W, C].

    The views are the image; with `flip` also its mirror image; with `shift` both shifted to the
    upper left and to the lower right by as many pixels, the border reflected: these two have half
    of the weight, as in airbench (Jordan 2024, arXiv:2404.00498, section 3.5).
    """
    views, weights = [images], [1.0]
    if shift:
        border = (shift, shift)
        padded = jnp.pad(images, ((0, 0), border, border, (0, 0)), mode="reflect")
        height, width = images.shape[1:3]
        views += [padded[:, :height, :width], padded[:, 2 * shift :, 2 * shift :]]
        weights = [0.5, 0.25, 0.25]
    if flip:
        views += [view[:, :, ::-1] for view in views]
        weights = [weight / 2 for weight in weights * 2]
    if len(views) == 1:
        return model(images)
    # One after another, compiled once.
    predictions = jax.lax.map(model, jnp.stack(views))
    return jnp.tensordot(jnp.asarray(weights, predictions.dtype), predictions, 1)
