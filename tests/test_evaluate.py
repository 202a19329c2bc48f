"""The command: scores as the last line on stdout, and clear refusals."""

import json
import os
from pathlib import Path

import pytest
from calling import call, start

from jaxtag.datasets import prepared
from jaxtag.inference import predictor
from jaxtag.metrics import captioning
from jaxtag.metrics.captioning import coco_format
from jaxtag.tasks.evaluator import Evaluator


@pytest.fixture
def workdir(tiny_run, tmp_path) -> Path:
    """The finished run, in a folder that the command may write to."""
    folder = tmp_path / "run"
    folder.mkdir()
    for path in tiny_run.iterdir():
        (folder / path.name).symlink_to(path)
    return folder


@pytest.fixture
def caption_files(tmp_path) -> list[str]:
    """Flags that name captions of three pictures, and references of four."""
    texts = {1: "a dog runs on grass", 2: "two red birds", 3: "a man rides a horse"}
    annotations = [
        {"image_id": key, "caption": text}
        for key, text in [(1, "a dog runs"), (2, "two birds on a tree"), (3, "a man on a horse")]
    ]
    annotations += [{"image_id": key, "caption": "a dog on the grass"} for key in (1, 4)]
    results = [{"image_id": key, "caption": text} for key, text in texts.items()]
    (tmp_path / "results.json").write_text(json.dumps(results))
    (tmp_path / "references.json").write_text(json.dumps({"annotations": annotations}))
    return [f"--{name}={tmp_path}/{name}.json" for name in ("results", "references")]


def test_a_run_is_scored_as_the_library_scores_it(workdir, tiny_data):
    done = call("evaluate", f"--workdir={workdir}")
    assert done.status == 0, done.err
    assert done.out.count("\n") == 1
    written = json.loads((workdir / "evaluation.json").read_text())
    baselines, advice = written.pop("baselines"), written.pop("advice", "")
    assert written == done.last
    assert all("CIDEr" in values for values in baselines.values()) and len(baselines) == 2
    for name in baselines:
        assert f"\n{name} " in done.err
    assert advice in done.err
    assert (done.last["split"], done.last["step"], done.last["examples"]) == ("validation", 60, 8)
    assert "CIDEr" in done.err.splitlines()[0]
    model = predictor.load(workdir)
    source = prepared.open_split("tiny", "validation", tiny_data)
    evaluate = Evaluator(model.task, model.mesh)
    evaluation = evaluate(model.variables, source, "validation")
    split_and_step = {"split": "validation", "step": 60}
    assert done.last == pytest.approx({**split_and_step, **evaluation.metrics})
    scores = captioning.score(evaluation.captions, evaluation.references)
    assert scores.items() <= evaluation.metrics.items()


def test_predictions_of_every_image(workdir, tmp_path):
    path = tmp_path / "predictions.jsonl"
    done = call("evaluate", f"--workdir={workdir}", f"--predictions={path}")
    assert done.status == 0, done.err
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert [row["index"] for row in rows] == list(range(8))
    assert all(row["caption"] and row["references"] for row in rows)
    done = call("evaluate", f"--workdir={workdir}", f"--predictions={tmp_path}/p.xlsx")
    assert done.status == 2 and "must end in .jsonl, .npz, .parquet" in done.err


def test_it_equals_what_training_found(tiny_run, workdir):
    lines = [json.loads(line) for line in (tiny_run / "metrics.jsonl").read_text().splitlines()]
    (trained_with,) = [line for line in lines if line["split"] == "evaluation"]
    metrics = call("evaluate", f"--workdir={workdir}").last
    for name in set(trained_with) - {"split"}:
        assert metrics[name] == pytest.approx(trained_with[name], rel=1e-4), name


@pytest.mark.parametrize(("split", "examples"), [("test", 4), ("train", 16), ("train[:50%]", 8)])
def test_any_split(workdir, split, examples):
    metrics = call("evaluate", f"--workdir={workdir}", f"--split={split}").last
    assert (metrics["split"], metrics["examples"]) == (split, examples)


def test_best_and_numbered_checkpoints(workdir):
    steps = [
        call("evaluate", f"--workdir={workdir}", f"--step={step}").last["step"]
        for step in ("best", "60")
    ]
    assert steps == [60, 60]


def test_decoding_can_be_changed(workdir, tiny_data):
    metrics_by_method = {
        method: call(
            "evaluate", "--workdir", workdir, f"--config.task.decoding.method={method}"
        ).last
        for method in ("greedy", "beam")
    }
    # How captions are made does not touch the likelihood of the references.
    assert metrics_by_method["greedy"]["perplexity"] == metrics_by_method["beam"]["perplexity"]
    model = predictor.load(workdir)
    model.config.task.decoding.method = "beam"
    evaluate = Evaluator(model.task, model.mesh)
    source = prepared.open_split("tiny", "validation", tiny_data)
    evaluation = evaluate(model.variables, source, "validation")
    assert evaluation.metrics.items() <= metrics_by_method["beam"].items()
    config = json.loads((workdir / "config.json").read_text())
    assert config["task"]["decoding"]["method"] == "greedy"  # of the run, which stays as it was


def test_as_a_process(workdir):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = start("evaluate", "--workdir=run", "--split=test", cwd=workdir.parent, env=environment)
    assert done.status == 0, done.err
    written = json.loads((workdir / "evaluation.json").read_text())
    baselines, advice = written.pop("baselines"), written.pop("advice")
    assert done.last == pytest.approx(written)
    assert done.last["examples"] == 4
    heading, model, *others, last = done.err.splitlines()
    assert "CIDEr" in heading and model.startswith("model") and last == advice
    assert len(others) == len(baselines) > 0


def test_caption_files_are_scored_as_the_library_scores_them(caption_files, capsys):
    done = call("evaluate", *caption_files)
    assert done.status == 0, done.err
    assert done.last == coco_format.score_files(*(flag.partition("=")[2] for flag in caption_files))
    assert (done.last["images"], done.last["images_without_result"]) == (3, 1)
    assert done.err == capsys.readouterr().err  # that a picture has no caption


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, "give either --model (or --workdir), or both --results and --references"),
        (["--workdir={run}", "--results=a", "--references=b"], 2, "give either --model"),
        (["--results=a.json"], 2, "both --results and --references"),
        (["--results={tmp}/a.json", "--references=b"], 1, "b: cannot be read: No such"),
        (["--workdir={tmp}/none"], 1, "{tmp}/none is no work directory"),
        (["--workdir={tmp}"], 1, "{tmp} is no work directory"),
        (["--workdir={run}", "--split=tset"], 1, "has no split 'tset' (it has: test, train, "),
        (["--workdir={run}", "--split=tset"], 1, "or --split"),
        (["--workdir={run}", "--splt=test"], 2, "'splt'. Did you mean: split"),
        (["--workdir={run}", "test"], 2, "unexpected argument: test"),
        (["--workdir={run}", "--step=7"], 1, "has no step 7; it has [60]"),
        (["--workdir={run}", "--step=last"], 2, "--step=last: must be newest, best or a number"),
        (
            ["--workdir={run}", "--config.task.decoding.metod=beam"],
            2,
            "--config.task.decoding.method",
        ),
        (["--workdir={run}", "--config.task.decoding.method=gredy"], 2, "did you mean greedy?"),
        (
            ["--workdir={run}", "--config.task.decoding.beam_size=x"],
            2,
            "config.task.decoding.beam_size=x",
        ),
        (
            ["--workdir={run}", "--config.task.decoding.temperature=0"],
            2,
            "config.task.decoding: temperature must be above 0",
        ),
        (
            [
                "--workdir={run}",
                "--config.task.decoding.method=beam",
                "--config.task.decoding.beam_size=999",
            ],
            2,
            "config.task.decoding: beam_size (999) is more than half of the vocabulary",
        ),
        (["--workdir={run}", "--config.evaluation.batch_size=7"], 1, "batch_size = 7 does not"),
    ],
)
def test_wrong_use_is_one_line(tiny_run, tmp_path, arguments, status, message):
    fill = {"run": tiny_run, "tmp": tmp_path}
    done = call("evaluate", *(argument.format(**fill) for argument in arguments))
    assert (done.status, done.out) == (status, "")
    assert done.err.startswith("error: ") and done.err.count("\n") == 1
    assert message.format(**fill) in done.err
    assert not (tiny_run / "evaluation.json").exists()


def test_another_model_than_was_trained_is_told(tiny_run):
    done = call("evaluate", f"--workdir={tiny_run}", "--config.model.decoder_depth=2")
    assert done.status == 1
    assert "does not fit the configured model:\n  ema/params/decoder/block_1" in done.err


def test_a_data_set_that_is_gone_is_told_with_what_brings_it_back(tiny_run, tmp_path):
    folder = tmp_path / "no data"
    done = call("evaluate", f"--workdir={tiny_run}", f"--config.data.data_dir={folder}")
    assert done.status == 1
    assert f"the data set tiny is not prepared in {folder}" in done.err
    prepare = f"python -m jaxtag.prepare --dataset=tiny --source=FOLDER --data_dir='{folder}'"
    assert prepare in done.err


def test_scores_that_cannot_be_kept_are_printed_all_the_same(workdir):
    (workdir / "evaluation.json").mkdir()
    done = call("evaluate", f"--workdir={workdir}", "--split=test")
    assert done.status == 1
    assert done.err.splitlines()[-1] == (
        f"error: {workdir}/evaluation.json cannot be written: Is a directory"
    )
    assert done.last["examples"] == 4
