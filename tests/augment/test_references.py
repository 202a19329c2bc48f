"""Each operation at fixed parameters against torchvision (benchmarks/make_augment_references.py).

Integer-valued operations are equal in every pixel. What torchvision computes in float32 and rounds
down, a last bit can take one level lower: there a value in fifty may differ, by one level.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file
from stored import REFERENCES

from jaxtag.augment import color, geometry, randaugment

STORED = load_file(REFERENCES / "augment.safetensors")
IMAGES = STORED["images"]
ROUNDED = ("Contrast", "Color", "Sharpness")


def assert_within_a_level(output: np.ndarray, expected: np.ndarray) -> None:
    difference = np.abs(np.asarray(output, np.int32) - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() <= 0.02


def looked_up(table):
    return lambda image, level: color.look_up(image, table(image, level))


def assert_stretched(images: np.ndarray, output: np.ndarray, expected: np.ndarray) -> None:
    """The exact quotient rounded down; torchvision's, by float32, may be one level below it (254
    for the brightest value)."""
    darkest, brightest = (of(images, (1, 2), keepdims=True).astype(int) for of in (np.min, np.max))
    exact = (images - darkest) * 255 // np.maximum(brightest - darkest, 1)
    np.testing.assert_array_equal(output, np.where(brightest == darkest, images, exact))
    assert set(np.unique(output.astype(int) - expected)) <= {0, 1}


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("brightness", looked_up(color.brightness)),
        ("contrast", looked_up(color.contrast)),
        ("saturation", color.saturation),
        ("sharpness", color.sharpness),
        ("hue", color.hue),
    ],
)
def test_colour(name, change):
    keys = [key for key in STORED if key.startswith(name + "/")]
    assert len(keys) >= 5
    levels = jnp.asarray([float(key.split("/")[1]) for key in keys], jnp.float32)
    every = jax.vmap(jax.vmap(change, in_axes=(0, None)), in_axes=(None, 0))
    output = np.asarray(jax.jit(every)(IMAGES, levels))
    expected = np.stack([STORED[key] for key in keys])
    assert output.dtype == np.uint8
    assert len(np.unique(expected.reshape(len(keys), -1), axis=0)) == len(keys)
    if name == "brightness":
        np.testing.assert_array_equal(output, expected)
    else:
        assert_within_a_level(output, expected)


@pytest.mark.parametrize(("mode", "padding"), [("constant", 4), ("reflect", 3)])
def test_crops_are_windows_of_the_padded_image(mode, padding):
    padded = STORED[f"pad/{mode}/{padding}"]
    height, width = IMAGES.shape[1:3]
    corners = np.array([[0, 0], [2 * padding, 1], [3, 2 * padding], [padding, padding]])
    output = geometry.crop(jnp.asarray(IMAGES), jnp.asarray(corners), padding, mode)
    for image, (y, x), wide in zip(output, corners, padded, strict=True):
        np.testing.assert_array_equal(image, wide[y : y + height, x : x + width])


def randaugment_cases(prefix: str) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
    """Names, and for each image under each operation: operation, level, expected image."""
    names, operations, levels, expected = [], [], [], []
    height, width = IMAGES.shape[1:3]
    for key in sorted(STORED):
        if not key.startswith(prefix + "randaugment/"):
            continue
        magnitude, name, sign = key.removeprefix(prefix + "randaugment/").split("/")
        operation = randaugment.OPERATIONS.index(name)
        names += [name] * len(IMAGES)
        operations += [[operation]] * len(IMAGES)
        level = randaugment.levels(int(magnitude), height, width)[operation]
        levels += [[int(sign) * level]] * len(IMAGES)
        expected.append(STORED[key])
    return names, np.array(operations), np.array(levels, np.float32), np.concatenate(expected)


@pytest.mark.parametrize("prefix", ["", "grey/"])
@pytest.mark.parametrize("form", [randaugment.one_by_one, randaugment.all_at_once])
def test_randaugment(form, prefix):
    """Both forms: the one for CPU and the one for accelerators."""
    names, operations, levels, expected = randaugment_cases(prefix)
    assert set(names) == set(randaugment.OPERATIONS)
    channels = 1 if prefix else 3
    images = np.tile(IMAGES[..., :channels], (len(names) // len(IMAGES), 1, 1, 1))
    output = np.asarray(jax.jit(form)(images, operations, levels))
    for name in randaugment.OPERATIONS:
        rows = np.array([other == name for other in names])
        if name in ROUNDED:
            assert_within_a_level(output[rows], expected[rows])
        elif name == "AutoContrast":
            assert_stretched(images[rows], output[rows], expected[rows])
        else:
            np.testing.assert_array_equal(output[rows], expected[rows], name)
        if name != "Identity" and (name, channels) != ("Color", 1):
            assert (expected[rows] != images[rows]).any()
