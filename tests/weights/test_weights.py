"""Weights of other libraries: the same outputs, round trips bit for bit, errors that name."""

import dataclasses
import json
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from calling import call
from flax.traverse_util import flatten_dict
from safetensors import safe_open
from safetensors.numpy import load_file, save, save_file
from stored import REFERENCES

from jaxtag import models, weights
from jaxtag.errors import UserError
from jaxtag.models.preprocessing import Preprocessing
from jaxtag.models.vit import interpolate_positions
from jaxtag.weights import adapt, mappings, safetensors_io
from jaxtag.weights.param_mapping import source_names, source_shapes

VIT = {"patch_size": 8, "width": 24, "depth": 2, "heads": 2, "mlp_dim": 48, "image_size": 32}
LIBRARIES = ("torchvision", "timm", "transformers")
# One small model of each family: name, fields.
FAMILIES = {
    "alexnet": {"hidden": 64},
    "squeezenet1_1": {},
    "mobilenet_v1": {"width": 0.25},
    "mobilenet_v2": {"width": 0.25},
    "mobilenet_v3_small": {"width": 0.25},
    "efficientnet_b0": {"width": 0.25},
    "resnet18": {"depths": (1, 1, 1, 1)},
    "resnet50": {"depths": (1, 1, 1, 1)},
    "vit_tiny_patch16": VIT,
}
THERE = [name for name in FAMILIES if name in models.list_models()]


def vit(**fields) -> models.ViT:
    return models.ViT(**{**VIT, "num_classes": 5, **fields})


def stored(library: str) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Their file's tensors, images, and their logits."""
    tensors = load_file(REFERENCES / f"weights_vit_{library}.safetensors")
    images, logits = tensors.pop("images"), tensors.pop("logits")
    return {name.removeprefix("weights/"): t for name, t in tensors.items()}, images, logits


@pytest.fixture
def timm_file(tmp_path) -> Path:
    save_file(stored("timm")[0], tmp_path / "timm.safetensors")
    return tmp_path / "timm.safetensors"


def file_tensors(model, library: str, channels: int = 3) -> dict[str, np.ndarray]:
    """Random tensors with all names that `library` has for `model`."""
    shapes = adapt.variable_shapes(model, adapt.model_inputs(model, channels, None))
    table = mappings.tables(model)[library](model)
    assert set(table) == set(shapes)  # it names every variable, and nothing else
    assert len(source_names(table)) == len(set(source_names(table)))
    random, tensors = np.random.RandomState(0), {}
    for path, entry in table.items():
        for name, shape in source_shapes(shapes[path], entry).items():
            tensors[name] = random.randn(*shape).astype(np.float32)
    counters = [name for name in tensors if name.endswith("running_mean")]
    zero = np.zeros((), np.int64)
    return tensors | {n.replace("running_mean", "num_batches_tracked"): zero for n in counters}


def assert_same(got: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert set(got) == set(expected)
    for name, tensor in expected.items():
        assert got[name].dtype == tensor.dtype
        np.testing.assert_array_equal(got[name], tensor, err_msg=name)


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("library", LIBRARIES)
def test_vit_gives_the_librarys_logits(tmp_path, library: str, scan: bool) -> None:
    tensors, images, logits = stored(library)
    save_file(tensors, tmp_path / "model.safetensors")
    model = vit(scan=scan)
    variables = weights.load(tmp_path, model)
    got = jax.jit(model.apply)(variables, images)["logits"]
    np.testing.assert_allclose(got, logits, atol=1e-4)
    weights.save(tmp_path / "again", model, variables, library, image_size=64)
    assert_same(load_file(tmp_path / "again" / "model.safetensors"), tensors)


CASES = [
    (name, library)
    for name in THERE
    for library in mappings.tables(models.create_model(name))
    if (name, library) != ("mobilenet_v1", "torchvision") and library != "dinov2"
]


@pytest.mark.parametrize("name, library", CASES)
def test_round_trip_is_bit_for_bit(tmp_path, name: str, library: str) -> None:
    fields = {"padding": "same"} if "efficientnet" in name else {}
    if library == "transformers" and name in ("mobilenet_v2", "efficientnet_b0"):
        fields["width"] = 0.5  # narrower, its first block is another function
    model = models.create_model(name, **{"num_classes": 3, **FAMILIES[name], **fields})
    tensors = file_tensors(model, library)
    save_file(tensors, tmp_path / "source.safetensors")
    variables = weights.load(tmp_path / "source.safetensors", model)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))
    weights.save(tmp_path / "again.safetensors", model, variables, library, image_size=64)
    assert_same(load_file(tmp_path / "again.safetensors"), tensors)
    with safe_open(tmp_path / "again.safetensors", "np") as file:
        assert file.metadata() == {"format": "pt"}


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_floats_become_float32_exactly(tmp_path, dtype) -> None:
    tensors = {name: t.astype(dtype) for name, t in stored("timm")[0].items()}
    save_file(tensors, tmp_path / "half.safetensors")
    variables = weights.load(tmp_path / "half.safetensors", vit())
    kernel = variables["params"]["patch_embed"]["kernel"]
    assert kernel.dtype == jnp.float32
    expected = tensors["patch_embed.proj.weight"].astype(np.float32).transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(kernel, expected)


def test_shards_and_files_without_head(tmp_path) -> None:
    """As `ViTModel` is saved: no `vit.` before the names, and a pooler that nobody reads."""
    tensors = {n.removeprefix("vit."): t for n, t in stored("transformers")[0].items()}
    expected = weights.load(written(tmp_path, tensors), vit())
    tensors = {n: t for n, t in tensors.items() if not n.startswith("classifier")}
    tensors["pooler.dense.weight"] = np.zeros((24, 24), np.float32)
    names = sorted(tensors)
    shards = {"a-1.safetensors": names[::2], "a-2.safetensors": names[1::2]}
    folder = tmp_path / "sharded"
    folder.mkdir()
    for file, part in shards.items():
        save_file({name: tensors[name] for name in part}, folder / file)
    index = {"weight_map": {name: file for file, part in shards.items() for name in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    variables = weights.load(folder, vit(num_classes=0))
    assert "head" not in variables["params"]
    del expected["params"]["head"]
    assert_same(flatten_dict(variables, sep="/"), flatten_dict(expected, sep="/"))
    (folder / "a-2.safetensors").unlink()
    with pytest.raises(UserError, match=r"a-2\.safetensors is missing"):
        weights.load(folder, vit(num_classes=0))
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../timm"}}')
    with pytest.raises(UserError, match="not beside it"):
        weights.load(folder, vit(num_classes=0))


def written(folder: Path, tensors: dict[str, np.ndarray]) -> Path:
    save_file(tensors, folder / "written.safetensors")
    return folder / "written.safetensors"


def test_what_does_not_fit_is_named(tmp_path) -> None:
    tensors = stored("timm")[0]
    del tensors["blocks.1.attn.qkv.bias"]
    tensors["blocks.0.norm1.weight"] = np.zeros(7, np.float32)
    tensors["blocks.2.norm1.weight"] = np.zeros(24, np.float32)
    file = written(tmp_path, tensors)
    with pytest.raises(UserError) as error:
        weights.load(file, vit())
    for message in (
        "(timm) does not fit ViT",
        "missing blocks.1.attn.qkv.bias [72]",
        "blocks.0.norm1.weight is [7], the model has [24]",
        "unexpected blocks.2.norm1.weight [24]",
    ):
        assert message in str(error.value)
    with pytest.raises(UserError, match=r"and \d+ more"):
        weights.load(file, vit(depth=4))
    with pytest.raises(
        UserError, match=r"under the names of jaxtag, torchvision.*first are blocks"
    ):
        weights.load(file, models.create_model("resnet18"))


@pytest.mark.parametrize(
    "fields, more, word",
    [
        ({"num_classes": 7}, {}, "head"),
        ({"num_classes": 0}, {}, "head"),
        ({"image_size": 48}, {}, "image_size"),
        ({}, {"channels": 1}, "channels"),
    ],
)
def test_without_adapt_the_error_says_which_word(timm_file, fields, more, word) -> None:
    with pytest.raises(UserError, match=f'adapt "{word}"'):
        weights.load(timm_file, vit(**fields), **more)
    variables = weights.load(timm_file, vit(**fields), adapt=(word,), **more)
    got = jax.tree.map(jnp.shape, variables)
    images = jnp.zeros((1, 48, 48, more.get("channels", 3)))
    assert got == jax.tree.map(
        jnp.shape, jax.eval_shape(vit(**fields).init, jax.random.key(0), images)
    )


def test_a_new_head_starts_as_the_models_own(timm_file) -> None:
    head = weights.load(timm_file, vit(num_classes=7), adapt=("head",))["params"]["head"]
    np.testing.assert_array_equal(head["kernel"], np.zeros((24, 7)))
    same = weights.load(timm_file, vit(), adapt=("head", "image_size"))["params"]["head"]
    np.testing.assert_array_equal(same["kernel"], stored("timm")[0]["head.weight"].T)


def test_positions_are_interpolated(timm_file) -> None:
    model = vit(image_size=(48, 24))
    got = weights.load(timm_file, model, adapt=("image_size",))["params"]["pos_embed"]
    old = stored("timm")[0]["pos_embed"][0]
    np.testing.assert_array_equal(got[0], old[0])
    grid = interpolate_positions(old[1:].reshape(4, 4, 24), (6, 3))
    np.testing.assert_allclose(got[1:].reshape(6, 3, 24), grid, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 2, 4, 7])
def test_first_kernel_is_adapted_as_by_timm(timm_file, channels: int) -> None:
    """One channel: of equal channels the same output. More: equal ones give the same output."""
    model = vit()
    adapted = weights.load(timm_file, model, adapt=("channels",), channels=channels)
    got = adapted["params"]["patch_embed"]["kernel"]
    kernel = stored("timm")[0]["patch_embed.proj.weight"].transpose(2, 3, 1, 0)
    assert got.shape == (8, 8, channels, 24)
    if channels == 1:
        np.testing.assert_allclose(got[:, :, 0], kernel.sum(2), atol=1e-6)
    for channel in range(channels if channels > 1 else 0):
        np.testing.assert_allclose(
            got[:, :, channel], kernel[:, :, channel % 3] * 3 / channels, 1e-6
        )


def test_unknown_words_are_refused(timm_file) -> None:
    with pytest.raises(UserError, match=r"adapt='heads'.*head, image_size, channels"):
        weights.load(timm_file, vit(), adapt=("heads",))


def test_pickles_are_told_by_their_content(tmp_path, timm_file) -> None:
    with zipfile.ZipFile(tmp_path / "zip.safetensors", "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02.")
    legacy = tmp_path / "legacy.safetensors"
    legacy.write_bytes(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "pytorch_model.bin").write_bytes(b"PK\x03\x04")
    for path in (tmp_path / "zip.safetensors", legacy, folder):
        with pytest.raises(UserError, match="no file of PyTorch's weights"):
            weights.load(path, vit())
    named = tmp_path / "pytorch_model.bin"
    named.write_bytes(timm_file.read_bytes())
    assert weights.load(named, vit())


def damaged(data: bytes) -> dict[str, bytes]:
    header = int.from_bytes(data[:8], "little")
    overlapping = {
        name: {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]} for name in ("a", "b")
    }
    text = json.dumps(overlapping).encode()
    return {
        "empty": b"",
        "short": data[:5],
        "header cut": data[: header // 2],
        "data cut": data[:-8],
        "huge header": (2**62).to_bytes(8, "little") + data[8:],
        "large header": (90_000_000).to_bytes(8, "little") + data[8:],
        "no JSON": data[:8] + b"\xff" * (len(data) - 8),
        "overlapping": len(text).to_bytes(8, "little") + text + bytes(16),
        "header of 0x280 bytes": (0x280).to_bytes(8, "little") + b"{" + b" " * 0x280,
    }


@pytest.mark.parametrize("kind", list(damaged(bytes(64))))
def test_damaged_files_are_named(tmp_path, timm_file, kind: str) -> None:
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(damaged(timm_file.read_bytes())[kind])
    with pytest.raises(UserError, match=r"damaged\.safetensors is no whole safetensors file"):
        weights.load(path, vit())


def test_what_is_no_weight_is_refused(tmp_path, timm_file) -> None:
    tensors = stored("timm")[0]
    tensors["norm.bias"] = np.zeros(24, np.int32)
    with pytest.raises(UserError, match=r"norm\.bias holds I32"):
        weights.load(written(tmp_path, tensors), vit())
    with pytest.raises(UserError, match="no such file"):
        weights.load(tmp_path / "absent", vit())
    with pytest.raises(UserError, match="holds no weights"):
        weights.load(_empty(tmp_path), vit())
    with pytest.raises(UserError, match="several files"):
        weights.load(tmp_path, vit())


def _empty(folder: Path) -> Path:
    (folder / "empty").mkdir()
    return folder / "empty"


def test_what_a_library_cannot_hold_is_refused(tmp_path) -> None:
    model = vit(pool="gap")
    variables = model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    with pytest.raises(UserError, match="one of timm"):
        weights.save(tmp_path / "a", model, variables, "transformers")
    with pytest.raises(UserError, match="there are: torchvision, timm, transformers, dinov2"):
        weights.save(tmp_path / "a", model, variables, "keras")
    weights.save(tmp_path / "a", model, variables, "timm")
    assert_same(
        flatten_dict(weights.load(tmp_path / "a", model), sep="/"), flatten_dict(variables, sep="/")
    )


def test_command_imports_and_exports(tmp_path) -> None:
    name, fields = "resnet18", {"num_classes": 3}
    model = models.create_model(name, **fields)
    tensors = file_tensors(model, "torchvision")
    save_file(tensors, tmp_path / "source.safetensors")
    imported, exported = tmp_path / "imported.safetensors", tmp_path / "hf"
    done = call(
        "weights", "import", f"--source={tmp_path / 'source.safetensors'}", f"--model={name}",
        f"--output={imported}",
    )  # fmt: skip
    assert done.status == 0, done.err
    assert "resnet18 with 3 classes" in done.out
    variables = weights.load(imported, model)
    np.testing.assert_array_equal(
        variables["params"]["stem"]["kernel"], tensors["conv1.weight"].transpose(2, 3, 1, 0)
    )
    assert weights.load_preprocessing(imported) == Preprocessing()
    with safe_open(imported, "np") as file:
        notes = json.loads(file.metadata()["jaxtag"])
    assert notes["model"] == name
    assert notes["fields"] == fields
    assert notes["preprocessing"] == json.loads(json.dumps(dataclasses.asdict(Preprocessing())))
    done = call(
        "weights",
        "export",
        f"--source={imported}",
        "--library=transformers",
        f"--output={exported}",
    )
    assert done.status == 0, done.err
    again = weights.load(exported, model)
    assert_same(flatten_dict(again, sep="/"), flatten_dict(variables, sep="/"))
    assert json.loads((exported / "config.json").read_text())["depths"] == [2, 2, 2, 2]


@pytest.mark.parametrize(
    "arguments, status, message",
    [
        ([], 2, "usage: jaxtag.weights"),
        (["import", "--source=a"], 2, "--model, --output must be given"),
        (["import", "--source=a", "--model=b", "--output=c"], 2, "*.safetensors"),
        (["import", "--source=.", "--model=resnet5", "--output=c.safetensors"], 2, "resnet50"),
        (["import", "--source=no", "--model=resnet50", "--output=c.safetensors"], 1, "no such"),
        (["export", "--library=timm", "--output=a"], 2, "either --source"),
    ],
)
def test_command_refuses_in_one_line(arguments, status, message) -> None:
    done = call("weights", *arguments)
    assert done.status == status
    assert message in done.err
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1


def test_files_are_those_of_the_safetensors_library(tmp_path):
    rng = np.random.default_rng(0)
    tensors = {
        f"{dtype}.{name}": rng.normal(size=(3, number)).astype(np.dtype(dtype))
        for number, dtype in enumerate(
            ("float32", "float64", "float16", "bfloat16", "int64", "bool")
        )
        for name in ("b", "a")
    }
    tensors |= {"scalar": np.array(3.0, np.float32), "every other": np.arange(6.0)[::2]}
    path = tmp_path / "w.safetensors"
    # One entry of metadata: the library writes several in an order that changes between processes.
    safetensors_io.write(path, tensors, {"note": "ü"})
    whole = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    whole["scalar"] = tensors["scalar"]
    assert path.read_bytes() == save(whole, {"note": "ü"})
