"""Features of a frozen backbone, computed once, train as those computed in each step do."""

import dataclasses
import json
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_backbone import SmallBackbone

import jaxtag
from jaxtag import weights
from jaxtag.config import checks, serialization
from jaxtag.config.schema import Config, DataConfig, EvaluationConfig, ModelConfig, OptimizerConfig
from jaxtag.data.feature_table import FIELD, FeatureTable
from jaxtag.data.labels import LabelNames
from jaxtag.data.sources import RecordSource, as_data_source
from jaxtag.data.tokenizer import Tokenizer
from jaxtag.errors import UsageError, UserError
from jaxtag.tasks.base import Data
from jaxtag.tasks.caption.config import CaptionConfig, DecodingConfig
from jaxtag.tasks.classify.config import ClassifyConfig
from jaxtag.tasks.classify.task import ClassifyTask
from jaxtag.tasks.embed.config import EmbedConfig
from jaxtag.tasks.match.config import MatchConfig
from jaxtag.tasks.tag.config import TagConfig
from jaxtag.training import cached_features, initialization, run_data
from jaxtag.training.callbacks import Callback
from jaxtag.training.setup import TrainSetup

BACKBONE = "small_backbone:SmallBackbone"
SIZE = 16


@pytest.fixture(scope="module", autouse=True)
def on_one_device(one_device):
    """Small programs, which take longer to split than to run."""


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory) -> str:
    variables = SmallBackbone().init(jax.random.key(7), np.zeros((1, SIZE, SIZE, 3), np.float32))
    path = tmp_path_factory.mktemp("weights") / "backbone.safetensors"
    weights.save(path, SmallBackbone(), variables, library="jaxtag")
    return str(path)


@pytest.fixture
def computed(monkeypatch) -> list[int]:
    """The number of views of each table that was computed."""
    views: list[int] = []
    compute = cached_features._features

    def counted(*arguments):
        views.append(arguments[3].shape[0])
        return compute(*arguments)

    monkeypatch.setattr(cached_features, "_features", counted)
    return views


def frozen(config: Config, pretrained: str, views: int, **model) -> Config:
    fields = {"backbone": BACKBONE, "kwargs": {}, "pretrained": pretrained, "freeze": True}
    changed = dataclasses.replace(config.model, **fields, cached_views=views, **model)
    return dataclasses.replace(config, model=changed)


def classes(pretrained: str, views: int = 1, **fields) -> Config:
    config = Config(
        task=ClassifyConfig(),
        batch_size=4,
        total_steps=4,
        log_every=1,
        evaluate_every=4,
        data=DataConfig(image_size=SIZE, crop_scale=(1.0, 1.0), num_threads=1),
        model=ModelConfig(),
        optimizer=OptimizerConfig(learning_rate=0.1, ema_decay=0.9),
        evaluation=EvaluationConfig(batch_size=5, num_samples_shown=2),
        metric_writers=("jsonl",),
    )
    return dataclasses.replace(frozen(config, pretrained, views), **fields)


def records(count: int) -> list[dict]:
    rng = np.random.default_rng(count)
    pixels = rng.integers(0, 256, (count, 20, 20, 3), np.uint8)
    return [{"image": image, "label": number % 3} for number, image in enumerate(pixels)]


SPLITS = {"train": records(10), "validation": records(7)}


def lines(workdir) -> list[dict]:
    """The losses and scores of a run, without its times."""
    entries = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    left_out = ("second", "wait", "memory", "mfu", "goodput", "time")
    return [
        {name: value for name, value in entry.items() if not any(n in name for n in left_out)}
        for entry in entries
    ]


def assert_same_losses(one: list[dict], other: list[dict]) -> None:
    assert [entry.keys() for entry in one] == [entry.keys() for entry in other]
    for a, b in zip(one, other, strict=True):
        for name, value in a.items():
            assert b[name] == (value if isinstance(value, str) else pytest.approx(value, rel=2e-5))


class Digested(RecordSource):
    """Records in memory that have a digest, as prepared ones do."""

    def __init__(self, images: list[dict]):
        super().__init__(images, lambda all_of_them, indices: [all_of_them[i] for i in indices])

    def fingerprint(self) -> dict:
        return {**super().fingerprint(), "digest": str(len(self))}


def test_the_losses_are_those_of_a_run_without_the_cache(tmp_path, pretrained, computed) -> None:
    splits = {name: Digested(images) for name, images in SPLITS.items()}
    for name, views in (("cached", 1), ("plain", 0), ("again", 1)):
        jaxtag.fit(classes(pretrained, views), tmp_path / name, splits)
    assert computed == [1, 1]  # training and evaluation, of the first run
    cached, plain, again = (lines(tmp_path / name) for name in ("cached", "plain", "again"))
    assert_same_losses(cached, plain)
    assert cached == again


@pytest.mark.parametrize(
    "settings",
    [
        CaptionConfig(vocab_size=320, max_length=6, decoding=DecodingConfig(method="greedy")),
        TagConfig(head="query", num_queries=2),
        pytest.param(EmbedConfig(loss="n_pair", embedding_dim=4), marks=pytest.mark.slow),
        MatchConfig(
            loss="clip",
            embedding_dim=4,
            max_length=6,
            text_width=4,
            text_depth=0,
            text_heads=1,
            text_pool="mean",
        ),
    ],
    ids=lambda settings: settings.TASK,
)
def test_each_task_takes_features_in_the_place_of_images(pretrained, settings) -> None:
    model = ModelConfig(decoder_width=8, decoder_depth=1, decoder_heads=2, dropout=0.5)
    config = classes(pretrained, task=settings, model=model)
    config = frozen(config, pretrained, views=1)
    names = LabelNames(("a", "b", "c"))
    has_texts = isinstance(settings, CaptionConfig | MatchConfig)
    vocabulary = Tokenizer.train(["a red square", "a dog"], 300) if has_texts else names
    task = run_data.task_class(config)(config, vocabulary)
    variables = task.init(jax.random.key(0))
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (4, SIZE, SIZE, 3), np.uint8),
        "mask": np.array([1, 1, 1, 0], np.float32),
        "label": np.array([0, 0, 1, 1], np.int32),
        "tags": np.eye(4, 3, dtype=np.uint8),
        "known": np.ones((4, 3), np.uint8),
        "tokens": rng.integers(4, 300, (4, 1, 6)).astype(np.int32),
    }
    batch = {name: jnp.asarray(values) for name, values in batch.items()}
    features = task.encode(variables, task.normalize(batch["image"]))
    without = {name: value for name, value in batch.items() if name != "image"}
    with_features = {**without, FIELD: features}
    for key in (None, jax.random.key(1)):
        expected, loss = (task.loss(variables, each, key).loss for each in (batch, with_features))
        np.testing.assert_allclose(loss, expected, rtol=1e-6)
    predict = task.make_predict()
    one, other = (predict(variables, each, jax.random.key(2)) for each in (batch, with_features))
    for name, values in one.items():
        np.testing.assert_allclose(other[name], values, rtol=1e-5, atol=1e-6)


def test_the_backbone_stays_and_images_give_what_features_gave(tmp_path, pretrained) -> None:
    result = jaxtag.fit(classes(pretrained), tmp_path / "run", SPLITS)
    expected = weights.load(pretrained, SmallBackbone())
    for variables in (result.state.variables, result.state.evaluation_variables):
        jax.tree.map(
            np.testing.assert_array_equal, variables["params"]["backbone"], expected["params"]
        )
        statistics = variables["batch_stats"]["backbone"]
        jax.tree.map(np.testing.assert_array_equal, statistics, expected["batch_stats"])
    assert np.any(result.state.params["head"]["kernel"])
    assert result.evaluation is not None
    metrics = jaxtag.evaluate(tmp_path / "run", data=SPLITS)  # of the images
    for name, value in result.evaluation.metrics.items():
        assert metrics[name] == pytest.approx(value, rel=1e-5)
    tta = serialization.load(tmp_path / "run")
    tta.evaluation.tta_flip = True
    jaxtag.evaluate(tmp_path / "run", data=SPLITS, config=tta)
    assert jaxtag.load(tmp_path / "run").features(SPLITS["train"][0]["image"]).shape == (1, 6)


def test_views_are_drawn_and_a_stopped_run_goes_on_bit_for_bit(tmp_path, pretrained) -> None:
    data = DataConfig(image_size=SIZE, crop_scale=(0.3, 1.0), flip=True, num_threads=1)
    splits = {**SPLITS, "train": [*SPLITS["train"], {"image": b"damaged", "label": 0}]}
    data.max_corrupt_fraction = 1.0
    config = classes(pretrained, 3, data=data, checkpoint_every=2)

    class Stopped(Exception):
        pass

    class Stop(Callback):
        def on_step(self, step, state, outputs):
            if step == 3:
                raise Stopped

    unbroken = jaxtag.fit(config, tmp_path / "unbroken", splits)
    with pytest.raises(Stopped):
        jaxtag.fit(config, tmp_path / "broken", splits, callbacks=[Stop()])
    resumed = jaxtag.fit(config, tmp_path / "broken", splits)
    jax.tree.map(np.testing.assert_array_equal, unbroken.state.params, resumed.state.params)
    entries = lines(tmp_path / "unbroken")
    assert sum(entry.get("corrupt_images", 0) for entry in entries) > 0


def test_each_view_is_another_and_damaged_images_are_marked(pretrained, tmp_path) -> None:
    data = DataConfig(image_size=SIZE, crop_scale=(0.3, 1.0), flip=True, num_threads=1)
    task = ClassifyTask(classes(pretrained, 3, data=data), LabelNames(("a", "b", "c")))
    source = as_data_source([*records(5), {"image": b"damaged", "label": 0}])
    opened = cached_features.with_sources(task, Data(source, source, task.vocabulary))
    setup = TrainSetup.from_config(task.config, task, len(source))
    state = initialization.init_state(setup, source)
    cached_features.fill(task, setup.mesh, state.variables, opened)
    table, plain = opened.train.table, opened.evaluation.table
    assert table.features.shape == (3, 6, 6) and plain.features.shape == (1, 6, 6)
    np.testing.assert_array_equal(table.decoded, [True] * 5 + [False])
    assert not table.features[:, 5].any()
    for one, other in ((0, 1), (1, 2), (0, 2)):
        assert np.abs(table.features[one] - table.features[other])[:5].max(1).min() > 1e-3
    assert opened.train[5]["error"] and "error" not in opened.train[4]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"freeze": False}, r"cached_views = 1: features change with a backbone that is trained"),
        ({"pretrained": None}, r"freeze: config\.model\.pretrained must name"),
        ({"cached_views": 2}, r"cached_views = 2: without augmentation all views are the same"),
        ({"cached_views": -1}, r"cached_views = -1: must be at least 0"),
    ],
)
def test_what_makes_no_sense_is_refused(pretrained, model, message) -> None:
    config = classes(pretrained)
    config.model = dataclasses.replace(config.model, **model)
    with pytest.raises(UsageError, match=message):
        checks.check(config)


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        ("data", "flip", True),
        ("data", "crop_scale", (0.5, 1.0)),
        ("augmentation", "mixup", 0.2),
        ("augmentation", "randaugment", (1, 5)),
        ("optimizer", "ema_bn_batches", 2),
    ],
)
def test_what_changes_images_is_refused_with_one_view(pretrained, section, field, value) -> None:
    config = classes(pretrained)
    setattr(getattr(config, section), field, value)
    with pytest.raises(UsageError, match=rf"config\.{section}\.{field}"):
        checks.check(config)


def test_averages_over_views_are_for_images(tmp_path, pretrained) -> None:
    config = classes(pretrained)
    config.evaluation.tta_flip = True
    with pytest.raises(UsageError, match="tta_flip and tta_shift: cached features are of one view"):
        jaxtag.fit(config, tmp_path, SPLITS)


def test_a_table_is_written_whole_and_opened_again_by_workers(tmp_path, monkeypatch) -> None:
    path, shape = tmp_path / "cache" / "table.npy", (2, 3, 4)
    rows = np.arange(24, dtype=np.float32).reshape(6, 4)
    valid = np.array([True, True, False, True, True, True])
    parts = [(rows[:4], valid[:4]), (rows[4:], valid[4:])]
    assert FeatureTable.read(path, shape) is None
    table = FeatureTable.write(path, shape, iter(parts))
    for other in (table, FeatureTable.read(path, shape), pickle.loads(pickle.dumps(table))):
        assert isinstance(other.features, np.memmap)
        np.testing.assert_array_equal(other.features, rows.reshape(shape))
        np.testing.assert_array_equal(other.decoded, [True, True, False])
    assert len(pickle.dumps(table)) < 1000
    in_memory = FeatureTable.collect(shape, parts)
    np.testing.assert_array_equal(in_memory.features, table.features)
    np.testing.assert_array_equal(in_memory.decoded, table.decoded)
    assert FeatureTable.read(path, (2, 3, 5)) is None
    path.write_bytes(path.read_bytes()[:150])
    assert FeatureTable.read(path, shape) is None

    def full(*_):
        yield parts[0]
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match=r"table\.npy.*No space left"):
        FeatureTable.write(path, shape, full())
    assert {p.name for p in path.parent.iterdir()} == {"table.npy", "table.decoded.npy"}
