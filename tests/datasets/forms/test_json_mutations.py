"""Every field of each form of JSON with every wrong kind of value."""

import pytest
from mutations import VALUES, changed, places

from jaxtag.datasets.forms.json_forms import json_form
from jaxtag.errors import UserError

FILES = [f"{n}.jpg" for n in range(8)]
RESULT = {"type": "choices", "value": {"choices": ["cat"]}}
FORMS = {
    "label_studio": [
        {"data": {"image": file}, "annotations": [{"result": [RESULT], "was_cancelled": False}]}
        for file in FILES
    ],
    "label_studio, minimal": [
        {"image": file, "choice": "cat", "annotator": 1, "annotation_id": 3} for file in FILES
    ],
    "llava": [
        {"image": file, "conversations": [{"from": "human", "value": "?"}] * 2}
        | {"conversations": [{"from": "gpt", "value": "A cat."}]}
        for file in FILES
    ],
    "createml": [{"image": file, "annotations": [{"label": "a"}]} for file in FILES],
    "karpathy": {
        "images": [{"filename": f, "split": "train", "sentences": [{"raw": "a"}]} for f in FILES]
    },
    "fiftyone": {"classes": ["a", "b"], "labels": {file: 1 for file in FILES}},
    "fiftyone, objects": {"classes": None, "labels": {file: [{"label": "a"}] for file in FILES}},
    "fiftyone, samples": {
        "samples": [
            {"filepath": file, "tags": ["train"], "ground_truth": {"detections": [{"label": "a"}]}}
            for file in FILES
        ]
    },
    "file_map": {file: [f"a caption of the image {file}"] for file in FILES},
    "table": [{"file_name": file, "objects": {"categories": [1]}} for file in FILES],
}


@pytest.mark.parametrize("name", FORMS)
def test_odd_fields_cost_an_entry_or_end_in_a_message(name):
    content = FORMS[name]
    form = json_form(content)
    assert form.name == name.partition(",")[0]
    assert len(form.read(content, "x.json", None).rows) == len(FILES)
    outcomes = set()
    for path in places(content):
        for value in (*VALUES, places):
            odd = changed(content, path, value)
            try:
                rows = json_form(odd).read(odd, "x.json", None).rows
            except UserError as error:
                assert str(error)
                outcomes.add("refused")
            else:
                outcomes.add(len(rows) == len(FILES))
    assert True in outcomes and len(outcomes) > 1
