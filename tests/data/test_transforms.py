"""Crops: what of a picture they show, and what they refuse."""

import io

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file
from stored import REFERENCES

from jaxtag.data.decode import open_image
from jaxtag.data.transforms import (
    CenterCrop,
    PillowResize,
    RandomResizedCrop,
    Resize,
    evaluation_transform,
)


def gradient(height, width):
    """Red is the column, green the row, as shares of 255."""
    y, x = np.mgrid[0:height, 0:width]
    image = np.stack([x * 255 / (width - 1), y * 255 / (height - 1), 0 * x], axis=2)
    out = io.BytesIO()
    Image.fromarray(image.astype(np.uint8)).save(out, "JPEG", quality=95, subsampling=0)
    return open_image(out.getvalue())


def apply(transform, picture, seed=0):
    out = np.zeros((transform.size, transform.size, 3), np.uint8)
    transform(picture, np.random.default_rng(seed), out)
    return out.astype(int)


@pytest.mark.parametrize("shape", [(300, 300), (240, 600), (40, 30), (3000, 10), (9, 2000)])
def test_squash_keeps_the_corners(shape):
    out = apply(Resize(64), gradient(*shape))
    assert np.abs(out[[0, -1], 0, 1] - [0, 255]).max() < 20
    assert np.abs(out[0, [0, -1], 0] - [0, 255]).max() < 20


def test_center_crop_takes_the_middle():
    out = apply(CenterCrop(64, crop_pct=0.5), gradient(200, 400))
    assert abs(out[0, 0, 1] - 64) < 5
    assert abs(out[-1, 0, 1] - 191) < 5
    assert abs(out[0, 0, 0] - 96) < 5
    assert abs(out[0, -1, 0] - 159) < 5


def test_bicubic_is_that_of_timm_bit_by_bit():
    tensors = load_file(REFERENCES / "pillow_resize.safetensors")
    reader = open_image(tensors.pop("image"))
    assert len(tensors) == 3
    for name, expected in tensors.items():
        size, crop, mode = name.split("/")
        fit = {"center": "crop"}.get(mode, mode)
        transform = evaluation_transform(int(size), float(crop), fit, "bicubic")
        np.testing.assert_array_equal(apply(transform, reader), expected, err_msg=name)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_padding_makes_a_white_square(interpolation):
    image = np.zeros((20, 60, 3), np.uint8)
    out = apply(evaluation_transform(30, None, "pad", interpolation), open_image(image))
    assert (out[:8] == 255).all() and (out[-8:] == 255).all() and not out[12:18].any()
    whole = apply(PillowResize(60, fit="pad"), open_image(image))
    np.testing.assert_array_equal(whole[20:40], image)


def test_evaluation_is_fast_unless_it_must_be_exact():
    assert evaluation_transform(32, 0.875) == CenterCrop(32, 0.875)
    assert evaluation_transform(32, None) == evaluation_transform(32, 1.0, "squash") == Resize(32)
    assert evaluation_transform(32, 0.875, "squash") == PillowResize(
        32, 0.875, "squash", "bilinear"
    )
    assert evaluation_transform(32, None, "crop", "bicubic") == PillowResize(32, 1.0, "squash")
    for wrong in ({"fit": "stretch"}, {"interpolation": "nearest"}, {"crop_pct": 0.0}):
        with pytest.raises(ValueError, match=r"must be one of|crop_pct"):
            PillowResize(32, **wrong)


def test_random_crops_have_the_areas_and_ratios_asked_for():
    picture = gradient(400, 600)
    areas, ratios = [], []
    for seed in range(200):
        out = apply(RandomResizedCrop(32, scale=(0.2, 0.6)), picture, seed)
        # How far the colours run tells how large the crop was.
        height, width = (out[-1, 0, 1] - out[0, 0, 1]) / 255, (out[0, -1, 0] - out[0, 0, 0]) / 255
        areas.append(height * width)
        ratios.append(width * 600 / (height * 400))
    assert 0.16 < min(areas) < 0.25
    assert 0.5 < max(areas) < 0.64
    assert 0.65 < min(ratios) < 0.85
    assert 1.2 < max(ratios) < 1.5
    assert abs(np.mean(areas) - 0.4) < 0.05


def test_a_reduced_decode_shows_what_a_full_one_shows(real_data):
    file = sorted((real_data / "coco_mini" / "val2017").glob("*.jpg"))[0]
    got = apply(Resize(96), open_image(file.read_bytes()))
    expected = Image.open(file).convert("RGB").resize((96, 96), Image.BOX)
    assert np.abs(got - np.asarray(expected, int)).mean() < 6


def test_crops_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="scale"):
        RandomResizedCrop(8, scale=(0.5, 0.2))
    with pytest.raises(ValueError, match="crop_pct"):
        CenterCrop(8, crop_pct=1.5)
