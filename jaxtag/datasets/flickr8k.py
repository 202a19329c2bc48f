"""Flickr8k captions from the official files, the split file of Karpathy, or COCO's JSON form.

Hodosh, Young and Hockenmaier, Framing Image Description as a Ranking Task, JAIR 47, 2013.
"""

import re
from collections import defaultdict

from jaxtag.datasets.archives import Store
from jaxtag.datasets.base import ImageDatasetBuilder
from jaxtag.datasets.captioned import CaptionListing
from jaxtag.datasets.coco_json import read_coco_json, read_text
from jaxtag.datasets.download_instructions import download_instructions
from jaxtag.datasets.karpathy import read_karpathy
from jaxtag.errors import UserError

_TOKENS = "Flickr8k.token.txt"
_LISTS = {
    "train": "Flickr_8k.trainImages.txt",
    "validation": "Flickr_8k.devImages.txt",
    "test": "Flickr_8k.testImages.txt",
}
_COCO_FORM = re.compile(r"(^|/)captions_flickr8k_(train|val|test)\.json$")
_LINE = re.compile(r"^(?P<file>[^\t]+\.jpe?g)#\d+\t(?P<caption>.*)$", re.IGNORECASE)


class Flickr8kCaptions(ImageDatasetBuilder):
    """Flickr8k: 8,000 photographs of people and dogs in action, five captions each.

    The official lists make the splits; the dev part is `validation`. Lines of the caption file
    that name no picture of a list are left out and reported.
    """

    name = "flickr8k_captions"
    HOMEPAGE = "https://hockenmaier.cs.illinois.edu/8k-pictures.html"
    CITATION = "Hodosh, Young and Hockenmaier, JAIR 47:853-899, 2013"

    @staticmethod
    def wanted(archive: str) -> bool:
        return bool(re.match(r"(?i)^(fli[ck]{1,3}e?r_?8k|caption_datasets)", archive))

    @classmethod
    def list_pictures(cls, store: Store) -> CaptionListing:
        tokens = store.find(_TOKENS)
        karpathy = store.find("dataset_flickr8k.json")
        in_coco_form = [name for name in store.names() if _COCO_FORM.search(name)]
        if tokens:
            return _official(store, tokens[0])
        if karpathy:
            listing = CaptionListing("Karpathy's split file")
            for entry in read_karpathy(store, karpathy[0]):
                _add(listing, store, entry.split, entry.file, entry.captions)
            return listing.finished()
        if in_coco_form:
            return _coco_form(store, in_coco_form)
        raise UserError(
            f"{store.path} has no Flickr8k captions ({_TOKENS}, dataset_flickr8k.json or "
            f"captions_flickr8k_*.json).\n{download_instructions(cls.name)}"
        )


def _official(store: Store, tokens: str) -> CaptionListing:
    listing = CaptionListing("official files")
    lists = {split: found[0] for split, name in _LISTS.items() if (found := store.find(name))}
    if not lists:
        raise UserError(
            f"{store.path} has {_TOKENS}, but none of the lists that make the splits "
            f"({', '.join(_LISTS.values())}): they are in Flickr8k_text.zip"
        )
    captions = _captions(store, tokens, listing)
    splits = {split: read_text(store, name).split() for split, name in lists.items()}
    for split, files in splits.items():
        for file in files:
            _add(listing, store, split, file, captions.get(file, ()))
    listed = {file for files in splits.values() for file in files}
    for file in captions:
        if file not in listed:
            present = "" if store.find(file) else "; the picture is missing too"
            listing.problems.append((file, f"it is in no list of a split{present}"))
    return listing.finished()


def _captions(store: Store, tokens: str, listing: CaptionListing) -> dict[str, list[str]]:
    """File name -> captions; lines of another form become problems."""
    captions = defaultdict(list)
    for number, line in enumerate(read_text(store, tokens).splitlines(), start=1):
        match = _LINE.match(line)
        if match:
            captions[match["file"]].append(match["caption"])
        elif line.strip():
            name = line.split("\t")[0][:80]
            reason = f"malformed: not FILE.jpg#NUMBER, a tab and a caption, but {name!r}"
            listing.problems.append((f"{store.where(tokens)}, line {number}", reason))
    return captions


def _coco_form(store: Store, names: list[str]) -> CaptionListing:
    listing = CaptionListing("COCO's JSON form")
    for name in names:
        part = _COCO_FORM.search(name)[2]
        split = "validation" if part == "val" else part
        for image in read_coco_json(store, name, listing.problems):
            _add(listing, store, split, image.file, image.captions)
    return listing.finished()


def _add(listing: CaptionListing, store: Store, split: str, file: str, captions) -> None:
    found = store.find(file)
    image_id = file.rpartition("/")[2].rpartition(".")[0]
    listing.add_captioned(store, split, found[0] if found else None, file, image_id, captions)
