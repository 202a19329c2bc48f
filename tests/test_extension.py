"""A project outside of jaxtag, the whole way: train, kill, resume, evaluate, annotate, Python."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from calling import call
from counting_project import data, parts
from PIL import Image

import jaxtag
from jaxtag.errors import UsageError

pytestmark = pytest.mark.usefixtures("one_device")
TESTS = Path(__file__).parent
CONFIG = f"--config={TESTS}/counting_project/config.py"


@pytest.fixture(scope="module")
def run(one_device, tmp_path_factory) -> Path:
    """The work directory of a finished run."""
    workdir = tmp_path_factory.mktemp("counting") / "run"
    done = call("train", CONFIG, f"--workdir={workdir}")
    assert done.status == 0, done.err
    assert done.out.splitlines()[1].startswith("model")
    return workdir


def test_every_part_of_its_own_takes_part(run) -> None:
    results = json.loads((run / "results.json").read_text())
    assert results["model"]["negative_error"] > -0.5 > results["mean count"]["negative_error"]
    assert results["model"]["within_half"] > 0.6
    losses = [line.split(",") for line in (run / "losses.csv").read_text().splitlines()]
    assert [int(step) for step, _ in losses] == [10, 20, 30, 40, 50, 60]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rates = {line["step"]: line["learning_rate"] for line in lines if line["split"] == "train"}
    assert rates[20] == pytest.approx(0.03 * 19 / 30) and rates[60] == pytest.approx(0.03)
    assert parts.CountSaves.steps[-3:] == [20, 40, 60]
    assert Image.open(run / "counts.png").size[0] > 100
    saved = json.loads((run / "config.json").read_text())
    assert saved["task"]["name"] == "counting_project.task:CountTask"
    assert saved["model"]["backbone"] == "counting_project.parts:SmallNet"


def test_evaluate_and_annotate_know_it_by_its_run_alone(run, tmp_path) -> None:
    done = call("evaluate", f"--workdir={run}", "--split=test")
    assert done.status == 0, done.err
    assert done.last["split"] == "test" and done.last["within_half"] > 0.5
    rng = np.random.default_rng(5)
    for squares in range(4):
        Image.fromarray(data.draw(squares, rng)).save(tmp_path / f"{squares}.png")
    output = tmp_path / "counts.jsonl"
    done = call("annotate", f"--workdir={run}", f"--output={output}", str(tmp_path))
    assert done.status == 0, done.err
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [Path(row["file"]).stem for row in rows] == ["0", "1", "2", "3"]
    counts = [row["count"] for row in rows]
    assert counts == sorted(counts)

    predictor = jaxtag.load(run)
    images = [np.asarray(Image.open(tmp_path / f"{squares}.png")) for squares in range(4)]
    assert [p.row["count"] for p in predictor(images)] == pytest.approx(counts, abs=1e-3)
    assert predictor.features(images).shape == (4, 16)


def test_killed_it_goes_on_to_the_same_bits(tmp_path) -> None:
    """SIGKILL in the middle; the same command again ends as an unbroken run does."""
    path = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    environment = {**os.environ, "PYTHONPATH": path, "XLA_FLAGS": ""}

    def command(workdir: str) -> list[str]:
        return [sys.executable, "-m", "jaxtag.train", CONFIG, f"--workdir={tmp_path / workdir}"]

    log = tmp_path / "broken" / "metrics.jsonl"
    with subprocess.Popen(command("broken"), env=environment, stderr=subprocess.DEVNULL) as process:
        limit = time.monotonic() + 120
        while '"step": 30' not in (log.read_text() if log.exists() else ""):
            assert process.poll() is None and time.monotonic() < limit
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    for workdir in ("broken", "unbroken"):
        done = subprocess.run(
            command(workdir), env=environment, capture_output=True, text=True, timeout=240
        )
        assert done.returncode == 0, done.stderr
    steps = [int(line.split(",")[0]) for line in (tmp_path / "broken/losses.csv").open()]
    assert steps[:3] == [10, 20, 30] and steps[-4:] == [30, 40, 50, 60]  # 30 again, from 20 on
    broken, unbroken = (jaxtag.load(tmp_path / name) for name in ("broken", "unbroken"))
    assert broken.step == unbroken.step == 60
    jax.tree.map(np.testing.assert_array_equal, broken.variables, unbroken.variables)


def test_dotted_keyword_arguments_are_typed_by_the_part_that_takes_them(tmp_path) -> None:
    flags = [CONFIG, f"--workdir={tmp_path}/run", "--config.total_steps=2"]
    done = call(
        "train", *flags, "--config.model.kwargs.depth=1", "--config.task.loss_kwargs.full=true"
    )
    assert done.status == 0, done.err
    saved = json.loads((tmp_path / "run/config.json").read_text())
    assert saved["model"]["kwargs"] == {"width": 8, "depth": 1}
    assert saved["task"]["loss_kwargs"] == {"full": True}
    assert "Conv_2" in jaxtag.load(tmp_path / "run").variables["params"]["backbone"]
    for wrong, message in (
        ("model.kwargs.dpeth=1", "did you mean depth"),
        ("model.kwargs.depth=deep", "depth = 'deep': must be int"),
        ("optimizer.kwargs.beta=high", "beta = 'high': must be float"),
        ("optimizer.kwargs.bta=0.5", "did you mean beta"),
        ("task.loss_kwargs.ful=true", "did you mean full"),
        ("model.backbone=counting_project.parts:SmalNet", "did you mean SmallNet"),
        ("augmentation.custom=('counting_project.parts:darkn',)", "did you mean darken"),
        ("metric_writers=('tensorbord',)", "did you mean tensorboard"),
        ("data.dataset=counting_project.data:Sqares", "did you mean Squares"),
    ):
        done = call("train", CONFIG, f"--workdir={tmp_path}/wrong", f"--config.{wrong}")
        assert done.status == 2 and message in done.err, (wrong, done.err)


def test_fit_takes_objects(tmp_path) -> None:
    """Sources, writers and callbacks as objects, in one process, without the command."""
    seen: list[tuple[int, str]] = []

    class Listen(jaxtag.MetricWriter):
        def write_scalars(self, step, split, values) -> None:
            seen.append((step, split))

    class Steps(jaxtag.Callback):
        count = 0

        def on_step(self, step, state, metrics) -> None:
            Steps.count += 1

    config = jaxtag.load_config(f"{TESTS}/counting_project/config.py:steps=4")
    config.metric_writers, config.callbacks = (), ()
    config.data.dataset, config.evaluate_every = "in memory", 2
    sources = {split: data.Squares(split) for split in ("train", "validation")}
    result = jaxtag.fit(
        config, tmp_path / "run", sources, metric_writers=[Listen()], callbacks=[Steps()]
    )
    assert int(result.state.step) == 4 == Steps.count
    assert (2, "evaluation") in seen and (4, "train") in seen
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "checkpoints",
        "config.json",
        "counts.png",
        "data.json",
        "goodput.json",
        "results.json",
    }
    metrics = jaxtag.evaluate(tmp_path / "run", data=sources)
    assert metrics["negative_error"] == pytest.approx(result.scores["model"]["negative_error"])
    with pytest.raises(UsageError, match="no split 'test'"):
        jaxtag.evaluate(tmp_path / "run", "test", data=sources)


def test_early_stopping_and_what_a_resumed_run_remembers(tmp_path) -> None:
    config = jaxtag.load_config(f"{TESTS}/counting_project/config.py:steps=40")
    config.metric_writers, config.callbacks = ("jsonl",), ()
    config.optimizer.learning_rate, config.stop_after, config.evaluate_every = 0.0, 2, 3
    result = jaxtag.fit(config, tmp_path / "run")
    assert int(result.state.step) == 9  # the first evaluation is the best, two more are not better
    assert result.evaluation is not None and not result.preempted
