"""Which cells run, that what is done is not done again, and what a failure says."""

import dataclasses
import json
import resource
import sys

import pytest
from calling import call

from jaxtag import compare
from jaxtag.comparison import grid, runner
from jaxtag.comparison.runner import Cell
from jaxtag.config import checks
from jaxtag.errors import UsageError, UserError


@pytest.mark.parametrize("dataset", grid.DATASETS)
@pytest.mark.parametrize("architecture", grid.ARCHITECTURES)
def test_every_cell_has_a_valid_configuration(architecture, dataset):
    config = checks.check(grid.cell_config(architecture, dataset, 6400, 3, None))
    assert (config.seed, config.total_steps * config.batch_size) == (3, 6400)
    row = grid.ARCHITECTURES[architecture]
    assert row.min_image_size <= config.data.image_size <= row.max_image_size


def test_a_cell_without_data_says_so(tmp_path):
    assert runner.skip_reason(Cell("resnet", "mnist", 64, 0), str(tmp_path)) == "data absent"


RESULT = {"metric": "top1", "value": 0.5, "metrics": {"top1": 0.5}}
COSTS = {"pictures": 64, "parameters": 9, "multiply_adds": 9, "seconds": 1, "peak_memory_bytes": 9}


def test_a_finished_cell_is_not_run_again(tmp_path, monkeypatch):
    cell = Cell("resnet", "mnist", 64, 0)
    (tmp_path / cell.name).mkdir()
    (tmp_path / cell.name / "result.json").write_text(json.dumps(RESULT))
    monkeypatch.setattr(runner, "_call", None)
    assert runner.run(cell, tmp_path, None) == RESULT


@pytest.mark.parametrize("content", ["", "[]", "{", "[" * 5000, '{"value": 1}', "\0"])
def test_a_damaged_result_is_told(tmp_path, content):
    cell = Cell("resnet", "mnist", 64, 0)
    (tmp_path / cell.name).mkdir()
    (tmp_path / cell.name / "result.json").write_text(content)
    with pytest.raises(UserError, match=r"result\.json is damaged"):
        runner.run(cell, tmp_path, None)


def test_a_failure_names_its_log(tmp_path):
    log = tmp_path / "log.txt"
    with pytest.raises(UserError, match=rf"failed with status 2: see {log}"):
        runner._call("jaxtag.train", ["--config=compare:architecture=nothing"], log)
    assert log.read_text().startswith("error: ")


def test_memory_and_output_are_the_childs(tmp_path, monkeypatch):
    """A child that takes 300 MB more than nothing is seen to."""
    code = tmp_path / "greedy.py"
    code.write_text("held = bytearray(300 << 20)\nprint('done', len(held) >> 20)")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    text, memory = runner._call("greedy", [], tmp_path / "log.txt")
    assert text == "done 300\n"
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert 300 << 20 <= memory <= max(600 << 20, own)


def test_neighbors_share_the_run_of_their_features():
    knn = Cell("knn_cnn", "mnist", 64, 1)
    assert knn.trained == Cell("resnet", "mnist", 64, 1)
    assert grid.ARCHITECTURES["knn_cnn"].uses_neighbors
    assert Cell("resnet", "mnist", 64, 1).trained == Cell("resnet", "mnist", 64, 1)


def test_other_weights_are_another_cell():
    own = Cell("efficientnet_pretrained", "mnist", 64, 1)
    first, second = (dataclasses.replace(own, weights=weights) for weights in ("a", "b"))
    assert len({own.name, first.name, second.name}) == 3
    neighbors = dataclasses.replace(first, architecture="knn_cnn_pretrained")
    assert neighbors.trained == first


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ("knn_cnn_pretrained", "has the features of efficientnet_pretrained"),
        ("resnet", "resnet starts from random weights"),
        ("resnet_pretrained", "is unknown"),
    ],
)
def test_weights_are_for_rows_that_start_from_some(row, complaint):
    with pytest.raises(UsageError, match=complaint):
        compare._parse_weights([f"{row}=file"])
    assert compare._parse_weights(["efficientnet_pretrained=a=b"]) == {
        "efficientnet_pretrained": "a=b"
    }


@pytest.mark.parametrize(
    "row", [name for name, row in grid.ARCHITECTURES.items() if row.pretrained is not None]
)
def test_rows_on_published_weights_train_on_cached_features(row):
    config = checks.check(grid.cell_config(row, "mnist", 640, 0, None))
    assert config.model.freeze and config.model.cached_views == 1


def test_the_table_is_written_after_each_cell(tmp_path, monkeypatch):
    tables = []

    def run(cell: Cell, folder, data_dir):
        if (tmp_path / "table.csv").exists():
            tables.append((tmp_path / "table.csv").read_text())
        return {**RESULT, **COSTS, "split": "test", "image_size": 32, "pretraining": "none"}

    monkeypatch.setattr(runner, "run", run)
    monkeypatch.setattr(runner, "skip_reason", lambda cell, data_dir: None)
    names = "--datasets=mnist,cifar10", "--architectures=resnet,vit"
    done = call("compare", f"--output={tmp_path}", *names)
    assert done.status == 0, done.err
    assert [table.count("not run yet") for table in tables] == [3, 2, 1]
    assert "not run yet" not in (tmp_path / "table.md").read_text()
