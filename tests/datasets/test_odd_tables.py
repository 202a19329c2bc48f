"""Tables as programs and people write them: paths, columns, separators, odd entries."""

import json

import pytest
from labelled import annotations, lay, list_own, picture

from jaxtag import datasets
from jaxtag.datasets import preview
from jaxtag.datasets.source_files import SourceFiles
from jaxtag.errors import UserError

COUNT = 12
IMAGES = {f"images/{n}.jpg": picture(20 * n) for n in range(COUNT)}
BASES = [f"{n}.jpg" for n in range(COUNT)]


def own(tmp_path, name, content):
    return list_own(lay(tmp_path, IMAGES | {name: content}))


def num_images(listing):
    return sum(map(len, listing.splits.values()))


@pytest.mark.parametrize(
    "spelled",
    [
        "/home/me/data/images/{}.jpg",
        "C:\\Users\\me\\ds\\images\\{}.jpg",
        "file:///srv/images/{}.jpg",
        "../images/{}.jpg",
        "./images/../images/{}.jpg",
        "dataset_v1/images/{}.jpg",
        "{}.JPG",
        "Images/{}.Jpg",
        "{}",
        "{}%2Ejpg",
        "elsewhere/{}.jpg",
    ],
)
def test_paths_are_found_by_their_longest_ending(tmp_path, spelled):
    rows = "".join(f"{spelled.format(n)},a cat\n" for n in range(COUNT))
    listing = own(tmp_path, "captions.csv", f"file,caption\n{rows}")
    assert num_images(listing) == COUNT
    assert not listing.problems


def test_an_ending_is_no_reason_to_take_another_image(tmp_path):
    names = ("cat/1.jpg", "dog/2.jpg", "wrap/train/cat/3.jpg", "wrap/val/cat/4.jpg")
    lay(tmp_path, {name: picture() for name in names} | {"wrap/a.txt": "x"})
    with SourceFiles(tmp_path) as source:
        assert source.locate("dog/1.jpg") == []
        assert source.locate("/x/cat/1.jpg") == ["cat/1.jpg"]
        assert source.locate("val/cat/3.jpg") == []
        assert source.locate("D:\\old\\train\\cat\\3.jpg") == ["wrap/train/cat/3.jpg"]
        assert source.locate("a") == []


def test_one_image_under_two_names_is_one_record(tmp_path):
    table = "file,tags\n0.jpg,sea\nimages/0.jpg,sky\n1.jpg,sea\n"
    listing = own(tmp_path, "tags.csv", table)
    assert annotations(listing, "tags") == {"0.jpg": ["sea", "sky"], "1.jpg": ["sea"]}
    unused = {f"images/{n}.jpg" for n in range(2, COUNT)}
    assert {file for file, reason in listing.problems if "names it" in reason} == unused


def rows_of(form):
    return "".join(form.format(n, n % 3, n % 2, 1 - n % 2) for n in range(COUNT))


@pytest.mark.parametrize(
    ("name", "content", "tags"),
    [
        ("tags.csv", ",file,tags\n" + rows_of("{0},{0}.jpg,sea;sky\n"), ["sea", "sky"]),
        ("tags.csv", "file,tags\r" + rows_of("{0}.jpg,sea\r"), ["sea"]),
        ("tags.csv", "File,Tags\r\n" + rows_of("{0}.jpg,sea\r\n"), ["sea"]),
        ("l.jsonl", rows_of('{{"file": "{0}.jpg", "label": {1}}}\n'), ["0", "1", "2"]),
        ("train_v2.csv", "image_name,tags\n" + rows_of("{0},haze primary\n"), ["haze", "primary"]),
        ("labels.csv", "id,breed\n" + rows_of("{0},pug {1}\n"), ["pug 0", "pug 1", "pug 2"]),
        ("labels.csv", "file,cat,dog\n" + rows_of("{0}.jpg,{2},{3}\n"), ["cat", "dog"]),
        ("labels.csv", "Image Name,Finding\n" + rows_of("{0}.jpg,f{1}\n"), ["f0", "f1", "f2"]),
        ("labels.csv", "fname,labels,is_valid\n" + rows_of("{0}.jpg,a b,{2}\n"), ["a", "b"]),
        ("labels.csv", "file,label\n" + rows_of("{0}.jpg,1{1}\n"), ["10", "11", "12"]),
    ],
)
def test_common_tables_of_labels(tmp_path, name, content, tags):
    listing = own(tmp_path, name, content)
    assert num_images(listing) == COUNT
    assert listing.features["tags"].feature.names == tags


def test_flags_may_be_unsure(tmp_path):
    table = "file,cat,dog\n0.jpg,1,-1\n1.jpg,,0\n2.jpg,1.0,0.0\n"
    listing = own(tmp_path, "labels.csv", table)
    fields = {i.file: i.fields for images in listing.splits.values() for i in images}
    assert [fields[f"{n}.jpg"]["tags"] for n in range(3)] == [[0], [], [0]]
    assert [fields[f"{n}.jpg"]["unknown_tags"] for n in range(3)] == [[1], [0], []]


def test_one_label_each_is_a_class_too(tmp_path):
    listing = own(tmp_path, "labels.csv", "file,label\n" + rows_of("{0}.jpg,c{1}\n"))
    assert annotations(listing, "label") == {f"{n}.jpg": f"c{n % 3}" for n in range(COUNT)}
    for table in ("file,label\n0.jpg,a\n0.jpg,b\n1.jpg,a\n", "file,tags\n0.jpg,a\n1.jpg,b\n"):
        assert "label" not in own(tmp_path / str(len(table)), "labels.csv", table).features


def test_commas_in_tags_are_told(tmp_path):
    listing = own(tmp_path, "tags.csv", "file,tags\n" + rows_of('{0}.jpg,"sea, sky"\n'))
    assert "hold a comma" in listing.warnings[0]
    assert "write ;" in listing.warnings[0]
    rare = own(tmp_path / "b", "tags.csv", "file,tags\n" + rows_of("{0}.jpg,sea\n"))
    assert not rare.warnings


def test_names_of_several_words_stay_whole(tmp_path):
    listing = own(tmp_path, "tags.csv", "file,tags\n" + rows_of("{0}.jpg,red sky {1}\n"))
    assert listing.features["tags"].feature.names == ["red sky 0", "red sky 1", "red sky 2"]


def coco(annotations=None, categories=None, images=None):
    categories = categories or [{"id": n + 1, "name": name} for n, name in enumerate("abc")]
    images = images or [{"id": n, "file_name": f"{n}.jpg"} for n in range(COUNT)]
    if annotations is None:
        annotations = [{"image_id": n, "category_id": 1 + n % 3} for n in range(COUNT)]
    return {"images": images, "annotations": annotations, "categories": categories}


ODD = [
    None,
    3,
    "x",
    [],
    {"image_id": 0, "category_id": 77},
    {"image_id": 0, "category_id": None},
    {"image_id": 0, "category_id": [1]},
    {"image_id": 0},
    {"image_id": 0, "category_id": {}},
]


@pytest.mark.parametrize("odd", ODD)
def test_one_odd_box_costs_a_ledger_line(tmp_path, odd):
    content = coco()
    content["annotations"].append(odd)
    listing = own(tmp_path, "instances.json", json.dumps(content))
    assert num_images(listing) == COUNT
    assert [location for location, _ in listing.problems] == ["instances.json: annotations[12]"]


@pytest.mark.parametrize(
    "odd",
    [
        None,
        3,
        {"id": None, "file_name": "x.jpg"},
        {"id": 99},
        {"id": [1], "file_name": "x.jpg"},
        {"id": 98, "file_name": None},
    ],
)
def test_one_odd_image_costs_a_ledger_line(tmp_path, odd):
    content = coco()
    content["images"].append(odd)
    listing = own(tmp_path, "instances.json", json.dumps(content))
    assert num_images(listing) == COUNT
    assert [location for location, _ in listing.problems] == ["instances.json: images[12]"]


@pytest.mark.parametrize("kind", ["categories", "annotations", "images", "all"])
def test_ids_may_be_texts(tmp_path, kind):
    content = coco()
    if kind in ("categories", "all"):
        content["categories"] = [{**c, "id": str(c["id"])} for c in content["categories"]]
    if kind in ("annotations", "all"):
        for box in content["annotations"]:
            box |= {"category_id": str(box["category_id"]), "image_id": float(box["image_id"])}
    if kind in ("images", "all"):
        content["images"] = [{**i, "id": str(i["id"])} for i in content["images"]]
    listing = own(tmp_path, "instances.json", json.dumps(content))
    assert annotations(listing, "tags") == {f"{n}.jpg": ["abc"[n % 3]] for n in range(COUNT)}


def test_categories_keep_their_numbers_whatever_occurs(tmp_path):
    categories = [{"id": 7, "name": "z"}, {"id": 2, "name": "never"}, {"id": 9, "name": "a"}]
    boxes = [{"image_id": 0, "category_id": 9}, {"image_id": 1, "category_id": 7}]
    listing = own(tmp_path, "instances.json", json.dumps(coco(boxes, categories)))
    assert listing.features["tags"].feature.names == ["never", "z", "a"]
    assert num_images(own(tmp_path / "b", "instances.json", json.dumps(coco([])))) == COUNT


@pytest.mark.parametrize(
    "odd",
    [
        '{"file": null, "caption": "x"}',
        '{"file": "0.jpg", "caption": null}',
        '{"file": "0.jpg", "caption": 3}',
        '{"file": "0.jpg", "caption": {"a": 1}}',
        '{"file": ["0.jpg"], "caption": "x"}',
        '{"file": "", "caption": "x"}',
        '{"file": "0.jpg"}',
        '{"fiel": "0.jpg", "caption": "x"}',
        '{"file": "0.jpg", "caption": "x", "split": 3}',
        "[1, 2]",
        "null",
        "{oops",
        "[" * 100_000,
    ],
)
def test_one_odd_line_costs_a_ledger_line(tmp_path, odd):
    rows = rows_of('{{"file": "{0}.jpg", "caption": "x"}}\n')
    listing = own(tmp_path, "captions.jsonl", rows + odd + "\n")
    assert num_images(listing) == COUNT
    assert [location for location, _ in listing.problems] == ["captions.jsonl, line 13"]


def test_too_many_odd_lines_stop_it(tmp_path):
    good = rows_of('{{"file": "{0}.jpg", "caption": "x"}}\n')
    odd = '{"file": null, "caption": "x"}\n' * 6
    with pytest.raises(UserError, match=r'line 13: "file" is not a text \(and 5 others of 18'):
        own(tmp_path, "captions.jsonl", good + odd)


def test_a_part_of_the_captions_may_be_null(tmp_path):
    listing = own(tmp_path, "captions.jsonl", '{"file": "0.jpg", "captions": ["a", null]}\n')
    assert listing.splits["train"][0].fields["captions"] == ["a"]
    assert (
        "captions.jsonl, line 1",
        '"captions" is neither a text nor a list of texts: what is one is used',
    ) in listing.problems


def test_integers_of_thousands_of_digits(tmp_path):
    digits = "9" * 5000
    rows = rows_of('{{"file": "{0}.jpg", "caption": "x", "n": ' + digits + "}}\n")
    assert num_images(own(tmp_path, "captions.jsonl", rows)) == COUNT
    content = json.dumps(coco()).replace('"category_id": 1}', '"category_id": ' + digits + "}", 1)
    listing = own(tmp_path / "b", "instances.json", content)
    assert len(listing.problems) == 1


def test_json_that_is_nested_too_deeply(tmp_path):
    with pytest.raises(UserError, match="nested too deeply"):
        own(tmp_path, "a.json", "[" * 100_000)


def test_a_row_too_long_costs_a_ledger_line(tmp_path):
    table = "file,caption\n" + rows_of("{0}.jpg,x\n") + "0.jpg,y, z\n"
    listing = own(tmp_path, "captions.csv", table)
    assert num_images(listing) == COUNT
    assert "line 14" in listing.problems[0][0]


def test_very_long_words_end_in_examples(tmp_path):
    rows = "".join(
        json.dumps({"file": f"{n}.jpg", "caption": "y" * 100_000}) + "\n" for n in range(2)
    )
    source = lay(tmp_path / "s", IMAGES | {"captions.jsonl": rows})
    summary = datasets.prepare("mine", source, tmp_path / "d")
    assert preview.draw_examples(summary.folder, "train").exists()
