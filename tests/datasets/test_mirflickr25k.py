"""MIRFlickr-25K in its official layout, packed or not."""

import pytest
from labelled import lay, ledger, picture, tagged, zipped

from jaxtag import datasets
from jaxtag.errors import UserError

POTENTIAL = [
    "animals",
    "baby",
    "bird",
    "car",
    "clouds",
    "dog",
    "female",
    "flower",
    "food",
    "indoor",
    "lake",
    "male",
    "night",
    "people",
    "plant_life",
    "portrait",
    "river",
    "sea",
    "sky",
    "structures",
    "sunset",
    "transport",
    "tree",
    "water",
]
RELEVANT = [
    "baby",
    "bird",
    "car",
    "clouds",
    "dog",
    "female",
    "flower",
    "male",
    "night",
    "people",
    "portrait",
    "river",
    "sea",
    "tree",
]


def annotations(**tags):
    """As v080: a file a tag, with a number of a picture and CR LF a line."""
    names = [*POTENTIAL, *(f"{name}_r1" for name in RELEVANT)]
    return {
        f"{name}.txt": "".join(f"{number}\r\n" for number in tags.get(name, ())) for name in names
    } | {"README.txt": "MIRFLICKR-25000"}


def collection(count=30):
    return {f"mirflickr/im{n}.jpg": picture(n) for n in range(1, count + 1)} | {
        "mirflickr/doc/common_tags.txt": "sky 100\n",
        "mirflickr/meta/tags/tags1.txt": "sky\n",
    }


TAGS = annotations(sky=[1, 2, 30, 31], baby=[2, 3], baby_r1=[3])


@pytest.mark.parametrize("form", ["zips", "unpacked"])
def test_official_layout(tmp_path, form):
    files = {
        "zips": {
            "mirflickr25k.zip": zipped(collection()),
            "mirflickr25k_annotations_v080.zip": zipped(TAGS),
        },
        "unpacked": collection() | {f"annotations/{name}": text for name, text in TAGS.items()},
    }[form]
    summary = datasets.prepare("mirflickr25k", lay(tmp_path / "mir", files), tmp_path / "d")
    splits = {split: tagged(summary, split) for split in ("train", "validation", "test")}
    tags_by_file = {
        file: annotation for records in splits.values() for file, annotation in records.items()
    }
    assert len(tags_by_file) == sum(map(len, splits.values())) == 30
    assert tags_by_file["im1.jpg"] == (["sky"], [], "")
    assert tags_by_file["im2.jpg"] == (["baby", "sky"], [], "")
    assert tags_by_file["im3.jpg"] == (["baby", "baby_r1"], [], "")
    assert tags_by_file["im4.jpg"] == ([], [], "")
    assert ledger(summary) == {"im31.jpg": "the image is missing"}
    assert len(summary.balance) == 38
    assert "2,531 were published" in str(summary)


def test_pictures_stay_in_their_split(tmp_path):
    """The splits are made here: were they to change, results would not compare."""
    source = lay(tmp_path / "mir", collection() | TAGS)
    summary = datasets.prepare("mirflickr25k", source, tmp_path / "d")
    held = {split: sorted(tagged(summary, split)) for split in ("validation", "test")}
    assert held == {
        "validation": ["im21.jpg", "im22.jpg", "im27.jpg", "im3.jpg"],
        "test": ["im11.jpg", "im30.jpg"],
    }


def test_what_is_missing_or_malformed(tmp_path):
    files = collection() | TAGS
    del files["river_r1.txt"]
    with pytest.raises(UserError, match=r"river_r1\.txt.*annotations_v080(.|\n)*wget"):
        datasets.prepare("mirflickr25k", lay(tmp_path / "a", files), tmp_path / "d")
    with pytest.raises(UserError, match=r"no images im1\.jpg"):
        datasets.prepare("mirflickr25k", lay(tmp_path / "b", TAGS), tmp_path / "d")
    odd = collection() | TAGS | {"sky.txt": "1\nim2.jpg\n-3\n", "mirflickr/im5.jpg": b"no picture"}
    summary = datasets.prepare("mirflickr25k", lay(tmp_path / "c", odd), tmp_path / "d")
    left_out = ledger(summary)
    assert left_out.keys() == {"sky.txt, line 2", "sky.txt, line 3", "im5.jpg"}
    assert "'im2.jpg' is not the number" in left_out["sky.txt, line 2"]


def test_a_number_of_thousands_of_digits_is_malformed(tmp_path):
    odd = collection() | TAGS | {"sky.txt": f"1\n{'9' * 5000}\n"}
    summary = datasets.prepare("mirflickr25k", lay(tmp_path / "mir", odd), tmp_path / "d")
    assert "is not the number" in ledger(summary)["sky.txt, line 2"]
