"""What every builder of pictures shares: records, listings, the tfds class."""

import abc
import functools
import hashlib
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import tensorflow_datasets as tfds

from jaxtag.datasets.archives import Store
from jaxtag.datasets.checksums import differing_archives

# The share of pictures held out as `validation` where the data set names no splits.
HELD_OUT = 0.1


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One picture with what is known about it, not read yet.

    Attributes:
      file: the name under which its owner knows it, relative, POSIX.
      load: reads the encoded bytes; raises `archives.ReadError`.
      fields: the rest of its record, as the features of its listing say.
      made: encoded by us from pixels, so that it needs no examination.
    """

    file: str
    load: Callable[[], bytes]
    fields: Mapping[str, Any] = field(default_factory=dict)
    made: bool = False


@dataclass
class Listing:
    """What is to be written, before any picture is opened.

    Attributes:
      features: what a record holds besides `image` and `file`, in tfds's terms.
      variant: which form of the data set was found, in words.
      splits: split name -> its pictures, their `file` unique in the split.
      problems: (file or line, reason) of what is left out already.
      warnings: what else differs from the data set as it was published.
      size: bytes of all pictures as far as known, to see whether the disk can hold them.
    """

    features: dict[str, tfds.features.FeatureConnector]
    variant: str
    splits: dict[str, list[ImageRecord]] = field(default_factory=dict)
    problems: list[tuple[str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    size: int = 0
    _files: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    _missing: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, split: str, picture: ImageRecord, size: int) -> None:
        """Adds a picture of `size` bytes; one that was there already becomes a problem."""
        if self._is_new(split, picture.file):
            self.splits.setdefault(split, []).append(picture)
            self.size += size

    def add_stored(
        self, store: Store, split: str, path: str | None, file: str, fields: Mapping[str, Any]
    ) -> None:
        """Adds the picture at `path` of the store; None where it is missing."""
        if path is not None:
            load = functools.partial(store.read, path)
            self.add(split, ImageRecord(file, load, fields), store.size(path))
        elif self._is_new(split, file):
            self._missing[split].append(file)

    def _is_new(self, split: str, file: str) -> bool:
        new = file not in self._files[split]
        if new:
            self._files[split].add(file)
        else:
            self.problems.append((file, f"it occurs twice in {split}"))
        return new

    def finished(self) -> "Listing":
        """Reports missing pictures: each one, or in one line a split that is missing wholly."""
        for split, files in self._missing.items():
            if self.splits.get(split) or len(files) == 1:
                self.problems += [(file, "the picture is missing") for file in files]
            else:
                others = f"and all other {len(files) - 1:,} pictures of {split}"
                self.problems.append((files[0], f"the picture is missing, {others} too"))
        return self


# Gets a split's name and pictures, gives those that are sound with the bytes to store.
Check = Callable[[str, list[ImageRecord]], Iterator[tuple[ImageRecord, bytes]]]


class ImageDatasetBuilder(tfds.core.GeneratorBasedBuilder, abc.ABC, skip_registration=True):
    """A tfds builder of pictures that needs no TensorFlow.

    Records: `image` (encoded bytes), `file` (text) and the features of the listing. A subclass
    says how to list the pictures.

    Args:
      listing: what `opened` gave.
      check: reads and examines pictures; what it leaves out is not written.
      data_dir: tfds's root folder; the records go to `data_dir/<name>/<VERSION>/`.
    """

    VERSION = tfds.core.Version("1.0.0")
    NEEDS_SOURCE = True
    HOMEPAGE: str | None = None
    CITATION: str | None = None
    # Split -> pictures as published; other numbers are worth a warning.
    COUNTS: Mapping[str, int] = {}
    # Archive -> its MD5 as published; another one is worth a warning, too.
    MD5: Mapping[str, str] = {}

    def __init__(self, *, listing: Listing, check: Check, data_dir: str):
        self._listing = listing
        self._check = check
        super().__init__(data_dir=data_dir, file_format="array_record")

    @staticmethod
    def wanted(archive: str) -> bool:
        """Whether an archive of the source folder, by file name, belongs to this data set."""
        del archive
        return True

    @classmethod
    @abc.abstractmethod
    def list_pictures(cls, store: Store) -> Listing:
        """Finds annotations and pictures in the store.

        Raises:
            UserError: the data set is not there, or its annotations are malformed.
        """

    @classmethod
    @contextmanager
    def opened(cls, source: str) -> Iterator[Listing]:
        """The listing of a source; its pictures can be read inside the `with` block."""
        with Store(source, cls.wanted) as store:
            listing = cls.list_pictures(store)
            listing.problems += store.refused
            listing.warnings += differing_archives(store.archives(), cls.MD5)
            yield listing

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Image(),
            "file": tfds.features.Text(),
            **self._listing.features,
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"{type(self).__doc__.strip()} ({self._listing.variant})",
            features=tfds.features.FeaturesDict(features),
            homepage=self.HOMEPAGE,
            citation=self.CITATION,
        )

    def _split_generators(self, dl_manager) -> dict[str, Iterable]:
        del dl_manager  # nothing is downloaded
        generators = {}
        for split, pictures in self._listing.splits.items():
            examples = self._generate_examples(split, pictures)
            first = next(examples, None)
            if first is not None:  # tfds cannot write a split without records
                generators[split] = itertools.chain([first], examples)
        return generators

    def _generate_examples(
        self, split: str, pictures: list[ImageRecord]
    ) -> Iterator[tuple[str, dict]]:
        for picture, data in self._check(split, pictures):
            yield picture.file, {"image": data, "file": picture.file, **picture.fields}

    def _log_download_bytes(self) -> None:
        """Silent: tfds would announce a download that does not take place."""

    def _log_download_done(self) -> None:
        """Silent, for the same reason."""


def hold_out(
    pictures: list[ImageRecord],
    share: float = HELD_OUT,
    groups: Mapping[str, str] | None = None,
) -> dict[str, list[ImageRecord]]:
    """Splits by a hash of the file name, so that a picture stays where it is as others come.

    With two pictures (or groups) or more, both splits have at least one.

    Args:
        share: about how many of the pictures are held out.
        groups: file -> what it belongs to; a group goes to one split as a whole, by a hash of its
            name. A picture without one stands for itself.
    """

    def key(picture: ImageRecord) -> str:
        return (groups or {}).get(picture.file) or picture.file

    places = {name: hash_fraction(name) for name in map(key, pictures)}
    held = {name for name in places if places[name] < share}
    if len(places) >= 2 and len(held) in (0, len(places)):
        held = held ^ {max(places, key=places.get)} if held else {min(places, key=places.get)}
    return {
        "train": [picture for picture in pictures if key(picture) not in held],
        "validation": [picture for picture in pictures if key(picture) in held],
    }


def hash_fraction(name: str) -> float:
    """A number in [0, 1) that depends on the name alone, as if drawn at random."""
    digest = hashlib.sha256(name.encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
