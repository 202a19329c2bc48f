"""Annotations in JSON as tools export them; the layouts are those of each tool's documentation."""

import json

import pytest
from labelled import lay, list_own, listed, picture

from jaxtag.errors import UserError

SPLIT = {"train.json": 0, "val.json": 1}


def two_splits(folder, entries, images, whole=lambda entries: entries):
    """The source with train.json and val.json of one entry each, beside the images."""
    files = {name: json.dumps(whole(entries[n : n + 1])) for name, n in SPLIT.items()}
    files |= {name: picture(30 * n) for n, name in enumerate(images)}
    return lay(folder, files)


def task(image, *results, **others):
    annotation = {"id": 1001, "result": list(results), "was_cancelled": False, "lead_time": 4.3}
    return {
        "id": 1,
        "data": {"image": image},
        "annotations": [annotation],
        "predictions": [],
    } | others


def result(kind, value):
    return {"from_name": "tag", "to_name": "img", "type": kind, "value": {kind: value, "x": 1.5}}


def test_label_studio_by_its_hashed_names(tmp_path):
    """https://labelstud.io/guide/task_format"""
    entries = [
        task("/data/upload/3/1a2b3c4d-red%20cat.jpg", result("choices", ["cat"])),
        task("/data/local-files/?d=pets%2Fdog.jpg", result("choices", ["dog"])),
    ]
    source = two_splits(tmp_path, entries, ["red cat.jpg", "pets/dog.jpg"])
    listing = list_own(source)
    assert listing.form.startswith("a Label Studio export (train.json and 1 more): 2 splits, 2 im")
    assert listed(listing) == [
        ("train", "red cat.jpg", ["cat"]),
        ("validation", "pets/dog.jpg", ["dog"]),
    ]
    assert "label" in listing.features


def test_label_studio_with_boxes_captions_and_skipped_tasks(tmp_path):
    first = task(
        "s3://bucket/a.jpg", result("rectanglelabels", ["car"]), result("text", ["A car."])
    )
    again = {"result": [result("polygonlabels", ["van"])], "ground_truth": True}
    first["annotations"].append(again)
    second = task("b.jpg", result("taxonomy", [["animal", "dog"], ["thing"]]))
    skipped = task("c.jpg")
    skipped["annotations"][0]["was_cancelled"] = True
    content = json.dumps([first, second, skipped, task("d.jpg", result("brushlabels", ["car"]))])
    images = {f"{name}.jpg": picture(50 * n) for n, name in enumerate("abcd")}
    listing = list_own(lay(tmp_path, {"project.json": content, **images}))
    assert {file: tags for _, file, tags in listed(listing)} == {
        "a.jpg": ["van"],
        "b.jpg": ["dog", "thing"],
        "d.jpg": ["car"],
    }
    assert "label" not in listing.features
    assert ("project.json, entry 2", "c.jpg was not annotated, or skipped") in listing.problems
    assert any("1 images were annotated several times" in text for text in listing.warnings)


def test_label_studio_with_both_kinds_asks_which(tmp_path):
    entry = task("a.jpg", result("choices", ["cat"]), result("text", ["A cat."]))
    source = lay(tmp_path, {"project.json": json.dumps([entry]), "a.jpg": picture()})
    with pytest.raises(UserError, match=r"--as=label_studio:captions or --as=label_studio:tags"):
        list_own(source)
    assert listed(list_own(source, "label_studio:captions")) == [("train", "a.jpg", ["A cat."])]
    assert listed(list_own(source, "label_studio:tags")) == [("train", "a.jpg", ["cat"])]


def test_label_studio_json_min(tmp_path):
    """https://labelstud.io/guide/export#JSON-MIN"""
    others = {"id": 1, "annotator": 1, "annotation_id": 7, "created_at": "2024", "lead_time": 1.2}
    content = [
        {"image": "/data/upload/1/0123abcd-a.jpg", "choice": "cat"} | others,
        {"image": "b.jpg", "choice": {"choices": ["cat", "dog"]}} | others,
        {"image": "c.jpg", "label": [{"x": 1.0, "rectanglelabels": ["bus"]}]} | others,
    ]
    images = {f"{name}.jpg": picture(50 * n) for n, name in enumerate("abc")}
    listing = list_own(lay(tmp_path, {"project.json": json.dumps(content), **images}))
    assert {file: tags for _, file, tags in listed(listing)} == {
        "a.jpg": ["cat"],
        "b.jpg": ["cat", "dog"],
        "c.jpg": ["bus"],
    }


def test_llava(tmp_path):
    """https://github.com/haotian-liu/LLaVA/blob/main/docs/Finetune_Custom_Data.md"""
    entries = [
        {
            "id": "1",
            "image": "coco/train2017/1.jpg",
            "conversations": [
                {"from": "human", "value": "<image>\nDescribe it."},
                {"from": "gpt", "value": "A red bus."},
                {"from": "human", "value": "Where?"},
                {"from": "gpt", "value": "In London."},
            ],
        },
        {
            "id": "2",
            "image": "2.jpg",
            "conversations": [
                {"from": "human", "value": "What is it?\n<image>"},
                {"from": "gpt", "value": "A cat."},
            ],
        },
    ]
    source = two_splits(tmp_path, entries, ["train2017/1.jpg", "2.jpg"])
    listing = list_own(source)
    assert listed(listing) == [
        ("train", "train2017/1.jpg", ["A red bus."]),
        ("validation", "2.jpg", ["A cat."]),
    ]
    assert any("1 conversations have several answers" in text for text in listing.warnings)
    text_only = entries[1] | {"image": None}
    content = json.dumps([*entries, text_only, {"conversations": 3}, *entries[1:], *entries[1:]])
    listing = list_own(lay(tmp_path / "b", {"x.json": content, "1.jpg": b"1", "2.jpg": b"2"}))
    assert ("x.json, entry 2", "a conversation without an image") in listing.problems
    assert any(place == "x.json, entry 3" for place, _ in listing.problems)


def test_karpathys_form_of_ones_own(tmp_path):
    """https://cs.stanford.edu/people/karpathy/deepimagesent/: dataset.json"""

    def image(name, split, *captions):
        sentences = [{"raw": text, "tokens": text.split(), "imgid": 0} for text in captions]
        return {"filename": name, "split": split, "sentences": sentences, "imgid": 0}

    images = [
        image("a.jpg", "train", "A sea.", "Waves."),
        image("b.jpg", "restval", "A dog."),
        image("c.jpg", "val", "A cat.") | {"filepath": "val2014"},
        image("d.jpg", "test", "A bus."),
        {"filename": "e.jpg", "split": "test"},
    ]
    content = json.dumps({"images": images, "dataset": "mine"})
    names = ["a.jpg", "b.jpg", "val2014/c.jpg", "d.jpg", "other/c.jpg"]
    pictures = {name: picture(40 * n) for n, name in enumerate(names)}
    listing = list_own(lay(tmp_path, {"dataset.json": content, **pictures}))
    assert listed(listing) == [
        ("test", "d.jpg", ["A bus."]),
        ("train", "a.jpg", ["A sea.", "Waves."]),
        ("train", "b.jpg", ["A dog."]),
        ("validation", "val2014/c.jpg", ["A cat."]),
    ]
    assert any(place == "dataset.json: images[4]" for place, _ in listing.problems)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((["A dog runs over the grass.", "A brown dog runs."], "Two cats sleep on a sofa."), None),
        ((["cat", "sofa"], "dog"), [["cat", "sofa"], ["dog"]]),
    ],
)
def test_objects_of_files(tmp_path, values, expected):
    files = {"a.jpg": picture(1), "b.png": picture(2, "PNG")}
    content = json.dumps(dict(zip(files, values, strict=True)))
    listing = list_own(lay(tmp_path, {"own.json": content, **files}))
    expected = expected or [values[0], [values[1]]]
    assert [value for _, _, value in sorted(listed(listing), key=lambda e: e[1])] == expected


def test_objects_of_files_that_may_be_either(tmp_path):
    content = {"a.jpg": ["the old town"], "b.jpg": ["a new bridge"]}
    files = {"own.json": json.dumps(content), "a.jpg": picture(1), "b.jpg": picture(2)}
    source = lay(tmp_path, files)
    with pytest.raises(UserError, match=r"'the old town' may be captions or tags: say which with"):
        list_own(source)
    assert list_own(source, "file_map:tags").features.keys() >= {"tags"}
    assert list_own(source, "file_map:captions").features.keys() >= {"captions"}


def test_create_ml_as_roboflow_exports_it(tmp_path):
    """https://roboflow.com/formats/createml-json: _annotations.createml.json in each split"""

    def content(file, *labels):
        box = {"x": 1, "y": 2, "width": 3, "height": 4}
        return json.dumps(
            [
                {
                    "image": file,
                    "annotations": [{"label": name, "coordinates": box} for name in labels],
                }
            ]
        )

    files = {
        "train/_annotations.createml.json": content("a.jpg", "cat", "dog", "cat"),
        "valid/_annotations.createml.json": content("a.jpg", "dog"),
        "train/a.jpg": picture(1),
        "valid/a.jpg": picture(2),
    }
    listing = list_own(lay(tmp_path, files))
    assert listing.form.startswith("a Roboflow Create ML export")
    assert listed(listing) == [
        ("train", "train/a.jpg", ["cat", "dog"]),
        ("validation", "valid/a.jpg", ["dog"]),
    ]


def test_fiftyones_image_classification(tmp_path):
    """https://docs.voxel51.com/user_guide/export_datasets.html: data/ and labels.json"""
    content = {"classes": ["dog", "cat"], "labels": {"a": 1, "sub/b": 0, "c": None, "d": 7, "e": 1}}
    names = ["data/a.jpg", "data/sub/b.png", "data/c.jpg", "data/d.jpg", "data/e.jpg"]
    files = {name: picture(40 * n) for n, name in enumerate(names)}
    listing = list_own(lay(tmp_path, {"labels.json": json.dumps(content), **files}))
    assert listing.form.startswith("a FiftyOne export of labels")
    assert listing.features["tags"].feature.names == ["dog", "cat"]
    assert {file: tags for _, file, tags in listed(listing)} == {
        "data/a.jpg": ["cat"],
        "data/sub/b.png": ["dog"],
        "data/c.jpg": [],
        "data/e.jpg": ["cat"],
    }
    assert ("labels.json: 'd'", "a label is neither a name nor the number of a class") in (
        listing.problems
    )


def test_fiftyones_image_detection(tmp_path):
    box = {"bounding_box": [0.1, 0.2, 0.3, 0.4], "attributes": {}}
    labels = {"a": [{"label": "cat"} | box, {"label": "bus"} | box], "b": [{"label": "bus"} | box]}
    files = {"data/a.jpg": picture(1), "data/b.jpg": picture(2)}
    content = json.dumps({"classes": None, "labels": labels})
    listing = list_own(lay(tmp_path, {"labels.json": content, **files}))
    assert [tags for _, _, tags in sorted(listed(listing), key=lambda e: e[1])] == [
        ["bus", "cat"],
        ["bus"],
    ]


def test_a_fiftyone_dataset(tmp_path):
    """https://docs.voxel51.com/user_guide/export_datasets.html: metadata.json, samples.json"""

    def sample(name, split, *labels):
        items = [
            {"_cls": "Detection", "label": label, "bounding_box": [0, 0, 1, 1]} for label in labels
        ]
        detections = {"_cls": "Detections", "detections": items}
        predictions = {"_cls": "Classification", "label": "x"}
        return {
            "filepath": f"data/{name}",
            "tags": [split, "checked"],
            "predictions": predictions,
            "ground_truth": detections,
        }

    samples = [sample("a.jpg", "train", "cat", "dog"), sample("b.jpg", "validation", "dog")]
    files = {
        "metadata.json": json.dumps({"name": "mine", "media_type": "image", "version": "1.0"}),
        "samples.json": json.dumps({"samples": samples}),
        "data/a.jpg": picture(1),
        "data/b.jpg": picture(2),
    }
    listing = list_own(lay(tmp_path, files))
    assert listed(listing) == [
        ("train", "data/a.jpg", ["cat", "dog"]),
        ("validation", "data/b.jpg", ["dog"]),
    ]
    assert any("'ground_truth' is read" in text for text in listing.warnings)


def test_objects_of_hugging_face(tmp_path):
    """https://huggingface.co/docs/datasets/image_dataset: metadata.jsonl with "objects" """
    lines = [
        {
            "file_name": "a.jpg",
            "objects": {"bbox": [[1, 2, 3, 4], [1, 2, 3, 4]], "categories": [1, 0]},
        },
        {"file_name": "b.jpg", "objects": {"bbox": [], "categories": []}},
    ]
    files = {"metadata.jsonl": "\n".join(map(json.dumps, lines)), "a.jpg": picture(1)}
    listing = list_own(lay(tmp_path, {**files, "b.jpg": picture(2)}))
    assert listing.form.startswith("a Hugging Face imagefolder")
    assert {file: tags for _, file, tags in listed(listing)} == {"a.jpg": ["0", "1"], "b.jpg": []}
