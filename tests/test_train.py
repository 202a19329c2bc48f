"""The command: what it refuses and how, and what it leaves for the next start."""

import json
import os
import shutil
from pathlib import Path

import pytest
from calling import call, start

from jaxtag.training.preemption import RESTART_STATUS, Preemption


@pytest.fixture
def finished(tiny_run, tmp_path) -> Path:
    """A copy of the finished run that may be written to."""
    return Path(shutil.copytree(tiny_run, tmp_path / "finished"))


def last_step(workdir: Path) -> int:
    return max(int(path.name) for path in (workdir / "checkpoints").iterdir())


def test_what_a_finished_run_leaves(tiny_run):
    left = {path.name for path in tiny_run.iterdir()}
    assert left == {
        "board",
        "captions.png",
        "checkpoints",
        "config.json",
        "goodput.json",
        "data.json",
        "metrics.jsonl",
        "results.json",
        "tokenizer.json",
    }
    results = json.loads((tiny_run / "results.json").read_text())
    assert list(results) == ["model", "shuffled", "constant"]
    assert results["model"]["CIDEr"] > results["shuffled"]["CIDEr"]


def test_a_finished_run_says_its_scores_again(finished, own_config):
    before = (finished / "results.json").read_text()
    done = call("train", f"--config={own_config}", f"--workdir={finished}")
    assert done.status == 0, done.err
    rows = [line.split()[0] for line in done.out.splitlines()[1:4]]
    assert rows == ["model", "shuffled", "constant"]
    assert done.out.splitlines()[-1].endswith(f"{finished}/captions.png")
    assert (finished / "results.json").read_text() == before


@pytest.fixture
def stop_at(monkeypatch):
    """Makes the next call stop at a step, as it does when told to by SIGTERM."""
    return lambda step: monkeypatch.setattr(Preemption, "requested", lambda _, now: now == step)


def test_told_to_stop_it_says_start_me_again(own_config, tmp_path, stop_at):
    stop_at(2)
    for goes_on in (False, True):
        done = call("train", f"--config={own_config}", f"--workdir={tmp_path}")
        assert (done.status, done.out) == (RESTART_STATUS, "")
        assert ("going on from step 2" in done.err) is goes_on
        assert last_step(tmp_path) == 2
        assert done.err.endswith(
            "stopped and saved at step 2: the same command goes on from there\n"
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--config is missing (there are: cifar100_resnet18, cifar10_"),
        (["--config=shapes_caption"], "--workdir is missing"),
        (["--config=shape_captions", "{dir}"], "did you mean shapes_caption?"),
        (["--config", "shape_captions", "{dir}"], "did you mean shapes_caption?"),
        (["--config={tmp}/none.py", "{dir}"], "--config={tmp}/none.py: no such configuration"),
        (["--config=shapes_caption:image_sise=32", "{dir}"], "did you mean image_size?"),
        (["--config=shapes_caption:image_size=big", "{dir}"], "image_size='big' must be int"),
        (["{config}", "{dir}", "--config.optimizer.learning_rte=1"], "optimizer.learning_rate"),
        (["{config}", "{dir}", "--config.optimizer.learning_rte", "1"], "optimizer.learning_rate"),
        (["{config}", "{dir}", "--config.learning_rate=1"], "--config.optimizer.learning_rate"),
        (["{config}", "{dir}", "--config.batch_size=many"], "--config.batch_size=many: invalid"),
        (["{config}", "{dir}", "--config.batch_size=8.5"], "--config.batch_size=8.5: invalid"),
        (["{config}", "{dir}", "--config.batch_size=0"], "config.batch_size = 0: must be at least"),
        (["{config}", "{dir}", "--config.data.flip=maybe"], "--config.data.flip=maybe: "),
        (["{config}", "{dir}", "--config.model.scan=maybe"], "--config.model.scan=maybe: "),
        (
            ["{config}", "{dir}", "--config.data.crop_scale=3"],
            "config.data.crop_scale = (3,): must",
        ),
        (["{config}", "{dir}", "--config.optimizer.ema_decay=x"], "optimizer.ema_decay=x: "),
        (
            ["{config}", "{dir}", "--config.task.decoding.top_p=2"],
            "config.task.decoding: top_p must lie in",
        ),
        (["{config}", "{dir}", "--config.model.backbone=vit_tiny_patch17"], "mean vit_tiny_patch1"),
        (["{config}", "{dir}", "--wokrdir=x"], "'wokrdir'. Did you mean: workdir"),
        (["{config}", "{dir}", "now"], "unexpected argument: now"),
    ],
)
def test_wrong_use_is_one_line_that_names_it(own_config, tmp_path, arguments, message):
    fill = {"config": f"--config={own_config}", "dir": f"--workdir={tmp_path}/w", "tmp": tmp_path}
    done = call("train", *(argument.format(**fill) for argument in arguments))
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("error: ") and done.err.count("\n") == 1
    assert message.format(**fill) in done.err
    assert not (tmp_path / "w" / "checkpoints").exists()


def test_a_mistake_corrected_is_no_other_run(own_config, tmp_path, stop_at):
    """Nothing was trained with the wrong settings, so nothing stands against the right ones."""
    flags = [f"--config={own_config}", f"--workdir={tmp_path}"]
    wrong = call("train", *flags, "--config.batch_size=9", "--config.task.vocab_size=270")
    assert wrong.status == 1
    assert " = 9 does not split over data x fsdp = 8 devices" in wrong.err
    tokenizer = tmp_path / "tokenizer.json"
    assert len(json.loads(tokenizer.read_text())["model"]["vocab"]) == 270
    stop_at(0)
    right = call("train", *flags)
    assert right.status == RESTART_STATUS, right.err
    assert len(json.loads(tokenizer.read_text())["model"]["vocab"]) > 270
    assert last_step(tmp_path) == 0


def test_another_configuration_is_refused_unless_allowed(finished, own_config):
    flags = [f"--config={own_config}", f"--workdir={finished}"]
    changed = [*flags, "--config.optimizer.learning_rate=0.5", "--config.seed=4"]
    config_text = (finished / "config.json").read_text()
    refused = call("train", *changed)
    assert (refused.status, refused.out) == (1, "")
    assert refused.err == (
        f"error: {finished} was trained with another configuration:\n"
        "  config.seed: trained with 3, now 4\n"
        "  config.optimizer.learning_rate: trained with 0.01, now 0.5\n"
        "take another --workdir, or say --allow_changes to go on all the same\n"
    )
    assert (finished / "config.json").read_text() == config_text
    allowed = call("train", *changed, "--allow_changes")
    assert allowed.status == 0, allowed.err
    assert "going on from step 60" in allowed.err
    now = json.loads((finished / "config.json").read_text())
    assert (now["seed"], now["optimizer"]["learning_rate"]) == (4, 0.5)


def test_what_does_not_change_the_training_may_change(finished, own_config):
    free = [
        "--config.log_every=1",
        "--config.data.num_threads=2",
        "--config.task.decoding.method=beam",
    ]
    done = call("train", f"--config={own_config}", f"--workdir={finished}", *free)
    assert done.status == 0, done.err


@pytest.mark.parametrize(
    ("name", "commands"),
    [
        (
            "flickr8k_caption",
            [
                "wget -c https://github.com/jbrownlee/Datasets/releases/download/Flickr8k/",
                "python -m jaxtag.prepare --dataset=flickr8k_captions --source=flickr8k",
            ],
        ),
        (
            "coco_caption",
            [
                "wget -c http://images.cocodataset.org/zips/val2017.zip",
                "python -m jaxtag.prepare --dataset=coco_captions --source=coco",
            ],
        ),
    ],
)
def test_an_absent_data_set_is_told_with_the_commands_that_bring_it(tmp_path, name, commands):
    data, workdir = tmp_path / "data", tmp_path / "run"
    flags = [f"--config={name}", f"--workdir={workdir}"]
    done = call("train", *flags, f"--config.data.data_dir={data}")
    assert (done.status, done.out) == (1, "")
    assert f" is not prepared in {data}." in done.err
    for command in commands:
        assert f"\n  {command}" in done.err
    # Prepared as it says, the data set lies where this very run looks for it.
    assert f" --data_dir={data}\n" in done.err
    assert "The embedded data need no files: --config=shapes_caption\n" in done.err


def test_the_folder_of_data_may_come_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))
    done = call("train", "--config=flickr8k_caption", f"--workdir={tmp_path}/run")
    assert done.status == 1
    assert f"is not prepared in {tmp_path}/data" in done.err
    assert "--source=flickr8k\n" in done.err


def test_a_work_directory_that_cannot_be_made_is_told(own_config, tmp_path):
    (tmp_path / "file").touch()
    done = call("train", f"--config={own_config}", f"--workdir={tmp_path}/file/run")
    assert (done.status, done.out) == (1, "")
    assert done.err == f"error: {tmp_path}/file/run cannot be written: Not a directory\n"


def test_help_tells_of_its_flags_alone():
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = start("train", "--help", env=environment)
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith("Trains a model, or resumes")
    for flag in ("--config:", "--workdir:", "--[no]allow_changes:"):
        assert flag in done.out
    assert "pdb" not in done.out
