"""The embedded data set `shapes_captions`: made from a seed, nothing to download."""

import functools
import json
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager

from jaxtag.datasets.base import ImageDatasetBuilder, ImageRecord, Listing
from jaxtag.datasets.listings import CaptionListing
from jaxtag.datasets.shapes_render import describe, paint, sample
from jaxtag.datasets.source_files import SourceFiles

SEED = 0
SCENES = {"train": 6000, "validation": 500, "test": 500}


class ShapesCaptions(ImageDatasetBuilder):
    """Scenes of one to four colored shapes, each with five captions and its facts as JSON.

    `validation` has new scenes of the kind seen in `train`; each scene of `test` holds a pair of
    color and shape that never occurs in the other two.
    """

    name = "shapes_captions"
    NEEDS_SOURCE = False

    @classmethod
    @contextmanager
    def open_listing(cls, path: str | os.PathLike[str] | None = None) -> Iterator[Listing]:
        del path  # there is none
        listing = CaptionListing(f"made from seed {SEED}", extra=["scene"])
        listing.splits = {
            split: [_record(split, number) for number in range(count)]
            for split, count in SCENES.items()
        }
        yield listing

    @classmethod
    def list_images(cls, source: SourceFiles) -> Listing:
        raise TypeError("shapes_captions is made, not read from a source")


def _record(split: str, number: int) -> ImageRecord:
    # A seed of its own, so that a scene does not depend on how many others there are.
    rng = random.Random(f"{SEED}/{split}/{number}")
    scene = sample(rng, held_out=split == "test")
    return ImageRecord(
        file=f"{split}/{number:05d}.png",
        load=functools.partial(paint, scene),
        fields={
            "image_id": f"{split}-{number}",
            "captions": describe(scene, rng),
            "scene": json.dumps(scene),
        },
        generated=True,
    )
