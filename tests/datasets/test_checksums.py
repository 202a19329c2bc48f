"""Official files that are not as published are used, with a warning."""

import hashlib

import pytest
from labelled import lay, packed, picture

from jaxtag import datasets
from jaxtag.datasets.voc2007 import Voc2007

FILES = {
    "VOCdevkit/VOC2007/ImageSets/Main/train.txt": "000001\n",
    "VOCdevkit/VOC2007/JPEGImages/000001.jpg": picture(),
    "VOCdevkit/VOC2007/Annotations/000001.xml": "<annotation/>",
}
NAME = "VOCtrainval_06-Nov-2007.tar"


@pytest.mark.parametrize("as_published", [True, False])
@pytest.mark.parametrize("alone", [True, False])
def test_an_archive_is_compared_with_the_published_one(tmp_path, monkeypatch, as_published, alone):
    archive = packed(FILES)
    checksum = hashlib.md5(archive).hexdigest()
    if as_published:
        monkeypatch.setitem(Voc2007.MD5, NAME, checksum)
    source = lay(tmp_path / "voc", {NAME: archive})
    summary = datasets.prepare("voc2007", source / NAME if alone else source, tmp_path / "d")
    published = Voc2007.MD5[NAME]
    warning = f"{NAME} is not as it was published: its MD5 is {checksum}, not {published}"
    assert (warning in summary.warnings) is not as_published
    assert sum("MD5" in one for one in summary.warnings) == (not as_published)
    assert datasets.Summary.load(summary.folder).warnings == summary.warnings


def test_real_mnist_is_as_published(real_data):
    with datasets.builder_class("mnist").open_listing(real_data / "mnist") as listing:
        assert listing.warnings == []
