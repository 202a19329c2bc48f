"""Flickr8k captions from the official files, the split file of Karpathy, or COCO's JSON form.

Hodosh, Young and Hockenmaier, Framing Image Description as a Ranking Task, JAIR 47, 2013.
"""

import re
from collections import defaultdict
from collections.abc import Iterable

from jaxtag.datasets.base import ImageDatasetBuilder
from jaxtag.datasets.coco_json import read_coco_captions
from jaxtag.datasets.download_instructions import download_instructions
from jaxtag.datasets.karpathy import read_karpathy
from jaxtag.datasets.listings import CaptionListing
from jaxtag.datasets.source_files import SourceFiles
from jaxtag.datasets.text_files import read_json, read_text
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
    that name no image of a list are left out and reported.
    """

    name = "flickr8k_captions"
    HOMEPAGE = "https://hockenmaier.cs.illinois.edu/8k-images.html"
    CITATION = "Hodosh, Young and Hockenmaier, JAIR 47:853-899, 2013"

    @staticmethod
    def accepts_archive(name: str) -> bool:
        return bool(re.match(r"(?i)^(fli[ck]{1,3}e?r_?8k|caption_datasets)", name))

    @classmethod
    def list_images(cls, source: SourceFiles) -> CaptionListing:
        if tokens := source.first(_TOKENS):
            return _list_official(source, tokens)
        if karpathy := source.first("dataset_flickr8k.json"):
            listing = CaptionListing("Karpathy's split file")
            for entry in read_karpathy(source, karpathy):
                _add(listing, source, entry.split, entry.file, entry.captions)
            return listing.finished()
        coco_files = [match for name in source.names() if (match := _COCO_FORM.search(name))]
        if coco_files:
            return _list_coco_form(source, coco_files)
        raise UserError(
            f"{source.path} has no Flickr8k captions ({_TOKENS}, dataset_flickr8k.json or "
            f"captions_flickr8k_*.json).\n{download_instructions(cls.name)}"
        )


def _list_official(source: SourceFiles, tokens: str) -> CaptionListing:
    listing = CaptionListing("official files")
    lists = {split: path for split, name in _LISTS.items() if (path := source.first(name))}
    if not lists:
        raise UserError(
            f"{source.path} has {_TOKENS}, but none of the lists that make the splits "
            f"({', '.join(_LISTS.values())}): they are in Flickr8k_text.zip"
        )
    captions = _read_captions(source, tokens, listing)
    splits = {split: read_text(source, name).split() for split, name in lists.items()}
    for split, files in splits.items():
        for file in files:
            _add(listing, source, split, file, captions.get(file, ()))
    listed = {file for files in splits.values() for file in files}
    for file in captions:
        if file not in listed:
            missing = "" if source.find(file) else "; the image is missing too"
            listing.problems.append((file, f"it is in no list of a split{missing}"))
    return listing.finished()


def _read_captions(
    source: SourceFiles, tokens: str, listing: CaptionListing
) -> dict[str, list[str]]:
    """File name -> captions; lines of another form become problems."""
    captions: dict[str, list[str]] = defaultdict(list)
    for number, line in enumerate(read_text(source, tokens).splitlines(), start=1):
        match = _LINE.match(line)
        if match:
            captions[match["file"]].append(match["caption"])
        elif line.strip():
            name = line.split("\t")[0][:80]
            reason = f"malformed: not FILE.jpg#NUMBER, a tab and a caption, but {name!r}"
            listing.problems.append((f"{source.where(tokens)}, line {number}", reason))
    return captions


def _list_coco_form(source: SourceFiles, files: list[re.Match[str]]) -> CaptionListing:
    listing = CaptionListing("COCO's JSON form")
    for match in files:
        split = "validation" if match[2] == "val" else match[2]
        for image in read_coco_captions(
            read_json(source, match.string), source.where(match.string), listing.problems
        ):
            _add(listing, source, split, image.file, image.captions)
    return listing.finished()


def _add(
    listing: CaptionListing, source: SourceFiles, split: str, file: str, captions: Iterable[str]
) -> None:
    image_id = file.rpartition("/")[2].rpartition(".")[0]
    listing.add_captioned(source, split, source.first(file), file, image_id, captions)
