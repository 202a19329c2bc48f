"""Every prediction of an evaluation, in the formats of `evaluate --predictions`."""

import json

import numpy as np
import pytest

from jaxtag.errors import UsageError
from jaxtag.inference.writers.prediction_file import check_path, write_predictions
from jaxtag.tasks.base import Evaluation, EvaluationData
from jaxtag.tasks.caption.evaluation import CaptionEvaluation

NAMES = ("sea", "sky", "dog")


class Files:
    """A split of four records, of which the third cannot be decoded."""

    features = ("file", "image")

    def iter_fields(self, names):
        assert names == ["file"]
        return iter([{"file": f"{number}.jpg"} for number in range(4)])


@pytest.fixture
def data() -> EvaluationData:
    rows = {
        "scores": np.float32([[0.1, 0.2, 0.9], [0.5, 0.25, 0], [1, 0, 0]]),
        "tags": np.array([[0, 0, 1], [1, 1, 0], [0, 0, 0]], bool),
        "label": np.int32([2, 0, 0]),
    }
    return EvaluationData({}, rows, np.int64([0, 1, 3]), {}, Files(), "test")


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_json_lines_name_everything(data, tmp_path):
    write_predictions(tmp_path / "p.jsonl", Evaluation({}, data), NAMES)
    assert lines(tmp_path / "p.jsonl")[:2] == [
        {
            "index": 0,
            "file": "0.jpg",
            "scores": {"sea": 0.1, "sky": 0.2, "dog": 0.9},
            "tags": ["dog"],
            "label": "dog",
        },
        {
            "index": 1,
            "file": "1.jpg",
            "scores": {"sea": 0.5, "sky": 0.25, "dog": 0.0},
            "tags": ["sea", "sky"],
            "label": "sea",
        },
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["p.jsonl"]


def test_npz_and_parquet_hold_arrays(data, tmp_path):
    write_predictions(tmp_path / "p.npz", Evaluation({}, data), NAMES)
    arrays = np.load(tmp_path / "p.npz")
    assert arrays["names"].tolist() == list(NAMES)
    assert arrays["files"].tolist() == ["0.jpg", "1.jpg", "3.jpg"]
    np.testing.assert_array_equal(arrays["scores"], data.rows["scores"])
    parquet = pytest.importorskip("pyarrow.parquet")
    write_predictions(tmp_path / "p.parquet", Evaluation({}, data), NAMES)
    table = parquet.read_table(tmp_path / "p.parquet")
    assert table["index"].to_pylist() == [0, 1, 3]
    np.testing.assert_array_equal(np.float32(table["scores"].to_pylist()), data.rows["scores"])
    assert json.loads(table.schema.metadata[b"names"]) == list(NAMES)


def test_captions_come_with_their_references(data, tmp_path):
    captions, references = {0: "a dog", 1: "é", 3: ""}, {0: ["one dog", "dog"], 1: ["e"]}
    evaluation = CaptionEvaluation({}, data, captions, references, seed=0)
    for suffix in ("jsonl", "npz"):
        write_predictions(tmp_path / f"p.{suffix}", evaluation, ())
    assert lines(tmp_path / "p.jsonl")[0] == {
        "index": 0,
        "file": "0.jpg",
        "caption": "a dog",
        "references": ["one dog", "dog"],
    }
    assert np.load(tmp_path / "p.npz")["references"].tolist() == ["one dog\ndog", "e", ""]


def test_another_format_is_refused_before_anything_is_computed(tmp_path):
    with pytest.raises(UsageError, match=r"p\.xlsx: must end in \.jsonl, \.npz, \.parquet"):
        check_path(tmp_path / "p.xlsx")
