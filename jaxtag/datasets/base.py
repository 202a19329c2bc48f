"""The base of all builders of image data sets: records, listings, the tfds builder."""

import abc
import functools
import hashlib
import itertools
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import tensorflow_datasets as tfds

from jaxtag.datasets.checksums import archive_warnings
from jaxtag.datasets.source_files import SourceFiles

# The fraction of images held out as `validation` where the data set names no splits.
VALIDATION_FRACTION = 0.1


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One image with its annotations, not read yet.

    Attributes:
        file: The name by which its owner knows it, relative, POSIX.
        load: Reads the encoded bytes; raises `archives.ReadError`.
        fields: The rest of its record, as the features of its listing describe it.
        generated: Encoded by us from pixels, so that it needs no verification.
        path: Where it lies in the source; "" where it does not.
    """

    file: str
    load: Callable[[], bytes]
    fields: Mapping[str, Any] = field(default_factory=dict)
    generated: bool = False
    path: str = ""


@dataclass
class Listing:
    """What is to be written, before any image is opened.

    Attributes:
        features: What a record holds besides `image` and `file`, in tfds's terms.
        variant: The form of the data set that was found, for people.
        splits: Split name -> its images, their `file` unique in the split.
        problems: (file or line, reason) of what is left out already.
        notes: (file, what there is to know) of what is used all the same.
        doubts: What looks like a mistake: the data set is written only where the user insists.
        warnings: What else differs from the data set as it was published.
        size: Bytes of all images as far as known, to see whether the disk can hold them.
        form: What the source of own data looks like, for people; "" where that was not asked.
    """

    features: dict[str, tfds.features.FeatureConnector]
    variant: str
    splits: dict[str, list[ImageRecord]] = field(default_factory=dict)
    problems: list[tuple[str, str]] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    size: int = 0
    form: str = ""
    _files: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    _missing: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, split: str, image: ImageRecord, size: int) -> None:
        """Adds an image of `size` bytes; one that was there already becomes a problem."""
        if self._is_new(split, image.file):
            self.splits.setdefault(split, []).append(image)
            self.size += size

    def add_stored(
        self,
        source: SourceFiles,
        split: str,
        path: str | None,
        file: str,
        fields: Mapping[str, Any],
    ) -> None:
        """Adds the image at `path` of the source; None where it is missing."""
        if path is not None:
            load = functools.partial(source.read, path)
            self.add(split, ImageRecord(file, load, fields, path=path), source.size(path))
        elif self._is_new(split, file):
            self._missing[split].append(file)

    def _is_new(self, split: str, file: str) -> bool:
        new = file not in self._files[split]
        if new:
            self._files[split].add(file)
        else:
            self.problems.append((file, f"it occurs twice in {split}"))
        return new

    def finished(self) -> Self:
        """Reports missing images: each one, or in one line a split that is wholly missing."""
        for split, files in self._missing.items():
            if self.splits.get(split) or len(files) == 1:
                self.problems += [(file, "the image is missing") for file in files]
            else:
                others = f"and all other {len(files) - 1:,} images of {split}"
                self.problems.append((files[0], f"the image is missing, {others} too"))
        return self


# Takes a split's name and images; yields those that are sound with the bytes to store.
Verify = Callable[[str, list[ImageRecord]], Iterator[tuple[ImageRecord, bytes]]]


class ImageDatasetBuilder(
    tfds.core.GeneratorBasedBuilder,
    abc.ABC,
    skip_registration=True,  # type: ignore[call-arg]  # tfds has no types
):
    """A tfds builder of images that needs no TensorFlow.

    Records: `image` (encoded bytes), `file` (text) and the features of the listing. A subclass
    implements `list_images`.

    Args:
        listing: From `open_listing`.
        verify: Reads and verifies images; what it leaves out is not written.
        data_dir: tfds's root folder; the records go to `data_dir/<name>/<VERSION>/`.

    Attributes:
        NEEDS_SOURCE: Whether it is read from files.
        COUNTS: Split -> images as published; other numbers are worth a warning.
        NUM_LABELS: Classes or tags as published; None where there are none, or nobody knows.
        MD5: Archive -> its MD5 as published; another one is worth a warning, too.
    """

    VERSION = tfds.core.Version("1.0.0")
    NEEDS_SOURCE: ClassVar[bool] = True
    HOMEPAGE: ClassVar[str | None] = None
    CITATION: ClassVar[str | None] = None
    COUNTS: ClassVar[Mapping[str, int]] = {}
    NUM_LABELS: ClassVar[int | None] = None
    MD5: ClassVar[Mapping[str, str]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Keeps builders out of tfds's registry, which may hold one of the same name."""
        super().__init_subclass__(**{**kwargs, "skip_registration": True})

    def __init__(self, *, listing: Listing, verify: Verify, data_dir: str):
        self._listing = listing
        self._verify = verify
        super().__init__(data_dir=data_dir, file_format="array_record")

    @staticmethod
    def accepts_archive(name: str) -> bool:
        """Whether an archive of the source folder, by file name, belongs to this data set."""
        del name
        return True

    @classmethod
    @abc.abstractmethod
    def list_images(cls, source: SourceFiles) -> Listing:
        """Finds annotations and images in the source.

        Raises:
            UserError: The data set is not there, or its annotations are malformed.
        """

    @classmethod
    @contextmanager
    def open_listing(cls, path: str | os.PathLike[str] | None) -> Iterator[Listing]:
        """Lists a source; its images can be read inside the `with` block.

        Args:
            path: A folder or an archive; None for a data set that needs no source.
        """
        assert path is not None
        with SourceFiles(path, cls.accepts_archive) as source:
            listing = cls.list_images(source)
            listing.problems += source.refused
            listing.warnings += source.warnings
            listing.warnings += archive_warnings(source.archives(), cls.MD5)
            yield listing

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Image(),
            "file": tfds.features.Text(),
            **self._listing.features,
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"{(type(self).__doc__ or '').strip()} ({self._listing.variant})",
            features=tfds.features.FeaturesDict(features),
            homepage=self.HOMEPAGE,
            citation=self.CITATION,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        del dl_manager  # nothing is downloaded
        generators = {}
        for split, images in self._listing.splits.items():
            examples = self._generate_examples(split, images)
            first = next(examples, None)
            if first is not None:  # tfds cannot write a split without records
                generators[split] = itertools.chain([first], examples)
        return generators

    def _generate_examples(
        self, split: str, images: list[ImageRecord]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        for image, data in self._verify(split, images):
            yield image.file, {"image": data, "file": image.file, **image.fields}

    def _log_download_bytes(self) -> None:
        """Silent: tfds would announce a download that does not take place."""

    def _log_download_done(self) -> None:
        """Silent, for the same reason."""


def hold_out(
    images: list[ImageRecord],
    fraction: float = VALIDATION_FRACTION,
    groups: Mapping[str, str] | None = None,
) -> dict[str, list[ImageRecord]]:
    """Splits by a hash of the file name, so that an image keeps its split as others come.

    With two images (or groups) or more, both splits have at least one.

    Args:
        fraction: About how many of the images are held out.
        groups: File -> its group; a group goes to one split as a whole, by a hash of its name. An
            image without one stands for itself.
    """

    def key(image: ImageRecord) -> str:
        return (groups or {}).get(image.file) or image.file

    hashes = {name: hash_fraction(name) for name in map(key, images)}
    held_out = {name for name in hashes if hashes[name] < fraction}
    if len(hashes) >= 2 and not held_out:
        held_out = {min(hashes, key=hashes.__getitem__)}
    elif len(hashes) >= 2 and len(held_out) == len(hashes):
        held_out.remove(max(hashes, key=hashes.__getitem__))
    return {
        "train": [image for image in images if key(image) not in held_out],
        "validation": [image for image in images if key(image) in held_out],
    }


def hash_fraction(name: str) -> float:
    """A number in [0, 1) that depends on the name alone, as if drawn at random."""
    digest = hashlib.sha256(name.encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
