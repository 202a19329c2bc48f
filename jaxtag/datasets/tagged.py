"""Pictures with any number of tags: what their records hold, and how they are listed."""

from collections.abc import Iterable, Sequence

import tensorflow_datasets as tfds

from jaxtag.datasets.archives import Store
from jaxtag.datasets.base import Listing
from jaxtag.datasets.coco_json import read_text
from jaxtag.datasets.labelled import class_label


class TagListing(Listing):
    """Records hold the tags of a picture as numbers, with their names in the features.

    Fields: `tags` that it has, `unknown_tags` of which nothing can be said, both ascending and
    possibly none, and `group` (text) of pictures that belong together, "" where there is none.
    Tags that are neither are absent from the picture.

    Args:
      names: of all tags, in the order of their numbers.

    Raises:
      UserError: two tags have the same name, or there are none.
    """

    def __init__(self, variant: str, names: Sequence[str]):
        features = {
            "tags": tfds.features.Sequence(class_label("tags", names)),
            "unknown_tags": tfds.features.Sequence(class_label("unknown_tags", names)),
            "group": tfds.features.Text(),
        }
        super().__init__(features, variant)

    def add_tagged(
        self,
        store: Store,
        split: str,
        path: str | None,
        file: str,
        tags: Iterable[int],
        unknown: Iterable[int] = (),
        group: str = "",
    ) -> None:
        """Adds the picture at `path` of the store, None where it is missing."""
        present = set(tags)
        fields = {
            "tags": sorted(present),
            "unknown_tags": sorted(set(unknown) - present),
            "group": group,
        }
        self.add_stored(store, split, path, file, fields)


def read_lines(store: Store, name: str) -> list[str]:
    """The lines of an official list that are not blank, without white space around them."""
    return [line for _, line in numbered_lines(store, name)]


def numbered_lines(store: Store, name: str) -> list[tuple[str, str]]:
    """The same, each with its place in the file for messages."""
    lines = enumerate(read_text(store, name).splitlines(), start=1)
    where = store.where(name)
    return [(f"{where}, line {number}", line.strip()) for number, line in lines if line.strip()]
