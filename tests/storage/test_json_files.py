"""Damaged JSON is one error that names the file, whatever the damage."""

import pytest

from jaxtag.config import serialization
from jaxtag.data.labels import LabelNames
from jaxtag.errors import UserError
from jaxtag.storage import json_files
from jaxtag.tasks.tag.calibration import TagCalibration
from jaxtag.weights import safetensors_io

DAMAGED = {
    "nested": ("[" * 100_000, "nested too deeply"),
    "nested and closed": ('{"a":' * 900 + "1" + "}" * 900, "nested too deeply"),
    "digits": ('{"a": ' + "9" * 5_000 + "}", "thousands of digits"),
    "cut": ('{"a": 1', "damaged"),
    "empty": ("", "damaged"),
    "LFS": ("version https://git-lfs.github.com/spec/v1\noid sha256:a\nsize 1\n", "Git LFS"),
    "latin-1": ('{"a": "\udce9"}', "no UTF-8"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_every_reader_names_the_damage(tmp_path, damage: str) -> None:
    text, message = DAMAGED[damage]
    path = tmp_path / "config.json"
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    readers = (
        json_files.read,
        LabelNames.load,
        safetensors_io.read_json,
        lambda path: serialization.load(path.parent),
        lambda path: TagCalibration.load(path, ("a",)),
    )
    for read in readers:
        with pytest.raises(UserError, match=message) as error:
            read(path)
        assert str(path) in str(error.value)


def test_what_is_whole_is_read(tmp_path) -> None:
    path = tmp_path / "a.json"
    path.write_text('\ufeff{"a": [1, {"b": null}]}', encoding="utf-8")
    assert json_files.read(path) == {"a": [1, {"b": None}]}
    with pytest.raises(UserError, match="cannot be read"):
        json_files.read(tmp_path / "absent.json")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "true", '"0.5"', "null"])
def test_a_threshold_is_a_finite_number(tmp_path, number: str) -> None:
    path = tmp_path / "1.json"
    path.write_text(f'{{"scale": 1.0, "shift": 0.0, "thresholds": {{"a": {number}}}}}')
    with pytest.raises(UserError, match="damaged"):
        TagCalibration.load(path, ("a",))
