"""Classifiers of transformers and timm as work directories, and back."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from calling import call
from PIL import Image

from jaxtag import models, weights
from jaxtag.config import serialization
from jaxtag.errors import UserError
from jaxtag.inference import predictor
from jaxtag.inference.checkpoint import import_checkpoint
from jaxtag.models.preprocessing import Preprocessing
from jaxtag.weights import hf_config, timm_config

VIT = {"patch_size": 8, "width": 24, "depth": 1, "heads": 2, "mlp_dim": 48, "image_size": 32}
LABELS = ["crane", "dog", "crane"]
PREPROCESSING = Preprocessing(32, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), crop=0.8)


@pytest.fixture(scope="module")
def model() -> models.ViT:
    return models.ViT(**VIT, num_classes=3)


@pytest.fixture(scope="module")
def variables(model):
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    random = np.random.RandomState(0)
    return jax.tree.map(lambda leaf: random.normal(size=leaf.shape).astype(np.float32), variables)


def export(folder: Path, model, variables, library: str, **more) -> Path:
    details = {"labels": ["cat", "dog", "fox"], "preprocessing": PREPROCESSING, **more}
    weights.save(folder, model, variables, library, image_size=32, **details)
    return folder


@pytest.mark.parametrize("library", ["transformers", "timm"])
def test_an_exported_classifier_comes_back(tmp_path, model, variables, library: str) -> None:
    source = export(tmp_path / library, model, variables, library)
    done = call("weights", "import", f"--source={source}", f"--workdir={tmp_path / 'run'}")
    assert done.status == 0, done.err
    loaded = predictor.load(tmp_path / "run")
    assert loaded.vocabulary.names == ("cat", "dog", "fox")
    data = loaded.config.data
    assert (data.image_size, data.mean, data.std) == (32, PREPROCESSING.mean, PREPROCESSING.std)
    assert data.eval_crop_pct == pytest.approx(0.8)
    images = np.random.RandomState(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
    logits = [
        m.apply(v, images)["logits"]
        for m, v in ((model, variables), (loaded.task.model, loaded.variables))
    ]
    np.testing.assert_allclose(logits[0], logits[1], atol=1e-5)
    Image.new("RGB", (50, 40), "red").save(tmp_path / "a.png")
    done = call(
        "annotate", f"--workdir={tmp_path / 'run'}", f"--output={tmp_path / 'o.jsonl'}",
        str(tmp_path / "a.png"),
    )  # fmt: skip
    assert done.status == 0, done.err
    row = json.loads((tmp_path / "o.jsonl").read_text())
    assert {tag["tag"] for tag in row["tags"]} <= {"cat", "dog", "fox"} and row["tags"]
    with pytest.raises(UserError, match="holds a run already"):
        import_checkpoint(source, tmp_path / "run")


def test_a_multi_label_model_becomes_a_tagger(tmp_path, model, variables) -> None:
    squashed = Preprocessing(32, (0.5,) * 3, (0.5,) * 3, crop=1.0, squash=True)
    source = export(
        tmp_path / "hf", model, variables, "transformers",
        preprocessing=squashed, multi_label=True, labels=LABELS,
    )  # fmt: skip
    assert json.loads((source / "config.json").read_text())["problem_type"] == (
        "multi_label_classification"
    )
    assert weights.load_preprocessing(source) == squashed
    config = import_checkpoint(source, tmp_path / "run")
    assert (config.task.TASK, config.data.eval_crop_pct) == ("tag", None)
    names = json.loads((tmp_path / "run/tags.json").read_text())
    assert names == ["crane (0)", "dog", "crane (2)"]  # each its own
    assert serialization.load(tmp_path / "run") == config


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"id2label": None}, "does not name the classes"),
        ({"id2label": {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}}, "does not name"),
        ({"id2label": {"0": "a", "2": "b", "3": "c"}}, "without gaps"),
        ({"id2label": {"a": "a"}}, "map numbers to names"),
        ({"id2label": {"0": 7, "1": "b", "2": "c"}}, "no name"),
        ({"id2label": {"0": "a", "1": "b"}}, "does not fit"),
        ({"model_type": "swin"}, "model_type 'swin'"),
        ({"qkv_bias": False}, "qkv_bias"),
    ],
)
def test_what_cannot_be_imported_is_named(tmp_path, model, variables, changes, message) -> None:
    source = export(tmp_path / "hf", model, variables, "transformers")
    values = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**values, **changes}))
    with pytest.raises(UserError, match=message):
        import_checkpoint(source, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_without_preprocessing_it_is_refused(tmp_path, model, variables) -> None:
    source = export(tmp_path / "hf", model, variables, "transformers", preprocessing=None)
    with pytest.raises(UserError, match=r"preprocessor_config\.json"):
        import_checkpoint(source, tmp_path / "run")


FIELDS = {
    "resnet34": {},
    "resnet50": {"depths": (1, 1, 1, 1)},
    "mobilenet_v1": {"width": 0.5},
    "mobilenet_v2": {"width": 1.4},
    "mobilenet_v3_small": {"width": 0.75},
    "efficientnet_b1": {"padding": "same"},
    "efficientnet_lite2": {},
    "vit_small_patch32": {"pool": "gap"},
}
# The same function for what is in both configurations.
IGNORED = ("norm_momentum", "dropout", "drop_path")


NOT_OF_TRANSFORMERS = ("efficientnet_lite2", "mobilenet_v3_small", "vit_small_patch32")
CONFIGURATIONS = [("timm", name) for name in FIELDS] + [
    ("transformers", name) for name in FIELDS if name not in NOT_OF_TRANSFORMERS
]


@pytest.mark.parametrize("library, name", CONFIGURATIONS)
def test_configurations_are_inverse(library: str, name: str) -> None:
    model = models.create_model(name, num_classes=3, **FIELDS[name])
    if library == "timm":
        values = timm_config.make_config(model, 3, 224, None, None)
        parsed, fields = timm_config.parse_config(values, "config.json")
    else:
        parsed, fields = hf_config.parse_config(hf_config.make_config(model, 3, 224), "config.json")
    again = models.create_model(parsed, num_classes=3, **fields)
    same = dict.fromkeys(IGNORED, 0.0)
    same = {field: value for field, value in same.items() if hasattr(model, field)}
    assert again.clone(**same) == model.clone(**same)


@pytest.mark.parametrize(
    "values, message",
    [
        ({"architecture": "swin_tiny"}, "swin_tiny"),
        ({"architecture": "vit_colossal_patch14_224"}, "vit_colossal"),
        ({"architecture": "resnet50", "model_args": {"stem_type": "deep"}}, "stem_type"),
        ({"architecture": "resnet50", "global_pool": "max"}, "global_pool"),
    ],
)
def test_timm_models_that_are_not_here_are_named(values, message) -> None:
    with pytest.raises(UserError, match=message):
        timm_config.parse_config(values, "config.json")
    name, fields = timm_config.parse_config(
        {"architecture": "tf_efficientnet_b0.ns_jft_in1k", "global_pool": "avg"}, "config.json"
    )
    assert (name, fields) == ("efficientnet_b0", {"padding": "same", "norm_eps": 1e-3})


@pytest.mark.parametrize(
    "odd",
    [{"model_args": ["x"]}, {"model_args": [3]}, {"model_args": 3}, {"global_pool": [1]},
     {"model_args": {"mlp_ratio": "x"}}, {"pretrained_cfg": {"input_size": 3}}],
)  # fmt: skip
def test_a_configuration_of_timm_with_values_of_other_kinds_is_refused(odd):
    with pytest.raises(UserError, match=r"^config\.json"):
        timm_config.parse_config({"architecture": "vit_tiny_patch16_224", **odd}, "config.json")
