"""Sound folders of one's own images in the forms that tools export, for mutation."""

import json
from types import ModuleType

from labelled import picture

Files = dict[str, bytes | str]


def _images(*names: str) -> Files:
    return {name: picture(30 * n) for n, name in enumerate(names)}


def _labelme(name: str, *labels: str) -> str:
    shapes = [{"label": label, "points": [[1, 1]], "shape_type": "polygon"} for label in labels]
    return json.dumps(
        {"version": "5.0", "flags": {"night": True}, "shapes": shapes, "imagePath": name}
        | {"imageData": None, "imageHeight": 8, "imageWidth": 12}
    )


def _json_forms() -> dict[str, Files]:
    box = {"bounding_box": [0.1, 0.2, 0.3, 0.4]}
    chat = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A red bus."}]
    choice = {"from_name": "tag", "to_name": "img", "type": "choices", "value": {"choices": ["c"]}}
    sample = {
        "filepath": "a.jpg",
        "tags": ["train"],
        "ground_truth": {"_cls": "Detections", "detections": [{"label": "cat"} | box]},
    }
    contents = {
        "label_studio": [
            {"id": n, "data": {"image": f"/data/upload/1/0123abcd-{name}.jpg"},
             "annotations": [{"id": 1, "result": [choice], "was_cancelled": False}]}
            for n, name in enumerate("ab")
        ],
        "label_studio_min": [{"id": n, "image": f"{name}.jpg", "choice": "cat", "annotator": 1,
                              "annotation_id": 7} for n, name in enumerate("ab")],
        "llava": [{"id": name, "image": f"{name}.jpg", "conversations": chat} for name in "ab"],
        "file_map": {f"{name}.jpg": ["A dog runs over the grass.", "A dog."] for name in "ab"},
        "karpathy": {"images": [{"filename": f"{n}.jpg", "split": s, "sentences": [{"raw": "A."}]}
                                for n, s in (("a", "train"), ("b", "val"))]},
    }  # fmt: skip
    images = _images("a.jpg", "b.jpg")
    forms: dict[str, Files] = {
        name: {"own.json": json.dumps(content), **images} for name, content in contents.items()
    }
    createml = [{"image": "a.jpg", "annotations": [{"label": "cat", "coordinates": {"x": 1}}]}]
    forms["createml"] = {"_annotations.createml.json": json.dumps(createml), **images}
    labels = {"classes": ["dog", "cat"], "labels": {"a": 1, "b": 0}}
    forms["fiftyone labels"] = {
        "labels.json": json.dumps(labels),
        **_images("data/a.jpg", "data/b.jpg"),
    }
    forms["fiftyone"] = {
        "metadata.json": json.dumps({"name": "mine", "media_type": "image"}),
        "samples.json": json.dumps({"samples": [sample, {**sample, "filepath": "b.jpg"}]}),
        **images,
    }
    objects = {"bbox": [[1, 2, 3, 4]], "categories": [1]}
    lines = [json.dumps({"file_name": f"{name}.jpg", "objects": objects}) for name in "ab"]
    forms["hugging face"] = {"metadata.jsonl": "\n".join(lines), **images}
    return forms


def forms(layouts: ModuleType, parquets: ModuleType) -> dict[str, Files]:
    """Form -> the files of a folder.

    Args:
        layouts, parquets: the tests of these forms, for what they write.
    """
    yaml = layouts.YAML.format(train="images/train", val="images/val", names="['cat', 'dog']")
    table = parquets.table(0, 6, {"label": parquets.CLASSES}, label=[n % 2 for n in range(6)])
    shard = layouts.shard(0, cls=lambda index: str(index % 2), json=json.dumps({"a": 1}))
    texts = ["A red bus, in the rain.", "Two cats that sleep on a sofa."]
    cvat_images = _images("images/sub/a.jpg", "images/b.jpg", "images/c.jpg", "images/d.jpg")
    return {
        "yolo": {
            "data.yaml": yaml,
            **_images("images/train/a.jpg", "images/train/b.jpg", "images/val/c.jpg"),
            "labels/train/a.txt": "1 0.5 0.5 0.25 0.25\n0 0.1 0.1 0.2 0.2\n",
            "labels/val/c.txt": "0 0.5 0.5 0.25 0.25\n",
        },
        "voc": {
            **{f"Annotations/{name}.xml": layouts.voc(f"{name}.jpg", "cat") for name in "ab"},
            "ImageSets/Main/train.txt": "a\n",
            "ImageSets/Main/val.txt": "b\n",
            **_images("JPEGImages/a.jpg", "JPEGImages/b.jpg"),
        },
        "cvat": {"annotations.xml": layouts.CVAT, **cvat_images},
        "labelme": {
            "train/a.json": _labelme("a.jpg", "cat"),
            "val/b.json": _labelme("b.jpg", "cat"),
            **_images("train/a.jpg", "val/b.jpg"),
        },
        "texts": {f"{n}.txt": text for n, text in enumerate(texts)} | _images("0.jpg", "1.jpg"),
        "webdataset": {"train-000000.tar": shard, "train-000001.tar": layouts.shard(1, cls="1")},
        "parquet": {"data/train-00000-of-00001.parquet": parquets.parquet(table)},
        "arrow": {"train/data-00000-of-00001.arrow": parquets.stream(table)},
        **_json_forms(),
    }
