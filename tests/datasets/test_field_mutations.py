"""Every field of every form of annotations with every wrong kind of value."""

import copy
import json

import pytest
from labelled import lay, list_own, picture
from mutations import VALUES, changed, places

from jaxtag.errors import UserError

IMAGES = {f"{n}.jpg": picture(20 * n) for n in range(8)}
COCO = {
    "images": [{"id": n, "file_name": f"{n}.jpg"} for n in range(8)],
    "categories": [{"id": 1, "name": "a", "supercategory": "s"}, {"id": 2, "name": "b"}],
}
FORMS = {
    "captions.json": COCO
    | {"annotations": [{"id": n, "image_id": n, "caption": "x"} for n in range(8)]},
    "instances.json": COCO
    | {"annotations": [{"id": n, "image_id": n, "category_id": 1 + n % 2} for n in range(8)]},
    "tags.json": [
        {"file": f"{n}.jpg", "tags": ["a", "b"], "unknown_tags": ["c"], "group": f"g{n}",
         "split": "train" if n < 6 else "val"}
        for n in range(8)
    ],
    "list.json": [{"file_name": f"{n}.jpg", "captions": ["a", "b"]} for n in range(8)],
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_fields_of_json(tmp_path, form):
    folder = lay(tmp_path, IMAGES)
    outcomes = {"listed": 0, "refused": 0}
    for path in places(FORMS[form]):
        for value in (*VALUES, places):
            if value is places and not path:
                continue
            text = json.dumps(changed(FORMS[form], path, value))
            (folder / form).write_text(text.replace('"' + "9" * 5000 + '"', "9" * 5000))
            try:
                listing = list_own(folder)
            except UserError as error:
                outcomes["refused"] += 1
                assert len(str(error)) < 1500
            else:
                outcomes["listed"] += 1
                for images in listing.splits.values():
                    for image in images:
                        image.file.encode()
                        json.dumps(dict(image.fields), ensure_ascii=False).encode()
    assert all(outcomes.values())


@pytest.mark.parametrize("columns", ["file,caption,split,group", "file,tags,unknown_tags"])
def test_fields_of_csv(tmp_path, columns):
    folder = lay(tmp_path, IMAGES)
    count = columns.count(",") + 1
    rows = [columns.split(","), *([f"{n}.jpg", "a;b", "", ""][:count] for n in range(8))]
    values = ["", " ", "x", "\0", '"', '""', ",", "a\nb", "../0.jpg", "C:\\0.jpg", "9" * 5000, "é"]
    for row in range(3):
        for column in range(count):
            for value in values:
                fields = copy.deepcopy(rows)
                fields[row][column] = value
                (folder / "t.csv").write_text("".join(",".join(line) + "\n" for line in fields))
                try:
                    list_own(folder)
                except UserError as error:
                    assert "\n" not in str(error).strip() or len(str(error)) < 6000
