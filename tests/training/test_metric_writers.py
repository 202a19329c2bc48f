"""Metric writers: what each writes, and several at once; trackers in their offline modes."""

import json

import numpy as np
import pytest

from jaxtag.config import Config
from jaxtag.errors import UserError
from jaxtag.training import loop, metric_writer, trackers
from jaxtag.training.metric_writer import MetricWriter, MultiWriter, RunInfo


def run_info(workdir, start_step: int = 0) -> RunInfo:
    return RunInfo(workdir, start_step, 10, Config(total_steps=10))


def write_some(writer: MetricWriter) -> None:
    values = {"loss": 2.5, "images_per_second": 10.0, "seconds_per_step": 1.0}
    writer.write_scalars(5, "train", {**values, "data_wait_fraction": 0.25})
    writer.write_scalars(5, "evaluation", {"recall@1": 0.5})
    writer.write_image(5, "pictures/3", np.zeros((4, 6, 3), np.uint8), "a dog")
    writer.close()


def test_lines_of_steps_that_are_computed_again_are_dropped(tmp_path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [{"step": step, "split": "train", "loss": 1.0} for step in (2, 4, 6)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 6, "spl')
    writer = metric_writer.JsonlMetricWriter()
    writer.open(run_info(tmp_path, start_step=4))
    write_some(writer)
    written = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["step"], line["split"]) for line in written] == [
        (2, "train"), (4, "train"), (5, "train"), (5, "evaluation"),
    ]  # fmt: skip
    assert metric_writer.read_metrics(tmp_path, "evaluation") == [written[-1]]


def test_progress_is_a_line_a_window_where_there_is_no_terminal(tmp_path, capsys) -> None:
    writer = metric_writer.ProgressWriter()
    writer.open(run_info(tmp_path))
    write_some(writer)
    expected = "step 5/10: loss 2.500, 10.0 images/s, waiting for data 25%, 0:05 left\n"
    assert capsys.readouterr().err == expected


def test_escape_characters_do_not_reach_the_terminal(capsys) -> None:
    metric_writer.ProgressWriter().write_text("trains on \x1b[31mred\u202e")
    assert capsys.readouterr().err == "trains on \\x1b[31mred\\u202e\n"


def test_several_writers_get_the_same(tmp_path) -> None:
    calls: list[list[str]] = [[], []]

    class Recorder(MetricWriter):
        def __init__(self, names: list[str]):
            self.names = names

        def open(self, run: RunInfo) -> None:
            self.names.append("open")

        def write_scalars(self, step, split, values) -> None:
            self.names.append(split)

    writer = MultiWriter([Recorder(names) for names in calls])
    writer.open(run_info(tmp_path))
    write_some(writer)
    assert calls[0] == calls[1] == ["open", "train", "evaluation"]


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_an_absent_tracker_is_named_with_its_extra(tmp_path, monkeypatch, name) -> None:
    monkeypatch.setitem(__import__("sys").modules, name, None)
    writer = {"wandb": trackers.WandbWriter, "mlflow": trackers.MlflowWriter}[name]()
    with pytest.raises(UserError, match=rf"pip install 'jaxtag\[{name}\]'"):
        writer.open(run_info(tmp_path))


def test_wandb_offline(tmp_path, monkeypatch) -> None:
    pytest.importorskip("wandb", reason="the extra wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for start_step in (0, 5):  # a resumed run goes on in the same one
        writer = trackers.WandbWriter()
        writer.open(run_info(tmp_path, start_step))
        write_some(writer)
    files = list((tmp_path / "wandb").glob("offline-run-*/run-*.wandb"))
    assert files and all(file.stat().st_size > 0 for file in files)
    run_id = (tmp_path / "wandb_run_id").read_text()
    assert {file.stem for file in files} == {f"run-{run_id}"}


def test_mlflow_offline(tmp_path, monkeypatch) -> None:
    mlflow = pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for start_step in (0, 5):
        writer = trackers.MlflowWriter()
        writer.open(run_info(tmp_path, start_step))
        write_some(writer)
    run_id = (tmp_path / "mlflow_run_id").read_text()
    run = mlflow.get_run(run_id)
    assert run.data.metrics["train/loss"] == 2.5
    assert run.data.metrics["evaluation/recall_at_1"] == 0.5
    mlflow.set_tracking_uri(None)


def test_damaged_lines_are_left_out(tmp_path) -> None:
    """Whatever a line holds, the run goes on, and the sound ones stay."""
    sound = b'{"step": 2, "split": "train", "loss": 1.0}'
    odd = [b"\xff\xfe", b"[" * 5000, b"[]", b"3", b'{"split": "train"}', b'{"step": "2"}',
           b'{"step": [2]}', b'{"step": true}', b'{"step": ' + b"9" * 5000 + b"}"]  # fmt: skip
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"\n".join([*odd, sound, b'{"step": 3}', *odd]) + b"\n")
    assert metric_writer.read_metrics(tmp_path, "train") == [json.loads(sound)]
    writer = metric_writer.JsonlMetricWriter()
    writer.open(run_info(tmp_path, start_step=2))
    writer.close()
    assert path.read_bytes() == sound + b"\n"


def test_an_evaluation_is_in_every_other_writer_before_it_is_in_metrics_jsonl(tmp_path):
    class Killed(MetricWriter):
        def write_scalars(self, step, split, values) -> None:
            raise KeyboardInterrupt

    run = RunInfo(tmp_path, 0, 4, Config(total_steps=4, metric_writers=("jsonl",)))
    writer = loop._open_writer(run.config, [Killed()], run, ended=False)
    with pytest.raises(KeyboardInterrupt):
        writer.write_scalars(2, "evaluation", {"accuracy": 0.5})
    assert metric_writer.read_metrics(tmp_path, "evaluation") == []
