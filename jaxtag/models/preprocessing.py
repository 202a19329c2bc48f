"""How a model takes its images: registered with it by name, and saved with its weights."""

import dataclasses
from typing import Any

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """From an image file to the model's input.

    Attributes:
        image_size: pixels, both sides.
        mean: of normalization, for each channel on a scale of 0 to 1.
        std: the same.
        interpolation: "bilinear" or "bicubic", of the resize.
        crop: in evaluation the shorter side is resized to `image_size / crop`, then the center is
            cropped.
        squash: in evaluation both sides are resized to `image_size / crop` instead.
        pad: in evaluation the image is padded to a white square before that.
    """

    image_size: int = 224
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: str = "bilinear"
    crop: float = 0.875
    squash: bool = False
    pad: bool = False

    @property
    def fit(self) -> str:
        """How an image becomes a square, as `config.data.eval_fit` names it."""
        if self.pad:
            return "pad"
        return "squash" if self.squash else "crop"

    def data_fields(self) -> dict[str, Any]:
        """The fields of `config.data` that prepare images this way in evaluation."""
        is_whole = self.crop == 1 and self.fit != "crop"
        return {
            "image_size": self.image_size,
            "eval_crop_pct": None if is_whole else self.crop,
            "eval_fit": "pad" if self.pad else "crop" if is_whole else self.fit,
            "eval_interpolation": self.interpolation,
            "mean": self.mean,
            "std": self.std,
        }
