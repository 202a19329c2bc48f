"""A tagger, the whole way: a table of tags, training, thresholds, evaluation, new pictures."""

import json
from pathlib import Path

import numpy as np
import pytest
from calling import call
from PIL import Image
from whole_way import finished_run

from jaxtag.config import flags
from jaxtag.data import sources
from jaxtag.inference import predictor
from jaxtag.training import loop, vocabulary

pytestmark = pytest.mark.usefixtures("one_device")
COLOURS = {"blue": (40, 60, 220), "green": (30, 200, 40), "red": (220, 30, 30)}
CONFIG = """
from jaxtag.config import (
    Config, DataConfig, EvaluationConfig, ModelConfig, OptimizerConfig, TagConfig,
)

def get_config(data_dir: str, steps: int = 60):
    fields = (("depth", 1), ("width", 32), ("heads", 2), ("mlp_dim", 64))
    return Config(
        task="tag",
        criterion="asymmetric",
        batch_size=8,
        total_steps=steps,
        log_every=20,
        evaluate_every=30,
        checkpoint_every=30,
        tag=TagConfig(
            head="query", num_queries=2, loss_kwargs={"gamma_neg": 2.0}, max_pos_weight=3.0
        ),
        data=DataConfig(
            dataset="patches",
            data_dir=data_dir,
            image_size=32,
            crop_scale=(1.0, 1.0),
            flip=True,
            num_threads=1,
        ),
        model=ModelConfig(
            backbone="vit_tiny_patch16",
            kwargs=fields,
            decoder_width=32,
            decoder_heads=2,
            dropout=0.0,
            scan=False,
        ),
        optimizer=OptimizerConfig(learning_rate=1e-2, ema_decay=0.8),
        evaluation=EvaluationConfig(batch_size=8, num_samples_shown=4),
    )
"""


def picture(tags: list[str], seed: int) -> Image.Image:
    """Each quarter shows one of the tags' colours; grey without any."""
    rng = np.random.RandomState(seed)
    pixels = np.full((32, 32, 3), 128.0)
    for quarter, place in enumerate(rng.permutation(4)):
        if tags:
            rows, columns = 16 * (place // 2), 16 * (place % 2)
            pixels[rows : rows + 16, columns : columns + 16] = COLOURS[tags[quarter % len(tags)]]
    return Image.fromarray(np.clip(pixels + rng.normal(0, 15, pixels.shape), 0, 255).astype("u1"))


def tags_of(number: int) -> list[str]:
    """None, one or two of the colours, in turns; red and green are rarer than blue."""
    return [name for place, name in enumerate(COLOURS) if number % 6 >> place & 1]


@pytest.fixture(scope="module")
def run(one_device, tmp_path_factory) -> tuple[Path, str]:
    """(the work directory of a finished run, what to give as --config)."""
    root = tmp_path_factory.mktemp("patches")
    (root / "source").mkdir()
    lines = []
    for number in range(64):
        picture(tags_of(number), number).save(root / f"source/{number:02}.png")
        split = "train" if number < 40 else "validation" if number < 52 else "test"
        lines.append({"file": f"{number:02}.png", "tags": tags_of(number), "split": split})
    (root / "source/tags.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return finished_run(root, "patches", CONFIG)


def test_it_learns_and_leaves_what_it_found(run) -> None:
    workdir, _ = run
    assert json.loads((workdir / "tags.json").read_text()) == sorted(COLOURS)
    rows = json.loads((workdir / "results.json").read_text())
    assert rows["model"]["map"] > 0.95 and rows["model"]["examples"] == 12
    assert rows["model"]["macro_f1"] > 0.9 and rows["model"]["calibration_error"] < 0.2
    assert rows["most frequent tags"]["map"] == pytest.approx((6 + 4 + 4) / (3 * 12))
    assert Image.open(workdir / "tags.png").size[0] > 200
    steps = sorted(int(path.stem) for path in (workdir / "thresholds").iterdir())
    assert steps == [30, 60]


def test_rare_tags_weigh_more_from_the_start(run) -> None:
    workdir, _ = run
    model = predictor.load(workdir)
    source = sources.open_split("patches", "train", model.config.data.data_dir)
    np.testing.assert_array_equal(sources.tag_counts(source, 3), [20, 14, 12])
    weights = model.variables["tag_weights"]["positive_weight"]
    np.testing.assert_allclose(weights, [1.0, 26 / 14, 28 / 12], rtol=1e-6)


def test_evaluate_gives_what_training_gave(run) -> None:
    workdir, _ = run
    kept = (workdir / "thresholds/60.json").read_text()
    done = call("evaluate", f"--workdir={workdir}")
    assert done.status == 0, done.err
    rows = json.loads((workdir / "results.json").read_text())
    for name, value in rows["model"].items():
        assert done.last[name] == pytest.approx(value, abs=1e-5)
    assert "per_tag" not in done.last
    per_tag = json.loads((workdir / "evaluation.json").read_text())["per_tag"]
    assert list(per_tag) == sorted(COLOURS)
    assert per_tag["red"]["present"] == 4 and per_tag["red"]["recall"] > 0.8
    assert (workdir / "thresholds/60.json").read_text() == kept


def test_another_split_is_decided_as_validation_chose(run) -> None:
    workdir, _ = run
    kept = json.loads((workdir / "thresholds/60.json").read_text())["thresholds"]
    done = call("evaluate", f"--workdir={workdir}", "--split=test")
    assert done.status == 0, done.err
    per_tag = json.loads((workdir / "evaluation.json").read_text())["per_tag"]
    assert {name: values["threshold"] for name, values in per_tag.items()} == kept


def test_annotate_gives_the_tags_that_reach_their_thresholds(run, tmp_path) -> None:
    workdir, _ = run
    for number in range(1, 6):
        picture(tags_of(number), number + 100).save(tmp_path / f"{number}.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    output = tmp_path / "tags.jsonl"
    done = call("annotate", f"--workdir={workdir}", f"--output={output}", str(tmp_path))
    assert done.status == 0, done.err
    lines = {Path(line["file"]).stem: line for line in map(json.loads, output.open())}
    assert "error" in lines.pop("broken")
    thresholds = json.loads((workdir / "thresholds/60.json").read_text())["thresholds"]
    right = 0
    for number, line in lines.items():
        scores = [tag["score"] for tag in line["tags"]]
        assert scores == sorted(scores, reverse=True) and scores
        if len(scores) > 1:
            assert all(tag["score"] >= thresholds[tag["tag"]] - 1e-4 for tag in line["tags"])
        right += {tag["tag"] for tag in line["tags"]} == set(tags_of(int(number)))
    assert right >= 4


def test_a_checkpoint_without_thresholds_gets_them_from_evaluate(run, monkeypatch) -> None:
    workdir, _ = run
    path = workdir / "thresholds/60.json"
    kept = json.loads(path.read_text())
    path.unlink()
    assert predictor.load(workdir).task.decisions is None
    assert call("evaluate", f"--workdir={workdir}", "--split=test").status == 0
    assert not path.exists()  # thresholds are chosen on validation alone
    assert call("evaluate", f"--workdir={workdir}").status == 0
    found = json.loads(path.read_text())
    assert found["scale"] == pytest.approx(kept["scale"], rel=1e-4)


def test_a_data_set_without_tags_is_refused(run, tiny_data, tmp_path) -> None:
    _, name = run
    config = flags.load(name)
    config.data.dataset, config.data.data_dir = "tiny", str(tiny_data)
    with pytest.raises(loop.UserError, match="has no tags"):
        vocabulary.ensure(config, tmp_path)
