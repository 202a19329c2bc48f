"""Every task, the whole way: files, training, evaluation, predictions, Python, resuming.

A case says what a task's files and configuration are and what its results have to be; the tests are
the same for all.
"""

import dataclasses
import functools
import html
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from calling import call
from PIL import Image

import jaxtag
from jaxtag.config import flags, serialization
from jaxtag.data import sources
from jaxtag.datasets.prepared import open_split
from jaxtag.errors import UserError
from jaxtag.training import loop, preemption, run_data

pytestmark = pytest.mark.usefixtures("one_device")
COLORS = {"blue": (40, 60, 220), "green": (30, 200, 40), "red": (220, 30, 30)}
IMPORTS = """
from jaxtag.config import (
    AugmentationConfig, Config, DataConfig, EvaluationConfig, ModelConfig, OptimizerConfig,
)
from jaxtag.tasks.caption.config import CaptionConfig, DecodingConfig
from jaxtag.tasks.classify.config import ClassifyConfig
from jaxtag.tasks.embed.config import EmbedConfig
from jaxtag.tasks.match.config import MatchConfig
from jaxtag.tasks.tag.config import TagConfig
"""


@dataclasses.dataclass(frozen=True)
class Case:
    """A task to walk the whole way.

    Attributes:
        config: the body of `get_config(data_dir, steps)`.
        write_source: writes the files that `prepare` reads.
        artifacts: what the work directory holds besides what all have.
        check_scores: looks at results.json.
        image: an image to annotate, by number.
        check_row: looks at the row of that image.
        resume: (steps of the run, where it stops, changes of its configuration).
    """

    config: str
    write_source: Callable[[Path], None]
    artifacts: set[str]
    check_scores: Callable[[dict[str, dict[str, float]]], None]
    image: Callable[[int], Image.Image]
    check_row: Callable[[int, dict[str, Any]], bool]
    stop_at: int
    changes: dict[str, Any]


def noisy(color: tuple[int, ...], seed: int) -> Image.Image:
    rng = np.random.RandomState(seed)
    pixels = np.clip(rng.normal(color, 25, (20 + seed % 5, 24, 3)), 0, 255)
    return Image.fromarray(pixels.astype(np.uint8))


def class_folders(draw: Callable[[str, int], Image.Image], held_out: int) -> Callable:
    def write(root: Path) -> None:
        for split, count in (("train", 16), ("validation", held_out)):
            for name in COLORS:
                folder = root / split / name
                folder.mkdir(parents=True)
                for seed in range(count):
                    draw(name, seed + 100 * (split == "train")).save(folder / f"{seed}.png")

    return write


def tags_of(number: int) -> list[str]:
    """None, one or two of the colors, in turns; red and green are rarer than blue."""
    return [name for bit, name in enumerate(COLORS) if number % 6 >> bit & 1]


def patches(number: int, seed: int | None = None) -> Image.Image:
    """Each quarter shows one of the tags' colors; gray without any."""
    tags, rng = tags_of(number), np.random.RandomState(number if seed is None else seed)
    pixels = np.full((32, 32, 3), 128.0)
    for quarter, cell in enumerate(rng.permutation(4)):
        if tags:
            row, column = 16 * (cell // 2), 16 * (cell % 2)
            pixels[row : row + 16, column : column + 16] = COLORS[tags[quarter % len(tags)]]
    return Image.fromarray(np.clip(pixels + rng.normal(0, 15, pixels.shape), 0, 255).astype("u1"))


def tag_table(root: Path) -> None:
    lines = []
    for number in range(64):
        patches(number).save(root / f"{number:02}.png")
        split = "train" if number < 40 else "validation" if number < 52 else "test"
        lines.append({"file": f"{number:02}.png", "tags": tags_of(number), "split": split})
    (root / "tags.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def caption_table(root: Path) -> None:
    lines = []
    for number in range(28):
        color = list(COLORS)[number % 3]
        noisy(COLORS[color], number).save(root / f"{number:02}.jpg", quality=95)
        split = "train" if number < 18 else "validation"
        texts = [f"a {color} field", f"the picture is {color}"]
        lines.append({"file": f"{number:02}.jpg", "captions": texts, "split": split})
    (root / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def faint(name: str, seed: int) -> Image.Image:
    """Mostly noise, by which raw pixels are compared; its mean is the color."""
    rng = np.random.RandomState(len(name) * 1000 + seed)
    pixels = rng.uniform(0, 255, (12, 12, 3)) * 0.8 + 0.2 * np.array(COLORS[name])
    return Image.fromarray(pixels.astype(np.uint8))


def check_classes(scores: dict) -> None:
    assert scores["model"]["top1"] > 0.9 and scores["model"]["examples"] == 15
    assert scores["most frequent class"]["top1"] == pytest.approx(1 / 3)


def check_embeddings(scores: dict) -> None:
    assert scores["model"]["examples"] == scores["raw pixels"]["examples"] == 21
    assert scores["model"]["map@r"] > 0.8 > 0.7 > scores["raw pixels"]["map@r"]
    assert scores["model"]["recall@1"] > 0.8 and scores["model"]["nmi"] > 0.5


def check_tags(scores: dict) -> None:
    assert scores["model"]["map"] > 0.95 and scores["model"]["examples"] == 12
    assert scores["model"]["macro_f1"] > 0.9 and scores["model"]["calibration_error"] < 0.2
    assert scores["most frequent tags"]["map"] == pytest.approx((6 + 4 + 4) / (3 * 12))


def check_captions(scores: dict) -> None:
    assert list(scores) == ["model", "shuffled", "constant"]
    assert scores["model"]["CIDEr"] > scores["shuffled"]["CIDEr"]


def check_matches(scores: dict) -> None:
    """Of ten images three or four share a color, and so their texts."""
    model, other = scores["model"], scores["texts of another image"]
    assert model["examples"] == other["examples"] == 10
    assert model["text_to_image_recall@5"] > 0.9 > other["text_to_image_recall@5"]
    assert model["image_to_text_median_rank"] <= 6 < other["image_to_text_median_rank"]


NAMES = list(COLORS)
CASES = {
    "caption": Case(
        """
        task=CaptionConfig(
            vocab_size=300, max_length=10, captions_per_image=2,
            decoding=DecodingConfig(method="greedy"),
        ),
        batch_size=6, log_every=20, evaluate_every=30, checkpoint_every=30,
        data=DataConfig(dataset="case", data_dir=data_dir, image_size=16, num_threads=1),
        model=ModelConfig(
            backbone="vit_tiny_patch8", scan=False, dropout=0.1,
            kwargs={"depth": 1, "width": 32, "heads": 2, "mlp_dim": 64},
            decoder_width=32, decoder_depth=1, decoder_heads=2,
        ),
        optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=4, ema_decay=0.8),
        evaluation=EvaluationConfig(batch_size=5, num_samples_shown=4),
        """,
        caption_table,
        {"captions.png", "tokenizer.json"},
        check_captions,
        lambda number: noisy(COLORS[NAMES[number]], 7),
        lambda number, row: NAMES[number] in row["caption"] and row["score"] < 0,
        stop_at=3,
        changes={"total_steps": 6, "checkpoint_every": 4, "evaluate_every": 5},
    ),
    "classify": Case(
        """
        task=ClassifyConfig(label_smoothing=0.1),
        batch_size=8, log_every=10, evaluate_every=15, checkpoint_every=15,
        data=DataConfig(dataset="case", data_dir=data_dir, image_size=16, flip=True),
        model=ModelConfig(
            backbone="resnet18",
            kwargs={"depths": (1, 1, 0, 0), "bottleneck": False, "small_images": True},
        ),
        augmentation=AugmentationConfig(crop_padding=2, mixup=0.1, random_erasing=0.1),
        optimizer=OptimizerConfig(
            name="sgd", kwargs={"momentum": 0.9, "nesterov": True}, learning_rate=0.02,
            ema_decay=0.8,
        ),
        evaluation=EvaluationConfig(batch_size=8, num_samples_shown=4),
        """,
        class_folders(lambda name, seed: noisy(COLORS[name], seed), 5),
        {"classes.png", "classes.json"},
        check_classes,
        lambda number: noisy(COLORS[NAMES[number]], 7),
        lambda number, row: (
            row["tags"][0]["tag"] == NAMES[number]
            and sum(tag["score"] for tag in row["tags"]) == pytest.approx(1, abs=1e-3)
        ),
        stop_at=3,  # when moments of batch norm are due, too
        changes={
            "total_steps": 6,
            "checkpoint_every": 4,
            "evaluate_every": 3,
            "optimizer.ema_bn_batches": 2,
        },
    ),
    "embed": Case(
        """
        task=EmbedConfig(
            loss="proxy_anchor", embedding_dim=8, samples_per_class=4, loss_kwargs={"scale": 16.0}
        ),
        batch_size=12, log_every=4, evaluate_every=6, checkpoint_every=6,
        data=DataConfig(dataset="case", data_dir=data_dir, image_size=12, flip=True),
        model=ModelConfig(backbone="airbench94", kwargs={"widths": (8, 8)}),
        optimizer=OptimizerConfig(
            name="adam", learning_rate=0.02, ema_decay=0.5,
            lr_mults=(("whiten/kernel$", 0.0), (".*", 1.0)),
        ),
        evaluation=EvaluationConfig(batch_size=8, num_samples_shown=4),
        """,
        class_folders(faint, 7),
        {"neighbours.png", "classes.json"},
        check_embeddings,
        lambda number: faint(NAMES[number], 7),
        lambda number, row: np.linalg.norm(row["embedding"]) == pytest.approx(1, abs=1e-4),
        stop_at=2,
        changes={"total_steps": 4, "checkpoint_every": 3},
    ),
    "match": Case(
        """
        task=MatchConfig(
            loss="siglip", loss_kwargs={"hard_negative_beta": 0.1}, embedding_dim=8,
            vocab_size=300, max_length=10, text_width=16, text_depth=1, text_heads=2,
            token_dropout=0.1, caption_dropout=0.1, evaluation_captions=2,
        ),
        batch_size=6, log_every=20, evaluate_every=30, checkpoint_every=30,
        data=DataConfig(dataset="case", data_dir=data_dir, image_size=16, num_threads=1),
        model=ModelConfig(
            backbone="vit_tiny_patch8", scan=False, dropout=0.1,
            kwargs={"depth": 1, "width": 32, "heads": 2, "mlp_dim": 64},
        ),
        optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=4, ema_decay=0.8),
        evaluation=EvaluationConfig(batch_size=5, num_samples_shown=4),
        """,
        caption_table,
        {"texts.png", "tokenizer.json"},
        check_matches,
        lambda number: noisy(COLORS[NAMES[number]], 7),
        lambda number, row: np.linalg.norm(row["embedding"]) == pytest.approx(1, abs=1e-4),
        stop_at=3,
        changes={"total_steps": 6, "checkpoint_every": 4, "evaluate_every": 5},
    ),
    "tag": Case(
        """
        task=TagConfig(
            loss="asymmetric", head="query", num_queries=2, loss_kwargs={"gamma_neg": 2.0},
            max_pos_weight=3.0,
        ),
        batch_size=8, log_every=20, evaluate_every=30, checkpoint_every=30,
        data=DataConfig(
            dataset="case", data_dir=data_dir, image_size=32, crop_scale=(1.0, 1.0), flip=True,
            num_threads=1,
        ),
        model=ModelConfig(
            backbone="vit_tiny_patch16", decoder_width=32, decoder_heads=2, dropout=0.0,
            kwargs={"depth": 1, "width": 32, "heads": 2, "mlp_dim": 64}, scan=False,
        ),
        optimizer=OptimizerConfig(learning_rate=1e-2, ema_decay=0.8),
        evaluation=EvaluationConfig(batch_size=8, num_samples_shown=4),
        """,
        tag_table,
        {"tags.png", "tags.json", "thresholds"},
        check_tags,
        lambda number: patches(number + 1, number + 101),
        lambda number, row: {t["tag"] for t in row["tags"]} == set(tags_of(number + 1)),
        stop_at=3,
        changes={"total_steps": 6, "checkpoint_every": 4, "evaluate_every": 5},
    ),
}
STEPS = {"caption": 60, "classify": 30, "embed": 12, "match": 60, "tag": 60}


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        name: of its task.
        case: of its task.
        workdir: its work directory.
        config: what to give as --config.
        opened: the splits that training opened, in order.
    """

    name: str
    case: Case
    workdir: Path
    config: str
    opened: list[str]


@pytest.fixture(scope="module")
def runs(one_device, tmp_path_factory) -> Callable[[str], Run]:
    """The finished run of each task, made when it is first asked for."""
    return functools.cache(lambda name: finished_run(name, tmp_path_factory.mktemp(name)))


@pytest.fixture(
    scope="module",
    params=[pytest.param(n, marks=pytest.mark.slow if n == "match" else ()) for n in CASES],
)
def run(request, runs) -> Run:
    return runs(request.param)


def finished_run(name: str, root: Path) -> Run:
    case = CASES[name]
    source, data, path = root / "source", root / "data", root / "own.py"
    source.mkdir()
    case.write_source(source)
    done = call("prepare", "--dataset=case", f"--source={source}", f"--data_dir={data}")
    assert done.status == 0, done.err
    path.write_text(
        f"{IMPORTS}\ndef get_config(data_dir: str, steps: int = {STEPS[name]}):\n"
        f"    return Config(total_steps=steps, {case.config})\n"
    )
    config = f"{path}:data_dir={data}"
    opened: list[str] = []
    original = run_data.open_split

    def record(dataset, split, data_dir=None):
        opened.append(split)
        return original(dataset, split, data_dir)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_data, "open_split", record)
        done = call("train", f"--config={config}", f"--workdir={root / 'run'}")
    assert done.status == 0, done.err
    return Run(name, case, root / "run", config, opened)


def scores_of(workdir: Path) -> dict[str, dict[str, float]]:
    return json.loads((workdir / "results.json").read_text())


def test_it_learns_and_leaves_its_artifacts(run) -> None:
    run.case.check_scores(scores_of(run.workdir))
    common = {"board", "checkpoints", "config.json", "data.json", "goodput.json", "metrics.jsonl"}
    common |= {"results.json"}
    assert {path.name for path in run.workdir.iterdir()} == common | run.case.artifacts
    sheet = next(name for name in run.case.artifacts if name.endswith(".png"))
    assert Image.open(run.workdir / sheet).size[0] > 100
    lines = [json.loads(line) for line in (run.workdir / "metrics.jsonl").read_text().splitlines()]
    assert {line["split"] for line in lines} == {"train", "evaluation"}


def test_evaluate_gives_the_scores_of_training(run) -> None:
    before = {path: path.read_bytes() for path in run.workdir.glob("thresholds/*")}
    best = call("evaluate", f"--workdir={run.workdir}", "--step=best")
    assert best.status == 0, best.err
    done = call("evaluate", f"--workdir={run.workdir}")
    assert done.status == 0, done.err
    for name, value in scores_of(run.workdir)["model"].items():
        if name.startswith("cross_validated_"):  # of the evaluation that fits thresholds alone
            continue
        assert done.last[name] == pytest.approx(value, abs=1e-5), name
    assert {path: path.read_bytes() for path in run.workdir.glob("thresholds/*")} == before


def test_annotate_and_python_give_the_same_predictions(run, tmp_path) -> None:
    for number in range(3):
        run.case.image(number).save(tmp_path / f"{number}.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    output = tmp_path / "rows.jsonl"
    done = call("annotate", f"--workdir={run.workdir}", f"--output={output}", str(tmp_path))
    assert done.status == 0, done.err
    rows = {Path(row["file"]).stem: row for row in map(json.loads, output.open())}
    assert "error" in rows["broken"]
    assert sum(run.case.check_row(number, rows[str(number)]) for number in range(3)) >= 2

    predictor = jaxtag.load(str(run.workdir))
    files = [tmp_path / f"{number}.png" for number in range(3)]
    images = [Image.open(file) for file in files]
    forms = [
        files,
        images,
        [file.read_bytes() for file in files],
        [file.open("rb") for file in files],
    ]
    for form in (*forms, [np.asarray(image) for image in images]):
        for number, prediction in enumerate(predictor(form)):
            expected = {k: v for k, v in rows[str(number)].items() if k != "file"}
            assert {k: v for k, v in prediction.row.items() if k != "file"} == close(expected)
    assert predictor(tmp_path / "broken.png").error == rows["broken"]["error"]
    one = predictor(images[0])
    assert html.escape(str(one)) in one._repr_html_() and "data:image/jpeg" in one._repr_html_()
    features = predictor.features(files)
    assert features.shape[0] == 3 and features.dtype == np.float32
    with pytest.raises(UserError, match="1 of 1 images cannot be decoded"):
        predictor.features(tmp_path / "broken.png")


def close(expected: Any) -> Any:
    """Equal but for the last digit of its numbers."""
    if isinstance(expected, float):
        return pytest.approx(expected, abs=2e-4)
    if isinstance(expected, list):
        return [close(item) for item in expected]
    return {k: close(v) for k, v in expected.items()} if isinstance(expected, dict) else expected


@pytest.mark.parametrize(
    "run",
    [pytest.param(n, marks=() if n == "classify" else pytest.mark.slow) for n in CASES],
    indirect=True,
)
def test_a_stopped_run_goes_on_to_the_bits_of_an_unbroken_one(run, tmp_path, monkeypatch) -> None:
    """The state at the end, and each checkpoint on the way, batch statistics included."""
    config = flags.load(run.config)
    for name, value in run.case.changes.items():
        section, _, field = name.rpartition(".")
        setattr(getattr(config, section) if section else config, field, value)

    def train(workdir: Path) -> loop.TrainResult:
        workdir.mkdir(exist_ok=True)
        (workdir / "config.json").write_text(serialization.to_json(config))
        data = run_data.open_data(config, workdir)
        task = run_data.task_class(config)(config, data.vocabulary)
        return loop.train(config, workdir, task, data)

    unbroken = train(tmp_path / "unbroken").state
    with monkeypatch.context() as patch:
        stop_at = run.case.stop_at
        patch.setattr(preemption.Preemption, "requested", lambda self, step: step == stop_at)
        assert train(tmp_path / "broken").preempted
    state = train(tmp_path / "broken").state
    assert int(state.step) == config.total_steps
    check_same_bits(state, unbroken)
    # The end makes some things anew: what was saved on the way has to be the same as well.
    checkpoints = (tmp_path / "unbroken" / "checkpoints").iterdir()
    steps = sorted(int(path.name) for path in checkpoints if path.name.isdecimal())
    assert len(steps) > 1 and steps[-1] == config.total_steps
    for step in steps:
        one, other = (
            jaxtag.load(tmp_path / name, step).variables for name in ("unbroken", "broken")
        )
        check_same_bits(one, other)


def check_same_bits(one: Any, other: Any) -> None:
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        if jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = map(jax.random.key_data, (a, b))
        np.testing.assert_array_equal(a, b)


def test_the_training_split_is_opened_once(run) -> None:
    """By the whole of a fresh run: vocabulary, input, initialization and baselines."""
    assert sorted(run.opened) == ["train", "validation"]


# --- of one task each


@pytest.fixture(scope="module")
def tagger(runs) -> Run:
    return runs("tag")


def test_rare_tags_weigh_more_from_the_start(tagger) -> None:
    model = jaxtag.load(tagger.workdir)
    source = open_split("case", "train", model.config.data.data_dir)
    np.testing.assert_array_equal(sources.tag_counts(source, 3), [20, 14, 12])
    weights = model.variables["tag_weights"]["positive_weight"]
    np.testing.assert_allclose(weights, [1.0, 26 / 14, 28 / 12], rtol=1e-6)


def test_thresholds_are_fitted_on_validation_alone_and_kept(tagger) -> None:
    workdir = tagger.workdir
    assert sorted(int(path.stem) for path in (workdir / "thresholds").iterdir()) == [30, 60]
    path = workdir / "thresholds/60.json"
    saved = json.loads(path.read_text())
    done = call("evaluate", f"--workdir={workdir}", "--split=test")
    assert done.status == 0 and "per_tag" not in done.last
    per_tag = json.loads((workdir / "evaluation.json").read_text())["per_tag"]
    assert {name: v["threshold"] for name, v in per_tag.items()} == saved["thresholds"]
    path.unlink()
    assert jaxtag.load(workdir).task.calibration is None
    assert call("evaluate", f"--workdir={workdir}", "--split=test").status == 0
    assert not path.exists()  # thresholds are fitted on validation alone
    assert call("evaluate", f"--workdir={workdir}").status == 0
    assert json.loads(path.read_text())["scale"] == pytest.approx(saved["scale"], rel=1e-4)
    per_tag = json.loads((workdir / "evaluation.json").read_text())["per_tag"]
    assert per_tag["red"]["present"] == 4 and per_tag["red"]["recall"] > 0.8


def test_a_data_set_without_tags_is_refused(tagger, tiny_data, tmp_path) -> None:
    config = flags.load(tagger.config)
    config.data.dataset, config.data.data_dir = "tiny", str(tiny_data)
    with pytest.raises(UserError, match="has no tags"):
        run_data.open_data(config, tmp_path)


def test_embeddings_are_those_of_embed(runs) -> None:
    model = jaxtag.load(runs("embed").workdir)
    images = [np.asarray(faint(name, 7)) for name in COLORS]
    expected = jax.jit(model.task.embed)(model.variables, np.stack(images))
    np.testing.assert_allclose(model.features(images), expected, atol=1e-6)
