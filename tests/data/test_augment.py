"""Augmentation inside the step: right values, a draw for each example, the same on any mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxtag.data.augment import augment, normalize
from jaxtag.models.preprocessing import IMAGENET_MEAN, IMAGENET_STD


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (64, 6, 8, 3), np.uint8)


def test_about_half_are_mirrored_and_nothing_else_changes(images):
    out = np.asarray(jax.jit(augment)(images, jax.random.key(0)))
    assert out.dtype == np.uint8
    same = (out == images).all((1, 2, 3))
    mirrored = (out == images[:, :, ::-1]).all((1, 2, 3))
    assert (same ^ mirrored).all()
    assert 16 < mirrored.sum() < 48
    other = np.asarray(augment(images, jax.random.key(1)))
    assert (other != out).any()


def test_without_any_it_is_the_identity(images):
    out = augment(images, jax.random.key(0), flip=False)
    np.testing.assert_array_equal(out, images)


def test_shifts_stay_within_their_limit_and_repeat_the_edge(images):
    out = np.asarray(augment(images, jax.random.key(0), flip=False, max_shift=2))
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="edge")
    seen = set()
    for shifted, wide in zip(out, padded, strict=True):
        fits = [
            (y, x)
            for y in range(5)
            for x in range(5)
            if (wide[y : y + 6, x : x + 8] == shifted).all()
        ]
        assert len(fits) == 1
        seen.add(fits[0])
    assert len(seen) > 12


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_normalisation(images, dtype):
    out = normalize(images, IMAGENET_MEAN, IMAGENET_STD, dtype)
    assert out.dtype == dtype
    expected = (images / 255 - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD)
    tolerance = 1e-5 if dtype == jnp.float32 else 0.02
    np.testing.assert_allclose(np.asarray(out, np.float32), expected, atol=tolerance)


@pytest.mark.parametrize("shape", [(8, 1), (4, 2), (2, 4)])
def test_every_mesh_gives_what_one_device_gives(images, shape):
    key = jax.random.key(3)
    expected = augment(images, key, max_shift=1)
    mesh = Mesh(np.array(jax.devices()).reshape(shape), ("data", "tensor"))
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    step = jax.jit(lambda x, k: augment(x, k, max_shift=1), out_shardings=sharding)
    np.testing.assert_array_equal(step(jax.device_put(images, sharding), key), expected)
