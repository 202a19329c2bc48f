"""Custom augmentation operations: resolved from the configuration, run last, checked."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtag.augment import Augmentation
from jaxtag.config import AugmentationConfig, Config, DataConfig
from jaxtag.errors import UsageError

MODULE = "custom_operations"


@pytest.fixture(autouse=True)
def operations(tmp_path, monkeypatch):
    """A module outside of jaxtag with a few operations."""
    (tmp_path / f"{MODULE}.py").write_text(
        "import jax\n"
        "import jax.numpy as jnp\n"
        "def invert(images, keys):\n"
        "    return 255 - images\n"
        "def noise(images, keys):\n"
        "    draw = lambda key: jax.random.bits(key, images.shape[1:], jnp.uint8)\n"
        "    return jax.vmap(draw)(keys)\n"
        "def to_float(images, keys):\n"
        "    return images / 255\n"
    )
    monkeypatch.syspath_prepend(tmp_path)


def augmentation(*names: str, **fields) -> Augmentation:
    custom = tuple(f"{MODULE}:{name}" for name in names)
    config = Config(augmentation=AugmentationConfig(custom=custom, **fields))
    return Augmentation.from_config(config)


def random_images(count: int = 8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 4, 6, 3), np.uint8)


def test_from_config_takes_every_field() -> None:
    fields = {"crop_padding": 2, "mixup": 0.4, "random_erasing": 0.1, "alternating_flip": True}
    config = Config(data=DataConfig(flip=True), augmentation=AugmentationConfig(**fields))
    assert Augmentation.from_config(config) == Augmentation(flip=True, **fields)
    names = {field.name for field in dataclasses.fields(AugmentationConfig)} | {"flip"}
    assert names == {field.name for field in dataclasses.fields(Augmentation)}


def test_custom_operations_run_last() -> None:
    images, key = random_images(), jax.random.key(1)
    plain = augmentation(crop_padding=2).images(images, key)
    inverted = jax.jit(augmentation("invert", crop_padding=2).images)(images, key)
    np.testing.assert_array_equal(inverted, 255 - plain)


def test_each_example_and_each_operation_has_a_key_of_its_own() -> None:
    images = np.repeat(random_images(1), 4, axis=0)
    once = np.asarray(augmentation("noise").images(images, jax.random.key(1)))
    twice = np.asarray(augmentation("noise", "noise").images(images, jax.random.key(1)))
    assert len(np.unique(np.concatenate([once, twice]).reshape(8, -1), axis=0)) == 8
    again = jax.jit(augmentation("noise").images)(images, jax.random.key(1))
    np.testing.assert_array_equal(again, once)


def test_a_missing_operation_is_named() -> None:
    with pytest.raises(UsageError, match=r"config\.augmentation\.custom = .*did you mean invert"):
        augmentation("inver")


def test_an_operation_that_changes_the_dtype_is_refused() -> None:
    with pytest.raises(UsageError, match=r"to_float returned float32\[8, 4, 6, 3\], must return"):
        augmentation("to_float").images(jnp.asarray(random_images()), jax.random.key(0))
