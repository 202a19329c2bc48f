"""Augmentation inside the step: right values, a draw for each example, the same on any mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from scipy import ndimage, stats

from jaxtag.augment import Augmentation, geometry, normalize, randaugment, rng
from jaxtag.errors import UsageError
from jaxtag.models.preprocessing import IMAGENET_MEAN, IMAGENET_STD

EVERYTHING = Augmentation(
    flip=True,
    affine=(10.0, 0.1, 0.1),
    crop_padding=2,
    crop_padding_mode="reflect",
    randaugment=(2, 9),
    color_jitter=(0.4, 0.4, 0.4, 0.1),
    random_erasing=0.5,
    mixup=0.2,
    cutmix=1.0,
)

pytestmark = pytest.mark.usefixtures("fused_as_usual")


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (64, 6, 8, 3), np.uint8)


def test_about_half_are_mirrored_and_nothing_else_changes(images):
    flip = Augmentation(flip=True).images
    out = np.asarray(jax.jit(flip)(images, jax.random.key(0)))
    assert out.dtype == np.uint8
    same = (out == images).all((1, 2, 3))
    mirrored = (out == images[:, :, ::-1]).all((1, 2, 3))
    assert (same ^ mirrored).all()
    assert 16 < mirrored.sum() < 48
    other = np.asarray(flip(images, jax.random.key(1)))
    assert (other != out).any()


def test_alternating_flip_shows_both_sides_in_two_passes(images):
    flip = Augmentation(flip=True, alternating_flip=True).images
    index = np.arange(100, 164, dtype=np.int32)
    passes = []
    for epoch in range(3):
        # The key and the place in the batch change nothing.
        order = np.random.default_rng(epoch).permutation(64)
        batch = {"index": index[order], "epoch": np.full(64, epoch, np.int32)}
        out = np.asarray(flip(images[order], jax.random.key(epoch), batch))
        mirrored = (out == images[order][:, :, ::-1]).all((1, 2, 3))
        assert (mirrored ^ (out == images[order]).all((1, 2, 3))).all()
        passes.append(mirrored[np.argsort(order)])
    assert 16 < passes[0].sum() < 48
    np.testing.assert_array_equal(passes[1], ~passes[0])
    np.testing.assert_array_equal(passes[2], passes[0])


def test_without_any_it_is_the_identity(images):
    out = Augmentation().images(images, jax.random.key(0))
    np.testing.assert_array_equal(out, images)
    labels = np.eye(64, dtype=np.float32)
    normalized = images.astype(np.float32)
    mixed, soft = Augmentation().mix(normalized, labels, jax.random.key(0))
    np.testing.assert_array_equal(mixed, normalized)
    np.testing.assert_array_equal(soft, labels)


@pytest.mark.parametrize(("border", "shift"), [("edge", 2), ("constant", 3), ("reflect", 1)])
def test_crops_are_uniform_over_all_offsets(border, shift):
    images = np.random.default_rng(0).integers(1, 256, (1, 6, 8, 1), np.uint8)
    count, sides = 2048, 2 * shift + 1
    many = np.broadcast_to(images, (count, *images.shape[1:]))
    policy = Augmentation(crop_padding=shift, crop_padding_mode=border)
    out = np.asarray(jax.jit(policy.images)(many, jax.random.key(0)))
    padded = np.pad(images[0], ((shift, shift), (shift, shift), (0, 0)), mode=border)
    seen = np.zeros((sides, sides), int)
    for y in range(sides):
        for x in range(sides):
            seen[y, x] = (out == padded[y : y + 6, x : x + 8]).all((1, 2, 3)).sum()
    assert seen.sum() == count
    # Chi-square with (2 shift + 1)^2 - 1 degrees of freedom, five deviations above its mean.
    freedom = sides**2 - 1
    expected = count / sides**2
    assert ((seen - expected) ** 2 / expected).sum() < freedom + 5 * np.sqrt(2 * freedom)


@pytest.mark.parametrize(
    "by",
    [(30.0, 0.0, 0.0), (-90.0, 0.0, 0.0), (0.0, 0.3, 0.0), (0.0, 0.0, -0.2), (12.0, -0.2, 0.1)],
)
def test_warped_images_equal_scipys(images, by):
    """In every pixel, black borders included."""
    angle, slope, scale = np.deg2rad(by[0]), by[1], 1 + by[2]
    turned = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    sheared = np.array([[1, 0], [slope, 1]])  # of (row, column)
    inverse = turned @ sheared / scale
    center = (np.array(images.shape[1:3]) - 1) / 2
    offset = center - inverse @ center
    expected = [
        ndimage.affine_transform(
            plane.astype(float), inverse, offset, order=1, mode="grid-constant"
        )
        for plane in np.moveaxis(images[:4], -1, 1).reshape(-1, *images.shape[1:3])
    ]
    expected = np.moveaxis(np.reshape(expected, (4, 3, *images.shape[1:3])), 1, -1)
    warp = jax.jit(jax.vmap(lambda image: geometry.warp(image, geometry.inverse_affine(*by))))
    warped = np.asarray(warp(images[:4]))
    assert warped.dtype == np.uint8
    assert np.abs(warped - expected).max() <= 0.51


def test_rotations_shears_and_scales_are_uniform_in_their_limits():
    limits = (10.0, 0.2, 0.5)
    parameters = np.asarray(geometry.draw_affine(jax.random.key(0), 2048, limits)) / limits
    assert np.abs(parameters).max() <= 1
    assert (np.abs(np.corrcoef(parameters.T)[np.triu_indices(3, 1)]) < 0.1).all()
    for values in parameters.T:
        assert stats.kstest(values, stats.uniform(-1, 2).cdf).pvalue > 1e-4


def test_randaugment_draws_every_operation_and_both_directions_alike():
    """Each operation does something to this image that no other one does."""
    image = np.random.default_rng(2).integers(20, 230, (1, 24, 24, 3), np.uint8)
    count = 2800
    many = np.broadcast_to(image, (count, *image.shape[1:]))
    out = np.asarray(
        jax.jit(lambda x, k: randaugment.random_augment(x, k, 1, 15))(many, jax.random.key(0))
    )
    results = []
    for operation, level in enumerate(randaugment.levels(15, 24, 24)):
        signed = randaugment.OPERATIONS[operation] in randaugment.SIGNED
        for sign in (1, -1) if signed else (1,):
            results.append((operation, sign * level, signed))
    operations, levels = (np.array([[row[i]] for row in results]) for i in (0, 1))
    one_each = np.asarray(
        randaugment.apply(many[: len(results)], operations, levels.astype(np.float32))
    )
    counts = np.array([(out == one).all((1, 2, 3)).sum() for one in one_each])
    assert counts.sum() == count
    expected = np.array([count / 14 / (2 if signed else 1) for *_, signed in results])
    freedom = len(results) - 1
    assert ((counts - expected) ** 2 / expected).sum() < freedom + 5 * np.sqrt(2 * freedom)


def test_color_jitter_draws_within_its_strengths():
    """Gray images keep their hue and saturation: brightness alone is what their level shows."""
    images = np.full((512, 4, 4, 3), 100, np.uint8)
    policy = Augmentation(color_jitter=(0.4, 0.0, 0.4, 0.1))
    out = np.asarray(jax.jit(policy.images)(images, jax.random.key(0)))
    assert (out == out[:, :1, :1, :1]).all()
    level = out[:, 0, 0, 0].astype(float)
    assert 59 <= level.min() < 62
    assert 136 < level.max() <= 140
    # Uniform from 60 to 140, rounded down once or twice: mean 99 to 99.5, its deviation 1.02.
    assert abs(level.mean() - 99.2) < 4


def test_normalization(images):
    out = normalize(images, IMAGENET_MEAN, IMAGENET_STD)
    assert out.dtype == jnp.float32
    expected = (images / 255 - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD)
    np.testing.assert_allclose(out, expected, atol=1e-5)
    gray = normalize(images, (0.25,), (0.5,), grayscale=True)
    expected = (images.mean(-1, keepdims=True) / 255 - 0.25) / 0.5
    np.testing.assert_allclose(gray, expected, atol=1e-5)


def step(images, labels, key):
    one, two = jax.random.split(key)
    augmented = EVERYTHING.images(images, one)
    return augmented, *EVERYTHING.mix(normalize(augmented, 0.5, 0.25), labels, two)


@pytest.mark.parametrize("shape", [pytest.param((8, 1), marks=pytest.mark.slow), (2, 4)])
def test_every_mesh_gives_what_one_device_gives(images, shape):
    """Bit for bit, every part on, mixing across the devices' borders."""
    key, labels = jax.random.key(3), np.eye(10, dtype=np.float32)[np.arange(64) % 10]
    expected = jax.jit(step)(images, labels, key)
    mesh = Mesh(np.array(jax.devices()).reshape(shape), ("data", "tensor"))
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    batch = jax.device_put((images, labels), sharding)
    results = jax.jit(step, out_shardings=sharding)(*batch, key)
    for one, other in zip(results, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_on_a_mesh_the_form_for_accelerators_needs_no_other_device(images):
    """RandAugment as on accelerators, and crops: no collectives; mixing: one image a device."""
    mesh = Mesh(np.array(jax.devices()), ("data",))
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    batch = jax.device_put(images, sharding)

    def compiled(function):
        return jax.jit(function, out_shardings=sharding).lower(batch).compile().as_text()

    def augmented(images):
        key = jax.random.key(0)
        images = Augmentation(crop_padding=2, flip=True, color_jitter=(0.4,) * 4).images(
            images, key
        )
        keys = rng.example_keys(key, 64)
        operations = jax.vmap(lambda k: jax.random.randint(k, (2,), 0, 14))(keys)
        return randaugment.all_at_once(images, operations, jnp.ones((64, 2)))

    def mixed(images):
        return Augmentation(mixup=1.0, random_erasing=1.0).mix(
            images, jnp.ones((64, 2)), jax.random.key(0)
        )

    for name in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
        assert f"{name}(" not in compiled(augmented)
    program = compiled(lambda images: mixed(images.astype(jnp.float32))[0])
    assert "all-gather(" not in program
    assert "f32[1,6,8,3]" in program
    assert "collective-permute(" in program


def test_fields_out_of_range_are_named():
    for settings in (
        {"affine": (10.0, 0.1, 1.0)},
        {"crop_padding": -1},
        {"crop_padding_mode": "mirror"},
        {"randaugment": (2, 31)},
        {"color_jitter": (0.4, 0.4, 0.4, 0.6)},
        {"random_erasing": 1.5},
        {"mixup": -0.1},
        {"cutmix": -1.0},
        {"mixup_switch_prob": 2.0},
    ):
        with pytest.raises(UsageError, match=rf"config\.augmentation\.{next(iter(settings))} ="):
            Augmentation(**settings)
