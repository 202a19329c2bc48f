"""Random erasing, mixup and CutMix on images and labels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtag.augment import Augmentation, erasing, mixing

HEIGHT, WIDTH = 20, 30


def batch(count: int = 8, classes: int = 5):
    random = np.random.default_rng(0)
    images = random.normal(size=(count, HEIGHT, WIDTH, 3)).astype(np.float32)
    return images, np.eye(classes, dtype=np.float32)[random.integers(0, classes, count)]


def test_mixing_equals_numpy():
    images, labels = batch()
    shares = np.array([0.3, 1.0, 0.0, 0.9, 1.0, 1.0, 1.0, 0.5], np.float32)
    boxes = np.zeros((8, 4), np.int32)
    boxes[4:7] = [[0, 0, 20, 30], [3, 4, 10, 30], [5, 5, 6, 7]]
    mixed = jax.jit(mixing.mix)(images, labels, shares, boxes)
    for i in range(8):
        top, left, bottom, right = boxes[i]
        image = shares[i] * images[i] + (1 - shares[i]) * images[i - 1]
        image[top:bottom, left:right] = images[i - 1, top:bottom, left:right]
        share = shares[i] * (1 - (bottom - top) * (right - left) / (HEIGHT * WIDTH))
        np.testing.assert_allclose(mixed[0][i], image, atol=1e-6)
        np.testing.assert_allclose(
            mixed[1][i], share * labels[i] + (1 - share) * labels[i - 1], atol=1e-6
        )


def numpy_ends(share: float, size: int) -> set[tuple[int, int]]:
    """Where a box may begin and end in a direction: timm's `rand_bbox` around each middle."""
    half = int(size * np.sqrt(1 - share)) // 2
    return {(max(middle - half, 0), min(middle + half, size)) for middle in range(size)}


def test_cutmix_boxes_have_their_size_around_a_center_in_the_image():
    keys = jax.random.split(jax.random.key(0), 256)
    shares = np.random.default_rng(0).random(256).astype(np.float32)
    draw = jax.jit(jax.vmap(lambda k, s: mixing.cutmix_box(k, s, HEIGHT, WIDTH)))
    boxes = np.asarray(draw(keys, shares)).tolist()
    for share, (top, left, bottom, right) in zip(shares, boxes, strict=True):
        assert (top, bottom) in numpy_ends(share, HEIGHT)
        assert (left, right) in numpy_ends(share, WIDTH)
    assert len(set(map(tuple, boxes))) > 200


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.4, 0.0), (0.0, 1.0), (0.8, 1.0)])
def test_labels_say_what_is_in_the_images(mixup, cutmix):
    """Each image is of one color, its own number: its mean tells the share that is left."""
    count = 512
    images = np.broadcast_to(
        np.arange(count, dtype=np.float32)[:, None, None, None], (count, HEIGHT, WIDTH, 1)
    )
    labels = np.eye(count, dtype=np.float32)
    policy = Augmentation(mixup=mixup, cutmix=cutmix)
    mixed, soft = map(np.asarray, jax.jit(policy.mix)(images, labels, jax.random.key(5)))
    rows = np.arange(count)
    share = soft[rows, rows]
    np.testing.assert_allclose(soft.sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(soft[rows, rows - 1], 1 - share, atol=1e-6)
    means = share * rows + (1 - share) * ((rows - 1) % count)
    np.testing.assert_allclose(mixed.mean((1, 2, 3)), means, rtol=1e-4, atol=1e-3)

    cut = (mixed != mixed[:, :1, :1]).any((1, 2, 3))  # two colours side by side
    if not cutmix:
        assert not cut.any()
        # Beta(0.4, 0.4): mean 1/2, variance 1 / (4 (2 * 0.4 + 1)).
        assert abs(share.mean() - 0.5) < 5 * np.sqrt(1 / 7.2 / count)
        assert abs(share.var() - 1 / 7.2) < 0.03
    elif not mixup:
        assert cut.mean() > 0.85
    else:
        assert 0.38 < cut.mean() < 0.55  # half of them; a few have no area


def test_erasing_puts_one_box_of_zeros_of_the_right_size():
    count, probability = 2048, 0.25
    images = np.ones((count, HEIGHT, WIDTH, 2), np.float32)
    out = np.asarray(
        jax.jit(lambda x, k: erasing.random_erasing(x, k, probability))(images, jax.random.key(1))
    )
    gone = (out == 0).all(-1)
    assert ((out == 1).all(-1) ^ gone).all()
    erased = gone.any((1, 2))
    assert abs(erased.mean() - probability) < 5 * np.sqrt(probability * (1 - probability) / count)
    places = set()
    for box in gone[erased]:
        rows, columns = box.any(1), box.any(0)
        assert (box == rows[:, None] & columns).all()
        high, wide = rows.sum(), columns.sum()
        assert np.diff(np.flatnonzero(rows)).max(initial=1) == 1
        assert np.diff(np.flatnonzero(columns)).max(initial=1) == 1
        # Sides are rounded to whole pixels.
        assert (high - 0.5) * (wide - 0.5) < HEIGHT * WIDTH / 3
        assert (high + 0.5) * (wide + 0.5) > HEIGHT * WIDTH * 0.02
        assert (high - 0.5) / (wide + 0.5) < 1 / 0.3
        assert (high + 0.5) / (wide - 0.5) > 0.3
        places.add((rows.argmax(), columns.argmax()))
    assert len(places) > 100
    areas = gone[erased].mean((1, 2))
    # Uniform from 0.02 to 1/3 but for boxes that do not fit.
    assert 0.14 < areas.mean() < 0.19
    assert jnp.all(erasing.random_erasing(images[:4], jax.random.key(0), 0.0) == 1)
