"""The image tower of a CLIP or SigLIP as the backbone of any task."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file
from stored_image_text import CONFIGS, NAMES, unpack

import jaxtag
from jaxtag import models, weights
from jaxtag.config import serialization
from jaxtag.config.schema import Config, DataConfig, EvaluationConfig, ModelConfig, OptimizerConfig
from jaxtag.data.labels import LabelNames
from jaxtag.data.tokenizer import Tokenizer
from jaxtag.errors import UserError
from jaxtag.inference import features
from jaxtag.tasks.caption.config import CaptionConfig, DecodingConfig
from jaxtag.tasks.classify.config import ClassifyConfig
from jaxtag.tasks.embed.config import EmbedConfig
from jaxtag.tasks.match.config import MatchConfig
from jaxtag.tasks.tag.config import TagConfig
from jaxtag.training import initialization, run_config, run_data
from jaxtag.training.setup import TrainSetup
from jaxtag.weights import image_towers

SIZE = 16
RANDOM = np.random.default_rng(0)
LABELS = ("a", "b", "c")


@pytest.fixture(scope="module", autouse=True)
def on_one_device(one_device):
    """Small programs, which take longer to split than to run."""


def backbone_of(name: str) -> str:
    return "vit_base_patch16_siglip" if name.endswith("siglip") else "vit_base_patch16_clip"


def small_kwargs(name: str) -> dict:
    """The sizes of the stored models; activation and epsilon are left to the files."""
    mlp_dim = 32 if name.startswith("transformers") else 96
    return {"patch_size": 8, "width": 24, "depth": 2, "heads": 2, "mlp_dim": mlp_dim}


def make_source(name: str, folder: Path) -> dict[str, np.ndarray]:
    """A published folder; of open_clip's SigLIP the weights, whose trunk timm has no name for."""
    stored = unpack(name, folder)
    if name == "open_clip_siglip":
        (folder / "open_clip_config.json").unlink()
    elif name.startswith("transformers"):
        text = json.dumps(CONFIGS["processors"][name])
        (folder / "preprocessor_config.json").write_text(text)
    return stored


def make_config(name: str, folder: Path, task=None, **model) -> Config:
    preprocessing = models.get_preprocessing(backbone_of(name))
    return Config(
        task=task or ClassifyConfig(),
        batch_size=4,
        total_steps=3,
        log_every=1,
        evaluate_every=3,
        data=DataConfig(
            image_size=SIZE,
            crop_scale=(1.0, 1.0),
            num_threads=1,
            mean=preprocessing.mean,
            std=preprocessing.std,
        ),
        model=ModelConfig(
            backbone=backbone_of(name),
            kwargs=small_kwargs(name),
            pretrained=str(folder),
            decoder_width=8,
            decoder_depth=1,
            decoder_heads=2,
            **model,
        ),
        optimizer=OptimizerConfig(learning_rate=0.1),
        evaluation=EvaluationConfig(batch_size=5, num_samples_shown=2),
        metric_writers=("jsonl",),
    )


def records(count: int) -> list[dict]:
    images = RANDOM.integers(0, 256, (count, 20, 20, 3), np.uint8)
    return [{"image": image, "label": number % 3} for number, image in enumerate(images)]


def compute_embedding(pooled: np.ndarray, stored: dict[str, np.ndarray]) -> np.ndarray:
    """What the library computes of the pooled feature: CLIP's projection, and unit length."""
    tensors = stored["tensors"]
    if "visual_projection.weight" in tensors:
        pooled = pooled @ tensors["visual_projection.weight"].T
    elif "visual.proj" in tensors:
        pooled = pooled @ tensors["visual.proj"]
    return pooled / np.linalg.norm(pooled, axis=-1, keepdims=True)


TASKS = [
    ClassifyConfig(),
    TagConfig(),
    EmbedConfig(loss="n_pair", embedding_dim=4),
    CaptionConfig(vocab_size=320, max_length=6, decoding=DecodingConfig(method="greedy")),
    MatchConfig(embedding_dim=4, max_length=6, text_width=4, text_depth=0, text_heads=1),
]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.TASK)
@pytest.mark.parametrize("name", NAMES)
def test_each_task_starts_from_the_tower(name: str, task, tmp_path: Path, capsys) -> None:
    stored = make_source(name, tmp_path)
    config = run_config.with_described_kwargs(make_config(name, tmp_path, task))
    has_texts = isinstance(task, CaptionConfig | MatchConfig)
    vocabulary = Tokenizer.train(["a red square"], 300) if has_texts else LabelNames(LABELS)
    made = run_data.task_class(config)(config, vocabulary)
    setup = TrainSetup.from_config(config, made, 8)
    state = initialization.load_backbone(setup.initialize(), str(tmp_path), made)
    module, path = made.backbone
    params = state.params
    for part in path:
        params = params[part]
    outputs = module.apply({"params": params}, stored["images"])
    embedding = compute_embedding(outputs["pooled"], stored)
    np.testing.assert_allclose(embedding, stored["image"], atol=1e-6)
    tokens = 5 if name.endswith("clip") else 4
    assert outputs["features"].shape == (2, tokens, 24)
    assert outputs["grid"].shape == (2, 2, 2, 24)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["transformers_clip", "transformers_siglip"])
def test_a_run_on_cached_features_trains_evaluates_and_goes_on(name: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    make_source(name, source)
    splits = {"train": records(10), "validation": records(7)}
    config = make_config(name, source, freeze=True, cached_views=1)
    result = jaxtag.fit(config, tmp_path / "run", splits)
    assert result.evaluation is not None
    written = serialization.load(tmp_path / "run").model
    described = {"activation": "gelu_tanh" if name.endswith("siglip") else "quick_gelu"}
    described["norm_eps"] = 1e-6 if name.endswith("siglip") else 1e-5
    assert written.kwargs == {**described, **small_kwargs(name)}
    tower = image_towers.read(source)
    assert tower is not None
    jax.tree.map(
        np.testing.assert_array_equal,
        result.state.params["backbone"],
        weights.load(source, tower)["params"],
    )
    assert np.any(result.state.params["head"]["kernel"])

    for file in source.iterdir():  # a run that goes on needs them no more
        file.unlink()
    config.total_steps = 4
    jaxtag.fit(config, tmp_path / "run", splits, allow_changes=True)
    assert serialization.load(tmp_path / "run").model == written
    metrics = jaxtag.evaluate(tmp_path / "run", data=splits)  # of images
    assert metrics["step"] == 4


def test_a_run_fine_tunes_the_tower_at_another_size(tmp_path: Path, capsys) -> None:
    name, source = "transformers_clip", tmp_path / "source"
    make_source(name, source)
    config = make_config(name, source)
    config.data.image_size, config.data.std = 32, (0.5,) * 3
    splits = {"train": records(8), "validation": records(4)}
    result = jaxtag.fit(config, tmp_path / "run", splits)
    assert result.state.params["pos_embed"].shape == (1 + 4 * 4, 24)
    tower = image_towers.read(source)
    assert tower is not None
    before = weights.load(source, tower)["params"]["block_0"]["qkv"]["kernel"]
    assert np.any(before != result.state.params["block_0"]["qkv"]["kernel"])
    assert "normalized with mean (0.48" in capsys.readouterr().err


@pytest.mark.parametrize("name", NAMES)
def test_features_for_an_index(name: str, tmp_path: Path, monkeypatch) -> None:
    make_source(name, tmp_path)
    registered = models.create_model

    def create(backbone: str, **fields):
        return registered(backbone, **{**small_kwargs(name), **fields})

    monkeypatch.setattr(models, "create_model", create)
    backbone = backbone_of(name)
    if name == "open_clip":
        backbone += "_quickgelu"
    image = RANDOM.integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    vector = features.from_model(backbone, str(tmp_path), SIZE).of_inputs([image])
    preprocessing = models.get_preprocessing(backbone)
    normalized = (image / np.float32(255) - preprocessing.mean) / preprocessing.std
    tower = image_towers.read(tmp_path) or create(backbone, image_size=SIZE)
    outputs = tower.apply(weights.load(tmp_path, tower), normalized[None].astype(np.float32))
    np.testing.assert_allclose(vector, outputs["pooled"], atol=1e-4)


def test_another_tower_is_named_with_both(tmp_path: Path) -> None:
    values = json.loads(json.dumps(CONFIGS["transformers_clip"]))
    values["vision_config"] = {}  # CLIP ViT-B/32 by transformers' defaults
    unpack("transformers_clip", tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(values))
    expected = (
        r"holds the image tower of a CLIP \(vit_base_patch32_clip_quickgelu, patch_size 32, "
        r"activation 'quick_gelu'\), the model is the image tower of a CLIP "
        r"\(vit_base_patch16_clip, patch_size 16, activation 'gelu'\): name the backbone "
        r"vit_base_patch32_clip_quickgelu$"
    )
    with pytest.raises(UserError, match=expected):
        weights.load(tmp_path, models.create_model("vit_base_patch16_clip"))
    siglip = models.create_model("vit_base_patch16_siglip")
    expected = (
        r"\(vit_base_patch32_clip_quickgelu\), the model .*patch16_siglip\): name the backbone"
    )
    with pytest.raises(UserError, match=expected):
        weights.load(tmp_path, siglip)
    for other in ("vit_base_patch32", "resnet18"):
        with pytest.raises(UserError, match=r"describe .* name the backbone vit_base_patch32_clip"):
            weights.load(tmp_path, models.create_model(other))


def test_a_mismatch_ends_a_run_with_one_line(tmp_path: Path) -> None:
    make_source("transformers_clip", tmp_path / "source")
    config = make_config("transformers_clip", tmp_path / "source")
    config.model.kwargs["width"] = 48
    with pytest.raises(UserError, match=r"\(width 24\), the model .* \(width 48\): name the"):
        jaxtag.fit(config, tmp_path / "run", {"train": records(4), "validation": records(4)})


def test_openais_own_files_want_quick_gelu(tmp_path: Path) -> None:
    """Their three numbers say that a file is OpenAI's, and nothing lies beside it."""
    stored = unpack("open_clip", tmp_path)
    numbers = {"input_resolution": 16, "context_length": 8, "vocab_size": 40}
    path = tmp_path / "openai" / "model.safetensors"
    path.parent.mkdir()
    tensors = {**stored["tensors"], **{n: np.array(v, np.int64) for n, v in numbers.items()}}
    save_file(tensors, path)
    kwargs = {**small_kwargs("open_clip"), "image_size": SIZE}
    model = models.create_model("vit_base_patch32_clip_quickgelu", **kwargs)
    outputs = model.apply(weights.load(path, model), stored["images"])
    embedding = compute_embedding(outputs["pooled"], stored)
    np.testing.assert_allclose(embedding, stored["image"], atol=1e-6)
    with pytest.raises(UserError, match=r'activation "quick_gelu", the model has "gelu"'):
        weights.load(path, models.create_model("vit_base_patch32_clip", **kwargs))


def test_a_vision_model_alone(tmp_path: Path) -> None:
    stored = load_vision_model("transformers_siglip", tmp_path)
    tower = image_towers.read(tmp_path)
    assert tower is not None and tower.pool == "map" and tower.activation == "gelu_tanh"
    outputs = tower.apply(weights.load(tmp_path, tower), stored["images"])
    embedding = compute_embedding(outputs["pooled"], stored)
    np.testing.assert_allclose(embedding, stored["image"], atol=1e-6)


def load_vision_model(name: str, folder: Path) -> dict[str, np.ndarray]:
    """As `SiglipVisionModel.save_pretrained` writes it."""
    stored = unpack(name, folder)
    own = {n: t for n, t in stored["tensors"].items() if n.startswith("vision_model.")}
    save_file(own, folder / "model.safetensors")
    values = {**CONFIGS[name]["vision_config"], "model_type": "siglip_vision_model"}
    (folder / "config.json").write_text(json.dumps(values))
    return {**stored, "tensors": own}


@pytest.mark.parametrize("name", ["vit_base_patch32_clip_quickgelu", "vit_base_patch16_siglip"])
def test_timms_files_and_configurations_go_both_ways(name: str, tmp_path: Path) -> None:
    kwargs = {**small_kwargs("open_clip"), "image_size": SIZE, "num_classes": 3}
    model = models.create_model(name, **kwargs)
    variables = model.init(jax.random.key(0), np.zeros((1, SIZE, SIZE, 3), np.float32))
    preprocessing = models.get_preprocessing(name)
    weights.save(tmp_path, model, variables, library="timm", preprocessing=preprocessing)
    described = image_towers.read(tmp_path)
    assert described == model.clone(num_classes=0)
    restored = weights.load(tmp_path, model)
    jax.tree.map(np.testing.assert_array_equal, restored, variables)
    assert weights.load_preprocessing(tmp_path) == preprocessing
