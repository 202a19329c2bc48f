"""A user's own pictures with tags: every form, mistakes, and groups that stay together."""

import json

import pytest
from labelled import lay, ledger, picture, tagged

from jaxtag import datasets
from jaxtag.datasets.base import ImageRecord, hold_out
from jaxtag.errors import UserError

COCO = {
    "images": [{"id": "x", "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}],
    "annotations": [
        {"image_id": "x", "category_id": 5},
        {"image_id": "x", "category_id": 4},
        {"image_id": "x", "category_id": 5},
        {"image_id": 2, "category_id": 5},
    ],
    "categories": [{"id": 4, "name": "sea"}, {"id": 5, "name": "red sky"}],
}
FORMS = {
    "tags.csv": "file,tags,split\na.jpg, sea ;red  sky,train\nb.jpg,red sky,val\n",
    "bars.csv": "file;labels;split\na.jpg;sea|red sky|;train\nb.jpg;red sky;val\n",
    "rows.tsv": "image\ttag\tsplit\na.jpg\tsea\ttrain\nb.jpg\tred sky\tval\n"
    "a.jpg\tred sky\ttrain\n",
    "tags.jsonl": '{"file": "a.jpg", "tags": ["sea", "red sky"]}\n'
    '{"image": "b.jpg", "label": "red sky", "split": "dev"}\n',
    "tags.json": json.dumps(
        [
            {"file": "a.jpg", "keywords": ["sea", "red sky"]},
            {"file": "b.jpg", "tags": ["red sky"], "split": "validation"},
        ]
    ),
}
PICTURES = {"sub/a.jpg": picture(1), "sub/deeper/b.jpg": picture(2)}


@pytest.mark.parametrize("form", FORMS)
def test_each_form(tmp_path, form):
    source = lay(tmp_path / "own", {form: FORMS[form], **PICTURES})
    summary = datasets.prepare("my_tags", source, tmp_path / "d")
    assert tagged(summary, "train") == {"a.jpg": (["red sky", "sea"], [], "")}
    assert tagged(summary, "validation") == {"b.jpg": (["red sky"], [], "")}
    assert summary.left_out == 0
    assert summary.balance == {"red sky": 1, "sea": 1}


UNKNOWN = {
    "t.csv": "file,tags,unknown_tags\na.jpg,sea;sky,sun; red  sky\nb.jpg,,\na.jpg,,sea\n",
    "t.jsonl": '{"file": "a.jpg", "tags": ["sea", "sky"], "unknown_tags": ["sun", "red sky"]}\n'
    '{"file": "b.jpg", "tags": [], "unknown_tags": null}\n',
}


@pytest.mark.parametrize("form", UNKNOWN)
def test_tags_that_nobody_looked_for(tmp_path, form):
    source = lay(tmp_path / "own", {form: UNKNOWN[form], **PICTURES})
    summary = datasets.prepare("my_tags", source, tmp_path / "d")
    tags_by_file = tagged(summary, "train") | tagged(summary, "validation")
    assert tags_by_file == {
        "a.jpg": (["sea", "sky"], ["red sky", "sun"], ""),
        "b.jpg": ([], [], ""),
    }


@pytest.mark.parametrize("beside", [{}, {"person_keypoints_x.json": "{}"}])
def test_cocos_objects(tmp_path, beside):
    files = {"annotations/instances_mine.json": json.dumps(COCO), **PICTURES, **beside}
    summary = datasets.prepare("my_tags", lay(tmp_path / "own", files), tmp_path / "d")
    tags_by_file = tagged(summary, "train") | tagged(summary, "validation")
    assert tags_by_file == {"a.jpg": (["sea", "red sky"], [], ""), "b.jpg": (["red sky"], [], "")}


def test_captions_of_coco_win_over_objects_beside_them(tmp_path):
    captions = COCO | {"annotations": [{"image_id": "x", "caption": "a sea"}]}
    files = {"captions.json": json.dumps(captions), "instances_x.json": json.dumps(COCO)}
    summary = datasets.prepare("mine", lay(tmp_path / "own", files | PICTURES), tmp_path / "d")
    assert summary.splits == {"train": {"pictures": 1, "captions": 1}}


def test_pictures_without_tags_have_none_and_missing_ones_are_told(tmp_path):
    table = "file,tags,split\na.jpg,,train\nb.jpg,sea,train\nc.jpg,sky,train\n"
    summary = datasets.prepare(
        "my_tags", lay(tmp_path / "own", {"t.csv": table, **PICTURES}), tmp_path / "d"
    )
    assert tagged(summary, "train") == {"a.jpg": ([], [], ""), "b.jpg": (["sea"], [], "")}
    assert ledger(summary) == {"c.jpg": "the image is missing"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", "file,tgas\na.jpg,x\n", r"no column 'caption' or 'tags'; there is 'tgas' \(did"),
        ("t.csv", "file,caption,tags\na.jpg,x,y\n", r"captions \(caption\) and tags \(tags\)"),
        ("t.csv", "file,tags\na.jpg,\n", "there are no names of tags"),
        ("t.jsonl", '{"file": "a", "tags": "x", "unknown_tags": {}}', '"unknown_tags" is neither'),
        ("t.csv", "file,tags,split\na.jpg,x,train\na.jpg,y,val\n", r"line 3: a\.jpg.*one split"),
        ("t.csv", "file,tags,group\na.jpg,x,1\na.jpg,y,2\n", r"line 3: a\.jpg is in group '2'"),
        ("t.csv", "file,tags,group\na.jpg,x,1\nb.jpg,y,1\n", "all images are in one group"),
        (
            "t.csv",
            "file,tags,group,split\na.jpg,x,1,train\nb.jpg,y,1,val\n",
            r"line 3: group '1' is in split 'val', but in 'train' in t\.csv, line 2",
        ),
        ("t.jsonl", '{"file": "a.jpg", "tags": [[1]]}', r"line 1: \"tags\" is neither"),
        ("t.jsonl", '{"file": "a.jpg", "tags": "x", "group": 0}', r'"group" is not a text'),
        (
            "t.jsonl",
            '{"file": "a.jpg", "tags": "x"}\n{"file": "b.jpg", "caption": "x"}',
            r"line 2 has captions, but t\.jsonl, line 1 tags",
        ),
        ("t.json", json.dumps(COCO | {"annotations": 3}), '"annotations" is not a list'),
        ("t.json", json.dumps(COCO | {"annotations": [{}]}), r'annotations\[0\] has no "category'),
    ],
)
def test_mistakes_name_file_line_and_column(tmp_path, name, content, message):
    source = lay(tmp_path / "own", {name: content, **PICTURES})
    with pytest.raises(UserError, match=message):
        datasets.prepare("my_tags", source, tmp_path / "d")
    assert not list((tmp_path / "d").glob("my_tags/[!.]*"))


@pytest.mark.parametrize("column", ["tags", "caption"])
def test_a_group_is_held_out_as_a_whole(tmp_path, column):
    files = {f"{n}.jpg": picture(n) for n in range(40)}
    table = "".join(f"{n}.jpg,x,photographer {n % 8}\n" for n in range(40))
    source = lay(tmp_path / "own", {"t.csv": f"file,{column},group\n{table}", **files})
    with datasets.builder_class("mine").open_listing(source) as listing:
        numbers_by_split = {
            split: [int(picture.file[:-4]) for picture in pictures]
            for split, pictures in listing.splits.items()
        }
    assert "validation held out by group" in listing.variant
    assert sorted(numbers_by_split["train"] + numbers_by_split["validation"]) == list(range(40))
    groups = {split: {n % 8 for n in numbers} for split, numbers in numbers_by_split.items()}
    assert groups["validation"]
    assert not groups["train"] & groups["validation"]


def test_the_group_is_kept_in_the_records(tmp_path):
    table = "file,tags,group\na.jpg,x,left\nb.jpg,y,\n"
    source = lay(tmp_path / "own", {"t.csv": table, **PICTURES})
    summary = datasets.prepare("mine", source, tmp_path / "d")
    tags_by_file = tagged(summary, "train") | tagged(summary, "validation")
    assert {file: group for file, (_, _, group) in tags_by_file.items()} == {
        "a.jpg": "left",
        "b.jpg": "",
    }


def test_held_out_groups_stay_when_others_come():
    def held(count):
        pictures = [ImageRecord(f"{n}.jpg", bytes) for n in range(10 * count)]
        groups = {f"{n}.jpg": f"group {n // 10}" for n in range(10 * count)}
        return {groups[picture.file] for picture in hold_out(pictures, groups=groups)["validation"]}

    first = {f"group {n}" for n in range(50)}
    assert held(200) & first == held(50)
    assert 8 <= len(held(200)) <= 36
    for count in (2, 3):
        assert 0 < len(held(count)) < count
