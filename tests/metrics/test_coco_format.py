"""Caption files of COCO: what is read, what is refused and with which words."""

import json

import pytest

from jaxtag.errors import UserError
from jaxtag.inference.writers import CsvWriter, JsonlWriter
from jaxtag.metrics.captioning import coco_format, unspaced


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
    return path


def references(tmp_path, images=None):
    annotations = [
        {"id": n, "image_id": key, "caption": text}
        for n, (key, text) in enumerate([(5, "a dog runs"), (3, "a cat"), (5, "one dog")])
    ]
    content = {"annotations": annotations} | ({"images": images} if images else {})
    return write(tmp_path / "references.json", content)


def test_files_are_scored_and_what_is_missing_is_said(tmp_path, capsys):
    results = write(tmp_path / "results.json", [{"image_id": 5, "caption": "a dog runs"}])
    scores = coco_format.score_files(results, references(tmp_path))
    assert scores["BLEU-1"] == pytest.approx(1)
    assert (scores["images"], scores["images_without_result"]) == (1, 1)
    assert "no caption for 1 of the 2 images" in capsys.readouterr().err


def test_references_come_in_the_order_of_images(tmp_path):
    path = references(tmp_path, [{"id": 3}, {"id": 9}, {"id": 5}])
    assert coco_format.load_references(path) == {3: ["a cat"], 5: ["a dog runs", "one dog"]}
    assert list(coco_format.load_references(path)) == [3, 5]
    assert list(coco_format.load_references(references(tmp_path))) == [5, 3]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is damaged"),
        ({"a": 1}, "must be a list"),
        ([], "no captions"),
        ([3], "entry 0 must be an object, not a number"),
        ([{"caption": "a"}], 'entry 0 needs an "image_id"'),
        ([{"image_id": True, "caption": "a"}], 'entry 0 needs an "image_id"'),
        ([{"image_id": 5, "caption": None}], r'entry 0 \(image_id 5\) needs a "caption"'),
        ([{"image_id": 5, "caption": "a"}] * 2, "image 5 has two captions .entries 0 and 1"),
        ("[" * 100_000, "nested too deeply"),
        ("[" * 100 + "]" * 100, "nested too deeply"),
        ("[" + "9" * 5000 + "]", "thousands of digits"),
    ],
)
def test_malformed_results_are_named(tmp_path, content, message):
    path = write(tmp_path / "results.json", content)
    with pytest.raises(UserError, match=message) as caught:
        coco_format.load_results(path)
    assert str(path) in str(caught.value)


def test_unreadable_files_are_named(tmp_path):
    with pytest.raises(UserError, match=r"absent\.json: cannot be read"):
        coco_format.load_results(tmp_path / "absent.json")
    (tmp_path / "latin.json").write_bytes(b'["\xe9"]')
    with pytest.raises(UserError, match=r"latin\.json: not UTF-8"):
        coco_format.load_results(tmp_path / "latin.json")


@pytest.mark.parametrize("content", [[], {}, {"annotations": {}}, {"annotations": []}])
def test_malformed_references_are_named(tmp_path, content):
    path = write(tmp_path / "references.json", content)
    with pytest.raises(UserError, match=r"references\.json"):
        coco_format.load_references(path)


def test_results_of_unknown_pictures_are_refused(tmp_path):
    results = write(tmp_path / "results.json", [{"image_id": 8, "caption": "a"}])
    with pytest.raises(UserError, match=r"1 of 1 images have no references.*image_id 8"):
        coco_format.score_files(results, references(tmp_path))
    results = write(tmp_path / "results.json", [{"image_id": "5", "caption": "a"}])
    with pytest.raises(UserError, match="they are for 5: write the ids in both files alike"):
        coco_format.score_files(results, references(tmp_path))


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_what_annotate_wrote_is_scored(tmp_path, suffix):
    """By file name; a picture that could not be read has no caption."""
    files = ["a.jpg", "val/-b.jpg", "c.jpg"]
    images = [{"id": n, "file_name": name} for n, name in zip((5, 3, 9), files, strict=True)]
    expected = references(tmp_path, images)
    rows = [
        {"file": "/data/photos/a.jpg", "caption": '=a dog, "runs"', "score": -1.5},
        {"file": "./val/-b.jpg", "caption": "a cat", "score": -1.0},
        {"file": "c.jpg", "error": "the file is empty"},
    ]
    path = tmp_path / f"out.{suffix}"
    writer = {"jsonl": JsonlWriter, "csv": CsvWriter}[suffix](path)
    for row in rows:
        writer.write(row)
    writer.close()
    loaded = coco_format.load_results(path, {"a.jpg": 5, "val/-b.jpg": 3, "c.jpg": 9})
    assert loaded == {5: '=a dog, "runs"', 3: "a cat"}
    assert coco_format.score_files(path, expected)["images"] == 2
    with pytest.raises(UserError, match=r"line \d: .*a\.jpg is none of the images"):
        coco_format.load_results(path)


def test_captions_without_spaces_are_told(tmp_path, capsys) -> None:
    """coco-caption's figures stay: a whole caption counts as one word."""
    captions = {0: "一只猫坐在垫子上", 1: "一只狗在草地上跑", 2: "两只鸟在天上飞"}
    spaced = {image: " ".join(caption) for image, caption in captions.items()}
    for texts, expected in ((captions, "word"), (spaced, "")):
        references = [{"image_id": i, "caption": c} for i, c in texts.items()]
        results = [{"image_id": i, "caption": c + " 面"} for i, c in texts.items()]
        (tmp_path / "g.json").write_text(json.dumps({"annotations": references}))
        (tmp_path / "r.json").write_text(json.dumps(results))
        coco_format.score_files(tmp_path / "r.json", tmp_path / "g.json")
        err = capsys.readouterr().err
        assert expected in err and err.count("\n") == bool(expected)


@pytest.mark.parametrize(
    "caption, is_unspaced",
    [
        ("a cat on a mat", False),
        ("고양이가 매트 위에 앉아 있다", False),  # Korean has spaces
        ("一只 猫 坐 在 垫子 上", False),
        ("红色的猫", True),
        ("猫がマットの上に座っている", True),
        ("แมวนั่งอยู่บนเสื่อ", True),
        ("the sign says 你好", False),
        ("", False),
    ],
)
def test_scripts_without_spaces_are_known(caption: str, is_unspaced: bool) -> None:
    assert unspaced.is_unspaced(caption) == is_unspaced
