"""Makes tests/references/augment.safetensors: what torchvision makes of a few pictures.

Needs torch, torchvision, safetensors, numpy (nothing of jaxtag):

    python benchmarks/make_augment_references.py tests/references

The committed file was made with torch 2.13.0 and torchvision 0.28.0 on a CPU.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

HEIGHT, WIDTH = 24, 26  # equalising needs more pixels than there are levels
MAGNITUDES = (9, 17, 30)
FACTORS = (0.0, 0.4, 0.83, 1.0, 1.3, 1.9)
TURNS = (-0.5, -0.21, 0.0, 0.1, 0.37)


def pictures() -> np.ndarray:
    """uint8 [4, 24, 26, 3]: noise, gradients, channels of few levels, few bright pixels."""
    random = np.random.RandomState(0)
    noise = random.randint(0, 256, (HEIGHT, WIDTH, 3))
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    smooth = np.stack([7 * rows + 40, 6 * columns, 200 - 4 * rows - 3 * columns], -1)
    few = np.stack([random.choice([60, 190], rows.shape), 0 * rows + 77, 0 * rows], -1)
    dark = random.randint(20, 60, (HEIGHT, WIDTH, 3)) + 150 * (random.rand(HEIGHT, WIDTH, 1) > 0.9)
    return np.stack([noise, smooth, few, dark]).astype(np.uint8)


def to_torch(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def to_numpy(images: torch.Tensor) -> np.ndarray:
    return np.ascontiguousarray(images.numpy().transpose(0, 2, 3, 1))


def each(images: torch.Tensor, change) -> np.ndarray:
    return to_numpy(torch.stack([change(image) for image in images]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the file goes")
    folder = parser.parse_args().folder
    images = pictures()
    stored = {"images": images}
    batch = to_torch(images)
    grey = batch[:, :1].contiguous()
    for name, change in {
        "saturation": functional.adjust_saturation,
        "brightness": functional.adjust_brightness,
        "contrast": functional.adjust_contrast,
        "sharpness": functional.adjust_sharpness,
    }.items():
        for factor in FACTORS:
            stored[f"{name}/{factor}"] = each(batch, lambda x, c=change, f=factor: c(x, f))
    for turn in TURNS:
        stored[f"hue/{turn}"] = each(batch, lambda x, t=turn: functional.adjust_hue(x, t))
    for padding, mode in ((4, "constant"), (3, "reflect")):
        padded = functional.pad(batch, [padding], padding_mode=mode)
        stored[f"pad/{mode}/{padding}"] = to_numpy(padded)

    policy = v2.RandAugment()
    for magnitude in MAGNITUDES:
        for name, (bins, signed) in policy._AUGMENTATION_SPACE.items():
            values = bins(31, HEIGHT, WIDTH)
            level = 0.0 if values is None else float(values[magnitude])
            for sign in (1, -1) if signed else (1,):

                def operate(image, name=name, level=sign * level):
                    return policy._apply_image_or_video_transform(
                        image, name, level, policy.interpolation, policy._fill
                    )

                key = f"randaugment/{magnitude}/{name}/{sign}"
                stored[key] = each(batch, operate)
                if magnitude == 9:
                    stored[f"grey/{key}"] = each(grey, operate)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(stored, folder / "augment.safetensors")


if __name__ == "__main__":
    main()
