"""What the tests of labelled data sets share: files laid out, and the records made of them."""

import io
import json
import tarfile
import zipfile

from PIL import Image

from jaxtag import datasets
from jaxtag.datasets.custom import custom_dataset
from jaxtag.datasets.forms.registry import FormChoice


def lay(folder, files):
    """Writes {path: bytes or text} below a folder."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def packed(files, mode="w:"):
    """A tar of {name: bytes}."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in files.items():
            data = content if isinstance(content, bytes) else content.encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def zipped(files):
    """A zip of {name: bytes or text}."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def picture(shade=0, kind="JPEG", mode="RGB"):
    buffer = io.BytesIO()
    Image.new("RGB", (12, 8), (shade, 255 - shade, 90)).convert(mode).save(buffer, kind)
    return buffer.getvalue()


def records(summary, split):
    """file -> record."""
    source = datasets.open_split(summary.dataset, split, summary.folder.parent.parent)
    return {record["file"]: record for record in source.__getitems__(range(len(source)))}


def tagged(summary, split):
    """file -> (names of its tags, names of its unknown tags, group)."""
    names = datasets.open_split(summary.dataset, split, summary.folder.parent.parent).features
    names = names["tags"].feature.names

    def named(numbers):
        return [names[number] for number in numbers]

    return {
        file: (named(record["tags"]), named(record["unknown_tags"]), record["group"])
        for file, record in records(summary, split).items()
    }


def class_names(summary, feature="label"):
    source = datasets.open_split(summary.dataset, "train", summary.folder.parent.parent)
    return source.class_names(feature)


def ledger(summary):
    lines = (summary.folder / "ledger.jsonl").read_text().splitlines()
    return {entry["file"]: entry["reason"] for entry in map(json.loads, lines)}


def list_own(source, form=None):
    """The listing of own data: everything that is decided before an image is decoded."""
    choice = FormChoice.parse(form) if form else None
    with custom_dataset("mine", choice).open_listing(source) as listing:
        return listing


def listed(listing):
    """(split, file, captions or names of tags or the name of the class) of each image, in order."""
    entries = []
    for split, images in listing.splits.items():
        for image in images:
            fields = image.fields
            if "captions" in fields:
                value = fields["captions"]
            elif "tags" in fields:
                names = listing.features["tags"].feature.names
                value = [names[number] for number in fields["tags"]]
            else:
                value = listing.features["label"].names[fields["label"]]
            entries.append((split, image.file, value))
    return sorted(entries)


def annotations(listing, feature):
    """file -> the name of its class, or the names of its tags."""
    names = listing.features[feature]
    names = getattr(names, "feature", names).names
    values = {
        image.file: image.fields[feature] for images in listing.splits.values() for image in images
    }
    return {
        file: [names[number] for number in value] if isinstance(value, list) else names[value]
        for file, value in values.items()
    }
