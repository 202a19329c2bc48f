"""COCO's categories as tags, from the official files of either year."""

import json

import pytest
from labelled import lay, ledger, picture, tagged, zipped

from jaxtag import datasets
from jaxtag.errors import UserError

CATEGORIES = [{"id": 3, "name": "car"}, {"id": 1, "name": "person"}, {"id": 90, "name": "brush"}]


def instances(images, objects, categories=CATEGORIES):
    return json.dumps(
        {
            "images": [{"id": key, "file_name": file} for key, file in images.items()],
            "annotations": [
                {"id": 7, "image_id": image, "category_id": category, "iscrowd": crowd, "bbox": []}
                for image, category, crowd in objects
            ],
            "categories": categories,
        }
    )


def coco(year="2017"):
    return {
        f"annotations/instances_train{year}.json": instances(
            {11: "11.jpg", 12: "12.jpg", 13: "13.jpg"}, [(11, 90, 0), (11, 1, 0), (12, 3, 1)]
        ),
        f"annotations/instances_val{year}.json": instances(
            {21: "21.jpg", 22: "22.jpg"}, [(21, 1, 0), (21, 1, 0), (21, 1, 1), (99, 1, 0)]
        ),
        **{f"train{year}/{n}.jpg": picture(n) for n in (11, 12, 13)},
        f"val{year}/21.jpg": picture(21),
    }


@pytest.mark.parametrize("form", ["unpacked", "zips"])
def test_official_layout(tmp_path, form):
    files = coco()
    if form == "zips":
        parts = {"annotations": "annotations_trainval2017"}
        tops = {name.split("/")[0] for name in files}
        files = {
            f"{parts.get(top, top)}.zip": zipped(
                {name: data for name, data in files.items() if name.startswith(top)}
            )
            for top in tops
        } | {"test2017.zip": b"never opened"}
    summary = datasets.prepare("coco_tags", lay(tmp_path / "coco", files), tmp_path / "d")
    assert tagged(summary, "train") == {
        "train2017/11.jpg": (["person", "brush"], [], ""),
        "train2017/12.jpg": (["car"], [], ""),  # a crowd
        "train2017/13.jpg": ([], [], ""),
    }
    assert tagged(summary, "validation") == {"val2017/21.jpg": (["person"], [], "")}
    assert list(summary.balance) == ["brush", "car", "person"]
    left_out = ledger(summary)
    assert left_out.pop("val2017/22.jpg") == "the image is missing"
    ((location, reason),) = left_out.items()
    assert location.endswith("instances_val2017.json: annotations[3]")
    assert "no image with the id 99" in reason


def test_the_year_is_chosen_by_name(tmp_path):
    source = lay(tmp_path / "coco", coco("2014") | coco("2017"))
    for name, year in (("coco_tags", 2017), ("coco_tags_2014", 2014), ("coco_tags_2017", 2017)):
        assert datasets.prepare(name, source, tmp_path / "d").variant == f"COCO {year}"
    only = lay(tmp_path / "only", coco("2014"))
    with pytest.raises(UserError, match=r"instances_\{train,val\}2017\.json(.|\n)*train2017\.zip"):
        datasets.prepare("coco_tags_2017", only, tmp_path / "e")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (instances({1: "a"}, [(1, 2, 0)]), r'annotations\[0\] has no "category_id" of a category'),
        (instances({1: "a"}, [(1, 3, 0)], []), r'annotations\[0\] has no "category_id"'),
        (instances({1: "a"}, [], [{"id": 3}]), r'categories\[0\] needs an "id" of its own'),
        (instances({1: "a"}, [], [*CATEGORIES, CATEGORIES[0]]), r"categories\[3\] needs"),
        (instances({1: "a"}, [], CATEGORIES[:2]), "have different categories"),
        (instances({1: "a"}, [])[:-30], "no JSON"),
        ('{"pictures": []}', 'it has no "images"'),
    ],
)
def test_malformed_instances(tmp_path, content, message):
    files = coco() | {"annotations/instances_val2017.json": content}
    with pytest.raises(UserError, match=message):
        datasets.prepare("coco_tags", lay(tmp_path / "coco", files), tmp_path / "d")
    assert not (tmp_path / "d").exists()


def test_real_coco(real_data, tmp_path):
    folder = real_data / "coco_mini"
    summary = datasets.prepare("coco_tags", folder, tmp_path)
    assert summary.splits["train"] == {"pictures": 80, "tags": 80}
    assert summary.splits["validation"] == {"pictures": 79, "tags": 78}
    assert summary.left_out == 0
    official = json.loads((folder / "annotations/instances_val2017.json").read_text())
    names = {category["id"]: category["name"] for category in official["categories"]}
    expected = {f"val2017/{image['file_name']}": set() for image in official["images"]}
    files = {image["id"]: f"val2017/{image['file_name']}" for image in official["images"]}
    for thing in official["annotations"]:
        expected[files[thing["image_id"]]].add(names[thing["category_id"]])
    tags_by_file = {file: set(tags) for file, (tags, _, _) in tagged(summary, "validation").items()}
    assert tags_by_file == expected
