"""The forms of JSON, the most particular first."""

from typing import Any

from jaxtag.datasets.forms import (
    coco,
    createml,
    fiftyone,
    file_map,
    karpathy,
    label_studio,
    llava,
    objects,
)
from jaxtag.datasets.forms.base import JsonForm

JSON_FORMS = (
    label_studio.FORM,
    label_studio.MIN_FORM,
    llava.FORM,
    createml.FORM,
    karpathy.FORM,
    fiftyone.FORM,
    fiftyone.SAMPLES_FORM,
    file_map.FORM,
    objects.FORM,
    coco.FORM,
)


def json_form(content: Any) -> JsonForm:
    """The form that the content of a JSON file is in."""
    return next(form for form in JSON_FORMS if form.matches(content))
