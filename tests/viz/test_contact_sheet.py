"""The contact sheet: sizes, odd texts, pictures where they belong."""

import numpy as np
import pytest
from PIL import Image

from jaxtag.viz import contact_sheet


def make_images(*sizes):
    return [np.full((h, w, 3), 40 * i + 20, np.uint8) for i, (h, w) in enumerate(sizes)]


def test_every_picture_is_on_the_sheet(tmp_path):
    images = make_images((48, 48), (300, 120), (1, 400), (224, 224), (50, 70))
    texts = ["a dog", "", "x" * 90, "日本 😀 é", "a\nb"]
    references = [["a dog", "one " * 40], [], ["b"], ["c"], ["d"]]
    contact_sheet.contact_sheet(
        images, texts, references, tmp_path / "s.png", columns=3, title="Scores"
    )
    drawn = np.asarray(Image.open(tmp_path / "s.png"))
    colors = {tuple(pixel) for pixel in drawn.reshape(-1, 3)}
    assert {(v, v, v) for v in (20, 60, 100, 140, 180)} <= colors
    assert drawn.shape[1] == 3 * (240 + 24 + 24) + 24


def test_lines_fit_and_nothing_is_lost():
    text = "a very long caption about a dog " * 5 + "w" * 100
    lines = contact_sheet._wrap(text, "caption", 240)
    assert all(contact_sheet._font("caption").getlength(line) <= 240 for line in lines)
    assert "".join("".join(lines).split()) == "".join(text.split())


def test_accents_lose_their_marks_rather_than_become_boxes():
    assert contact_sheet._plain("Straße für “é”").startswith("Strasse fur")


@pytest.mark.parametrize(
    ("images", "captions"),
    [
        ([], []),
        (make_images((4, 4)), []),
        ([np.zeros((4, 4, 3))], ["a"]),
        ([np.zeros((4, 4))], ["a"]),
    ],
)
def test_misuse_is_refused(tmp_path, images, captions):
    with pytest.raises(ValueError, match="image"):
        contact_sheet.contact_sheet(images, captions, [[]] * len(captions), tmp_path / "s.png")
