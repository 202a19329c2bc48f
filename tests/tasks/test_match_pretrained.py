"""Fine-tuning a whole CLIP or SigLIP: the task `match` with both towers of published weights."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from calling import call
from stored_image_text import CONFIGS, NAMES, unpack, write_tokenizer

import jaxtag
from jaxtag.config import checks, flags, serialization
from jaxtag.config.schema import Config, DataConfig, EvaluationConfig, ModelConfig, OptimizerConfig
from jaxtag.data.sources import as_data_source
from jaxtag.errors import UsageError, UserError
from jaxtag.inference import predictor, zero_shot
from jaxtag.tasks.match.config import MatchConfig
from jaxtag.tasks.match.task import MatchTask
from jaxtag.training import initialization, run_config
from jaxtag.training.setup import TrainSetup
from jaxtag.weights import open_clip_config

pytestmark = pytest.mark.usefixtures("one_device")
RANDOM = np.random.default_rng(0)
WORDS = ("dog", "cat", "beach", "red")


def publish(name: str, folder: Path) -> dict[str, np.ndarray]:
    """A folder as published, with a tokenizer of a few words; returns what is stored of it."""
    stored = unpack(name, folder)
    if name.startswith("transformers"):
        text = json.dumps(CONFIGS["processors"][name])
        (folder / "preprocessor_config.json").write_text(text)
    write_tokenizer(folder)
    return stored


def make_config(folder: Path, model: ModelConfig | None = None, **task) -> Config:
    return Config(
        task=MatchConfig(pretrained=str(folder), **task),
        batch_size=4,
        total_steps=2,
        log_every=1,
        evaluate_every=2,
        data=DataConfig(crop_scale=(1.0, 1.0), num_threads=1),
        model=model or ModelConfig(),
        optimizer=OptimizerConfig(learning_rate=1e-3),
        evaluation=EvaluationConfig(batch_size=5, num_samples_shown=2),
        metric_writers=("jsonl",),
    )


def make_splits() -> dict[str, list[dict]]:
    captions = (["a red dog", "dog"], ["cat"], ["the beach", "red beach"])
    images = np.random.default_rng(1).integers(0, 256, (10, 16, 16, 3), np.uint8)
    records = [
        {"image": image, "captions": captions[i % 3], "label": WORDS[i % 3]}
        for i, image in enumerate(images)
    ]
    return {"train": records, "validation": records[:7]}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name.startswith("open_clip") else [])
        for name in NAMES
    ],
)
def test_the_first_step_sees_what_the_library_computes(
    name: str, tmp_path: Path, capsys, monkeypatch
) -> None:
    stored = publish(name, tmp_path)
    if name == "open_clip_siglip":  # made with a trunk that timm has no name for
        sizes = {"width": 24, "depth": 2, "heads": 2, "mlp_dim": 96, "norm_eps": 1e-6}
        monkeypatch.setitem(open_clip_config._TRUNK_SIZES, "base", sizes)
        values = json.loads(json.dumps(CONFIGS[name]))
        values["model_cfg"]["vision_cfg"]["timm_model_name"] = "vit_base_patch8_siglip_16"
        (tmp_path / "open_clip_config.json").write_text(json.dumps(values))
    config = run_config.with_described_model(make_config(tmp_path))
    assert serialization.from_json(serialization.to_json(config)) == config
    source = as_data_source(make_splits()["train"])
    task = MatchTask(config, MatchTask.build_vocabulary(config, source))
    setup = TrainSetup.from_config(config, task, 8)
    state = initialization.init_state(setup, source)
    outputs = task.model.apply(state.variables, stored["images"], stored["tokens"])
    np.testing.assert_allclose(outputs["image_embedding"], stored["image"], atol=1e-6)
    np.testing.assert_allclose(outputs["text_embedding"], stored["text"], atol=1e-6)
    np.testing.assert_allclose(outputs["logits"], stored["logits"], atol=1e-4)
    assert capsys.readouterr().err.count("images of 16 pixels, texts of 8 tokens") == 1


@pytest.fixture(scope="module", params=["clip", "siglip"])
def trained(request, tmp_path_factory) -> Path:
    """A work directory of a run of two steps; the files that it started from are gone."""
    source, workdir = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("run")
    publish(f"transformers_{request.param}", source)
    result = jaxtag.fit(make_config(source), workdir, make_splits())
    assert result.evaluation is not None
    for file in source.iterdir():
        file.unlink()
    return workdir


def test_a_run_is_used_and_goes_on_without_the_files(trained: Path) -> None:
    written = serialization.load(trained)
    config = make_config(Path(str(written.task.pretrained)))
    config.total_steps = 3
    result = jaxtag.fit(config, trained, make_splits(), allow_changes=True)
    assert int(result.state.step) == 3
    assert serialization.load(trained) == dataclasses.replace(written, total_steps=3)
    assert jaxtag.evaluate(trained, data=make_splits())["step"] == 3
    model = predictor.load(trained)
    splits = make_splits()
    metrics = jaxtag.evaluate(trained, data=splits, prompts=("a {}",))  # --zero_shot
    images = model.features([record["image"] for record in splits["validation"]])
    texts = zero_shot.embed_texts(model, [f"a {word}" for word in WORDS[:3]])
    nearest = (images @ texts.T).argmax(1)
    assert metrics["top1"] == pytest.approx(np.mean(nearest == np.arange(7) % 3))


def test_a_run_is_exported_as_it_was_published(trained: Path, tmp_path: Path) -> None:
    out = ("--library=transformers", f"--output={tmp_path / 'out'}")
    done = call("weights", "export", f"--workdir={trained}", *out)
    assert done.status == 0, done.err
    run, exported = predictor.load(trained), predictor.load(tmp_path / "out")
    images = list(RANDOM.integers(0, 256, (3, 16, 16, 3), np.uint8))
    np.testing.assert_allclose(exported.features(images), run.features(images), atol=1e-6)
    texts = ["a red DOG", "cat on the beach and beach and beach and beach"]
    np.testing.assert_array_equal(exported.task.tokenize(texts), run.task.tokenize(texts))
    vectors = [zero_shot.embed_texts(model, texts) for model in (exported, run)]
    np.testing.assert_allclose(*vectors, atol=1e-6)


def test_a_frozen_image_tower_has_cached_features(tmp_path: Path) -> None:
    source = tmp_path / "source"
    stored = publish("transformers_siglip", source)
    model = ModelConfig(freeze=True, cached_views=1, dropout=0.0)
    result = jaxtag.fit(make_config(source, model), tmp_path / "run", make_splits())
    params = result.state.params
    name, ours = "vision_model.post_layernorm.weight", params["image_encoder"]["norm"]["scale"]
    np.testing.assert_array_equal(ours, stored["tensors"][name])
    name, ours = "text_model.final_layer_norm.weight", params["text_encoder"]["norm"]["scale"]
    assert np.any(ours != stored["tensors"][name])
    metrics = jaxtag.evaluate(tmp_path / "run", data=make_splits())  # of images
    expected = result.evaluation.metrics
    assert metrics["mean_recall"] == pytest.approx(expected["mean_recall"], abs=1e-6)


def test_an_imported_model_is_a_run_that_goes_on(tmp_path: Path) -> None:
    source, run = tmp_path / "source", tmp_path / "run"
    publish("transformers_siglip", source)
    published = predictor.load(source)
    done = call("weights", "import", f"--source={source}", f"--workdir={run}")
    assert done.status == 0 and "a model of images and texts with vit_" in done.out, done.err
    images = list(RANDOM.integers(0, 256, (2, 16, 16, 3), np.uint8))
    imported = predictor.load(run)
    np.testing.assert_allclose(imported.features(images), published.features(images), atol=1e-6)
    vectors = [zero_shot.embed_texts(model, ["red dog"]) for model in (imported, published)]
    np.testing.assert_allclose(*vectors, atol=1e-6)
    for file in source.iterdir():
        file.unlink()
    config = dataclasses.replace(serialization.load(run), total_steps=2, batch_size=4)
    config.metric_writers = ("jsonl",)
    result = jaxtag.fit(config, run, make_splits(), allow_changes=True)
    assert int(result.state.step) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": {"text_width": 32}}, "task.text_width = 32: .*source, .* has 16; leave"),
        ({"task": {"vocab_size": 999}}, "task.vocab_size = 999: .* has 40; leave"),
        ({"task": {"lowercase": False}}, "task.lowercase = False: .* has True"),
        (
            {"task": {"text_kwargs": {"causal": False}}},
            "task.text_kwargs.causal = False: .* has True",
        ),
        ({"task": {"loss": "siglip"}}, "task.loss = 'siglip': .* is a CLIP, whose logits have no"),
        ({"model": {"backbone": "resnet18"}}, "model.backbone = 'resnet18': .* has 'vit_base"),
        ({"model": {"kwargs": {"depth": 3}}}, "model.kwargs.depth = 3: .* has 2"),
        ({"model": {"pretrained": "x"}}, "model.pretrained: config.task.pretrained names a whole"),
    ],
)
def test_settings_that_contradict_the_files_are_named(changes, message, tmp_path: Path) -> None:
    publish("transformers_clip", tmp_path / "source")
    config = make_config(tmp_path / "source")
    for section, fields in changes.items():
        replaced = dataclasses.replace(getattr(config, section), **fields)
        config = dataclasses.replace(config, **{section: replaced})
    with pytest.raises(UsageError, match=f"config.{message}"):
        jaxtag.fit(config, tmp_path / "run", make_splits())


@pytest.mark.parametrize("name", ["coco_match", "flickr8k_match"])
def test_a_configuration_takes_the_model_as_an_argument(name: str, tmp_path: Path) -> None:
    publish("transformers_clip", tmp_path)
    config = checks.check(flags.load(f"{name}:pretrained={tmp_path}"))
    config = checks.check(run_config.with_described_model(config))
    assert config.task.loss == "clip" and config.task.text_width == 16
    assert config.data.image_size == 16 and config.data.mean[0] == 0.48145466
    assert config.model.freeze == (name == "flickr8k_match")
    plain = flags.load(name)
    plain.task.pretrained, plain.model.pretrained, plain.model.freeze = str(tmp_path), None, False
    with pytest.raises(UsageError, match=r"embedding_dim = .* has 12; .*:pretrained=REF does"):
        run_config.with_described_model(plain)


def test_weights_of_another_kind_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(UserError, match=r"holds no CLIP or SigLIP .*model\.pretrained an"):
        run_config.with_described_model(make_config(tmp_path))


def test_settings_beside_the_form_hold(tmp_path: Path, capsys) -> None:
    publish("transformers_clip", tmp_path)
    config = make_config(tmp_path, ModelConfig(kwargs={"drop_path": 0.1}))
    config.data.image_size, config.data.mean = 32, (0.4, 0.4, 0.4)
    resolved = run_config.with_described_model(config)
    assert resolved.data.image_size == 32 and resolved.data.mean == (0.4, 0.4, 0.4)
    assert resolved.data.eval_interpolation == "bicubic"
    assert resolved.model.kwargs["drop_path"] == 0.1 and resolved.model.kwargs["width"] == 24


def test_dropped_tokens_leave_what_the_model_was_trained_with(tmp_path: Path) -> None:
    publish("transformers_siglip", tmp_path)
    config = run_config.with_described_model(make_config(tmp_path, token_dropout=0.9))
    source = as_data_source(make_splits()["train"])
    task = MatchTask(config, MatchTask.build_vocabulary(config, source))
    tokens = task.tokenize(["red dog cat"] * 8)
    dropped, _ = task._drop(tokens, np.ones(8, np.float32), jax.random.key(0))
    assert (dropped != tokens).any() and (dropped >= 0).all()
