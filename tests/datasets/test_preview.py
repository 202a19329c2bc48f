"""The picture of a prepared data set: what stands under each example, and the file."""

import numpy as np
import pytest
from labelled import lay, picture
from PIL import Image

from jaxtag import datasets
from jaxtag.datasets import preview

TABLE = "file,{},split\n" + "".join(f"{n}.png,{n} a;b,train\n" for n in range(20))
SOURCES = {
    "captions": ({"t.csv": TABLE.format("caption")}, lambda n: (f"{n} a;b", [])),
    "tags": ({"t.csv": TABLE.format("tags")}, lambda n: (f"{n} a, b", [])),
    "classes": ({f"train/{n % 2}/{n}.png": picture(n, "PNG") for n in range(20)}, None),
}


@pytest.fixture
def sheets(monkeypatch):
    """What is drawn: (pictures, texts, further texts) of each sheet."""
    drawn = []
    real = preview.contact_sheet

    def spy(pictures, texts, more, *args, **options):
        drawn.append((pictures, texts, more))
        real(pictures, texts, more, *args, **options)

    monkeypatch.setattr(preview, "contact_sheet", spy)
    return drawn


@pytest.mark.parametrize("kind", SOURCES)
def test_examples(tmp_path, sheets, kind):
    files, expected_texts = SOURCES[kind]
    pictures = {f"{n}.png": picture(n, "PNG") for n in range(20)} if expected_texts else {}
    summary = datasets.prepare("mine", lay(tmp_path / "own", files | pictures), tmp_path / "d")
    path = preview.draw_examples(summary.folder, "train")
    assert path == summary.folder / "examples.png"
    assert Image.open(path).size[0] > 1000
    assert not list(summary.folder.glob("*.partial"))
    ((shown, texts, more),) = sheets
    assert len(shown) == len(texts) == 16
    for pixels, text, others in zip(shown, texts, more, strict=True):
        shade = round(float(np.mean(pixels[..., 0])))
        if expected_texts:
            assert shade == int(text.split()[0])
            assert (text, others) == expected_texts(int(text.split()[0]))
        else:
            assert (text, others) == (str(shade % 2), [])


def test_unknown_tags_and_further_captions_stand_below():
    names = {"tags": ["sea", "sky", "sun"]}
    record = {"tags": [1], "unknown_tags": [0, 2]}
    assert preview._annotations(record, names) == ("sky", ["unknown: sea, sun"])
    assert preview._annotations({"tags": [], "unknown_tags": []}, names) == ("(no tags)", [])
    captions = {"captions": ["a dog", "the dog"]}
    assert preview._annotations(captions, {}) == ("a dog", ["the dog"])
    assert preview._annotations({"captions": []}, {}) == ("(no caption)", [])
