"""Pictures with captions: what their records hold, and how they are listed."""

from collections.abc import Iterable

import tensorflow_datasets as tfds

from jaxtag.datasets.archives import Store
from jaxtag.datasets.base import Listing


class CaptionListing(Listing):
    """Records hold `image_id` (text) and `captions` (texts, possibly none).

    Args:
      extra: names of further text fields.
    """

    def __init__(self, variant: str, extra: Iterable[str] = ()):
        features = {
            "image_id": tfds.features.Text(),
            "captions": tfds.features.Sequence(tfds.features.Text()),
            **{name: tfds.features.Text() for name in extra},
        }
        super().__init__(features, variant)

    def add_captioned(
        self,
        store: Store,
        split: str,
        path: str | None,
        file: str,
        image_id: str,
        captions: Iterable[str],
        captioned: bool = True,
    ) -> None:
        """Adds the picture at `path` of the store; one that cannot serve becomes a problem.

        Args:
          path: None where the picture is missing.
          captioned: whether a picture without captions is a problem.
        """
        cleaned = clean_captions(captions)
        if captioned and not cleaned:
            if self._is_new(split, file):
                self.problems.append((file, "it has no caption"))
            return
        fields = {"image_id": image_id, "captions": cleaned}
        self.add_stored(store, split, path, file, fields)


def clean_captions(captions: Iterable[str]) -> list[str]:
    """Captions on one line each, without the blank ones."""
    cleaned = (" ".join(caption.split()) for caption in captions)
    return [caption for caption in cleaned if caption]
