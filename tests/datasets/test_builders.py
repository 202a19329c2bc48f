"""Builders outside of jaxtag: by a registered name, or by `package.module:Name`."""

import sys

import pytest
from labelled import class_names, lay, picture, records

from jaxtag import datasets, registry
from jaxtag.errors import UsageError

BUILDER = '''
from jaxtag.datasets import ImageDatasetBuilder, register_dataset
from jaxtag.datasets.listings import TagListing


@register_dataset
class Weather(ImageDatasetBuilder):
    """Images called after the weather in them."""

    NUM_LABELS = 2

    @classmethod
    def list_images(cls, source):
        listing = TagListing("file names", ["rain", "sun"])
        for file in source.names():
            tags = [i for i, tag in enumerate(("rain", "sun")) if tag in file]
            listing.add_tagged(source, "train", file, file, tags)
        return listing.finished()


class Other:
    pass
'''


@pytest.fixture
def weather(tmp_path, monkeypatch):
    lay(tmp_path / "code", {"outside_of_jaxtag.py": BUILDER})
    monkeypatch.syspath_prepend(tmp_path / "code")
    monkeypatch.setitem(registry._PARTS, "dataset", dict(registry._PARTS["dataset"]))
    monkeypatch.delitem(sys.modules, "outside_of_jaxtag", raising=False)
    yield lay(tmp_path / "images", {"rain-1.jpg": picture(1), "sun-and-rain.jpg": picture(2)})
    sys.modules.pop("outside_of_jaxtag", None)


@pytest.mark.parametrize("name", ["outside_of_jaxtag:Weather", "weather"])
def test_a_builder_outside_of_the_library(weather, tmp_path, name):
    datasets.builder_class("outside_of_jaxtag:Weather")  # imports, and so registers it
    summary = datasets.prepare(name, weather, tmp_path / "d")
    assert summary.folder == tmp_path / "d" / "weather" / "1.0.0"
    assert class_names(summary, "tags") == ["rain", "sun"]
    tags = {file: record["tags"] for file, record in records(summary, "train").items()}
    assert tags == {"rain-1.jpg": [0], "sun-and-rain.jpg": [0, 1]}
    assert len(datasets.open_split(name, "train", tmp_path / "d")) == 2


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("outside_of_jaxtag:Wether", r"has no Wether \(did you mean Weather"),
        ("outside_of_jaxtag:Other", "not a subclass of jaxtag.datasets.ImageDatasetBuilder"),
        ("nowhere_at_all:Weather", "No module named"),
        ("Mnist", "small letters"),
        ("mnist:1.0.0", "small letters"),
    ],
)
def test_what_is_no_builder_is_explained(weather, name, message):
    with pytest.raises(UsageError, match=message):
        datasets.builder_class(name)


def test_any_other_name_is_one_for_own_data():
    assert datasets.builder_class("weather_of_mine").name == "weather_of_mine"
    assert "weather_of_mine" not in datasets.NAMES and "mnist" in datasets.NAMES
