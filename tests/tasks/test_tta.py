"""Predictions over several views of a picture."""

import numpy as np
import pytest

from jaxtag.tasks import tta

WEIGHTS = np.arange(7 * 6).reshape(7, 6) / 10


def model(images):
    return (images * WEIGHTS[None, :, :, None]).sum((1, 2)) ** 2


@pytest.mark.parametrize(("mirror", "shift"), [(False, 0), (True, 0), (False, 2), (True, 1)])
def test_the_mean_over_views(mirror, shift):
    images = np.random.default_rng(0).normal(size=(3, 7, 6, 2)).astype(np.float32)
    padded = np.pad(images, ((0, 0), (shift, shift), (shift, shift), (0, 0)), mode="reflect")
    moved = [padded[:, :7, :6], padded[:, 2 * shift :, 2 * shift :]]

    def mean(view):
        return (model(view) + model(view[:, :, ::-1])) / 2 if mirror else model(view)

    expected = mean(images)
    if shift:
        expected = expected / 2 + mean(moved[0]) / 4 + mean(moved[1]) / 4
    predictions = tta.predict(model, images, flip=mirror, shift=shift)
    np.testing.assert_allclose(predictions, expected, rtol=1e-4)
