"""The end of a run: what to do where the model does not beat a baseline."""

from types import SimpleNamespace

import numpy as np
import pytest

from jaxtag.config import Config
from jaxtag.data.labels import LabelNames
from jaxtag.tasks.base import EvaluationData
from jaxtag.tasks.classify.evaluation import ClassEvaluation
from jaxtag.tasks.tag.task import TagTask
from jaxtag.training import report


def _task(pretrained=None, labels=True, whole_model=None):
    config = Config()
    config.model.pretrained = pretrained
    return SimpleNamespace(
        headline_metrics=TagTask.headline_metrics,
        label_names=LabelNames(("a",)) if labels else None,
        config=config,
        pretrained=whole_model,
    )


def _scores(model, baseline):
    return {"model": {"map": 0.5, "f1@5": model}, "most frequent tags": {"f1@5": baseline}}


def test_a_model_that_beats_the_baselines_needs_no_advice():
    assert report.advice(_task(), _scores(0.3, 0.2), 80) is None
    assert report.advice(_task(), {"model": {"map": 1.0}, "pixels": {"map": 1.0}}, 80) is None


@pytest.mark.parametrize("model", [0.2, 0.25, float("nan")])
def test_one_that_does_not_is_told_in_one_line_with_what_to_do(model):
    advice = report.advice(_task(), _scores(model, 0.25), 80)
    assert advice is not None and "\n" not in advice
    assert "trained on 80 pictures, does not beat 'most frequent tags' in f1@5" in advice
    for way in ("--config.model.pretrained", "jaxtag.index", "more pictures"):
        assert way in advice
    assert "pretrained" not in report.advice(_task("vit.safetensors"), _scores(0.1, 0.25), 80)
    whole = _task(whole_model="clip")
    assert "pretrained" not in report.advice(whole, _scores(0.1, 0.25), 80)
    assert "jaxtag.index" not in report.advice(_task(labels=False), _scores(0.1, 0.25), 80)


def test_classes_that_were_never_predicted_or_seen_have_zeros(monkeypatch):
    confusion = np.array([[3, 1, 0], [0, 0, 0], [2, 0, 0]])
    data = EvaluationData({"confusion": confusion}, {}, np.arange(6), {}, None, "test")
    evaluation = ClassEvaluation({}, data, LabelNames(("a", "b", "c")))
    per_class = evaluation.per_class()
    assert per_class["a"] == pytest.approx(
        {"images": 4, "precision": 3 / 5, "recall": 3 / 4, "f1": 2 * 3 / 9}
    )
    assert per_class["b"] == {"images": 0, "precision": 0, "recall": 0, "f1": 0}
    assert per_class["c"] == {"images": 2, "precision": 0, "recall": 0, "f1": 0}
    assert evaluation.details()["confusion"]["counts"] == confusion.tolist()
    monkeypatch.setattr("jaxtag.tasks.classify.evaluation._MAX_CONFUSION", 2)
    assert evaluation.details()["confusion"]["pairs"] == [[0, 0, 3], [0, 1, 1], [2, 0, 2]]
