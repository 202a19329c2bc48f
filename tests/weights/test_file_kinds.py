"""Files that are not what they seem: prefixes, other formats, NaN, another function."""

import json
import os
import stat
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file, save_file

from jaxtag import models, weights
from jaxtag.errors import UserError

VIT = {"patch_size": 8, "width": 24, "depth": 1, "heads": 2, "mlp_dim": 48, "image_size": 32}
IMAGES = jnp.zeros((1, 32, 32, 3))


@pytest.fixture(scope="module")
def model() -> models.ViT:
    return models.ViT(**VIT, num_classes=3)


@pytest.fixture(scope="module")
def variables(model):
    return jax.jit(model.init)(jax.random.key(0), IMAGES)


@pytest.fixture(scope="module")
def tensors(model, variables, tmp_path_factory) -> dict[str, np.ndarray]:
    path = tmp_path_factory.mktemp("timm") / "vit.safetensors"
    weights.save(path, model, variables, "timm")
    assert not (path.parent / "config.json").exists()  # beside a file are other things
    return load_file(path)


PREFIXES = (
    "module.",
    "_orig_mod.",
    "model.",
    "backbone.",
    "state_dict.",
    "module._orig_mod.",
    "x.",
)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_shared_prefix_is_taken_off(tmp_path, model, variables, tensors, prefix: str) -> None:
    file = tmp_path / "a.safetensors"
    save_file({prefix + name: tensor for name, tensor in tensors.items()}, file)
    loaded = flatten_dict(weights.load(file, model), sep="/")
    for name, array in flatten_dict(variables, sep="/").items():
        np.testing.assert_array_equal(loaded[name], array, err_msg=name)


def test_a_prefix_of_a_part_is_named(tmp_path, model, tensors) -> None:
    file = tmp_path / "a.safetensors"
    inner = {"model." + name: tensor for name, tensor in tensors.items()}
    save_file({**inner, "criterion.weight": np.zeros(3, np.float32)}, file)
    with pytest.raises(UserError, match=r"prefix model\., and 1 other.*criterion\.weight"):
        weights.load(file, model)
    save_file({**inner, **{"model_ema." + n: t for n, t in tensors.items()}}, file)
    with pytest.raises(UserError, match=r"more than once.* model\., model_ema\."):
        weights.load(file, model)


def test_a_classifier_beside_the_backbone_can_be_left_out(tmp_path, model, tensors) -> None:
    file = tmp_path / "a.safetensors"
    body = {"backbone." + n: t for n, t in tensors.items() if not n.startswith("head.")}
    save_file({**body, "cls_head.fc.weight": np.zeros((9, 24), np.float32)}, file)
    backbone = model.clone(num_classes=0)
    with pytest.raises(UserError, match=r'unexpected cls_head.*adapt "head"'):
        weights.load(file, backbone)
    assert "head" not in weights.load(file, backbone, adapt=("head",))["params"]


FORMATS = {
    "lfs.safetensors": (b"version https://git-lfs.github.com/spec/v1\noid sha256:a\n", "Git LFS"),
    "lfs.bin": (b"version https://git-lfs.github.com/spec/v1\noid sha256:a\n", "Git LFS"),
    "page.safetensors": (b"\n<!DOCTYPE html><html>", "no whole safetensors.*web page"),
    "array.npy": (b"\x93NUMPY\x01\x00", "NumPy"),
    "flax_model.msgpack": (b"\x82\xa6params", "damaged msgpack"),
    "keras.h5": (b"\x89HDF\r\n\x1a\n", "HDF5"),
    "renamed.safetensors": (b"\x89HDF\r\n\x1a\n", "HDF5"),
}


@pytest.mark.parametrize("name", FORMATS)
def test_other_formats_are_called_what_they_are(tmp_path, model, name: str) -> None:
    data, message = FORMATS[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=message) as error:
        weights.load(tmp_path / name, model)
    assert "torch.load" not in str(error.value) and name in str(error.value)


@pytest.mark.parametrize("name", ["a.npz", "renamed.safetensors"])
def test_arrays_of_numpy_are_no_pickle(tmp_path, model, name: str) -> None:
    np.savez(tmp_path / "a.npz", a=np.zeros(3))
    (tmp_path / "a.npz").rename(tmp_path / name)
    with pytest.raises(UserError, match=r"NumPy(.|\n)*np\.load\(") as error:
        weights.load(tmp_path if name == "a.npz" else tmp_path / name, model)
    assert "torch.load" not in str(error.value)


@pytest.mark.parametrize("number, what", [(np.nan, "1 NaN"), (-np.inf, "1 infinite")])
def test_weights_that_are_no_numbers_are_named(tmp_path, model, tensors, number, what) -> None:
    tensors = {name: tensor.copy() for name, tensor in tensors.items()}
    tensors["blocks.0.norm1.bias"][3] = number
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=rf"blocks\.0\.norm1\.bias holds {what} of 24"):
        weights.load(tmp_path / "a.safetensors", model)


def test_nothing_that_is_no_number_is_written(tmp_path, model, variables) -> None:
    broken = jax.tree.map(lambda leaf: leaf * np.nan, variables)
    with pytest.raises(UserError, match="NaN or infinite"):
        weights.save(tmp_path / "a", model, broken, "timm")
    assert not (tmp_path / "a").exists()


def folder(tmp_path: Path, model, variables, **changes) -> Path:
    """A folder of transformers whose config.json says something else."""
    weights.save(tmp_path / "hf", model, variables, "transformers")
    config = json.loads((tmp_path / "hf/config.json").read_text())
    (tmp_path / "hf/config.json").write_text(json.dumps({**config, **changes}))
    return tmp_path / "hf"


def test_another_epsilon_is_told(tmp_path, capsys, model, variables) -> None:
    weights.load(folder(tmp_path, model, variables), model)
    assert capsys.readouterr().err == ""
    weights.load(folder(tmp_path, model, variables, layer_norm_eps=1e-12), model)
    message = capsys.readouterr().err
    assert (
        "epsilon of 1e-12" in message and "norm_eps=1e-06" in message and message.count("\n") == 1
    )


def test_mobilenets_epsilon_is_told(tmp_path, capsys) -> None:
    model = models.create_model("mobilenet_v2", width=0.5, num_classes=2, padding="same")
    shapes = jax.eval_shape(model.init, jax.random.key(0), IMAGES)
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    weights.load(folder(tmp_path, model, zeros, layer_norm_eps=1e-3), model)
    assert "epsilon of 0.001" in capsys.readouterr().err


@pytest.mark.parametrize("changes", [{"num_attention_heads": 3}, {"hidden_act": "relu"}])
def test_another_function_is_refused(tmp_path, model, variables, changes) -> None:
    with pytest.raises(UserError, match=next(iter(changes))):
        weights.load(folder(tmp_path, model, variables, **changes), model)


def test_files_are_readable_as_the_umask_says(tmp_path, model, variables) -> None:
    before = os.umask(0o027)
    try:
        weights.save(tmp_path, model, variables, "timm", labels=["a", "b", "c"])
    finally:
        os.umask(before)
    for name in ("model.safetensors", "config.json"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o640
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["label_names"] == ["a", "b", "c"] and config["num_classes"] == 3
    assert config["model_args"]["num_heads"] == 2
    with pytest.raises(UserError, match="2 labels were given for 3 classes"):
        weights.save(tmp_path, model, variables, "timm", labels=["a", "b"])
