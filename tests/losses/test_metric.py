"""Losses of metric learning: the papers' equations in float64, over devices, and their memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file
from stored import REFERENCES

from jaxtag import registry
from jaxtag.distributed import mesh as meshes
from jaxtag.errors import UsageError
from jaxtag.losses import metric
from jaxtag.losses.metric import pair_masks, pairs

STORED = REFERENCES / "metric_learning.safetensors"
NAMES = registry.names("metric_loss")
LOSSES = {name: metric.make_loss(name, {}) for name in NAMES}
PAIR_LOSSES = [name for name in NAMES if not metric.needs_proxies(LOSSES[name])]
TAG_LOSSES = [name for name in NAMES if not metric.is_single_class(LOSSES[name])]


def of_length_one(x: jax.Array) -> jax.Array:
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def gradient(name: str):
    """(vectors by name, labels, mask) → (loss, its gradient), not compiled yet."""
    loss = LOSSES[name]

    def value(vectors: dict[str, jax.Array], labels: jax.Array, mask: jax.Array) -> jax.Array:
        vectors = jax.tree.map(of_length_one, vectors)
        proxies = [vectors["proxies"]] if "proxies" in vectors else []
        total, weight = loss(vectors["embeddings"], labels, mask, *proxies)
        return total / jnp.maximum(weight, 1e-8)

    return jax.value_and_grad(value)


def vectors_for(name: str, source: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    needs_proxies = metric.needs_proxies(LOSSES[name])
    parts = ("embeddings", "proxies") if needs_proxies else ("embeddings",)
    return {part: source[part] for part in parts}


@pytest.fixture(scope="module")
def stored() -> dict[str, np.ndarray]:
    return load_file(STORED)


def check(name: str, stored: dict[str, np.ndarray], loss_and_gradients) -> None:
    loss, gradients = loss_and_gradients
    np.testing.assert_allclose(loss, stored[f"{name}/loss"], rtol=3e-6)
    for part, got in gradients.items():
        expected = stored[f"{name}/{part}"]
        np.testing.assert_allclose(got, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", NAMES)
def test_loss_and_gradient_are_those_of_the_paper(name, stored, monkeypatch) -> None:
    monkeypatch.setattr(pairs, "_ANCHORS", 8)  # three times, each against all 24
    compute = jax.jit(gradient(name))
    check(name, stored, compute(vectors_for(name, stored), stored["labels"], stored["mask"]))


@pytest.mark.parametrize("name", TAG_LOSSES)
def test_one_tag_a_picture_is_a_class(name, stored) -> None:
    tags = np.eye(len(stored["proxies"]), dtype=np.int8)[stored["labels"]]
    compute = jax.jit(gradient(name))
    check(name, stored, compute(vectors_for(name, stored), tags, stored["mask"]))


def test_pictures_that_share_a_tag_are_alike() -> None:
    random = np.random.default_rng(0)
    one, other = (random.choice([0, 0, 0, 1, 2], (9, 4)).astype(np.int8) for _ in range(2))
    same, apart = pair_masks.positive_negative_masks(jnp.asarray(one), jnp.asarray(other))
    for row, first in enumerate(one):
        for column, second in enumerate(other):
            states = list(zip(first, second, strict=True))
            assert same[row, column] == ((pair_masks.PRESENT, pair_masks.PRESENT) in states)
            # An unknown tag may be there: they share none for sure where either is absent.
            assert apart[row, column] == all(pair_masks.ABSENT in pair for pair in states)
    assert same.any() and apart.any() and not (same | apart).all()
    own, others = pair_masks.class_masks(jnp.asarray(one), 4)
    assert (own == (one == 1)).all() and (others == (one == 0)).all()


@pytest.mark.parametrize("name", NAMES)
def test_eight_devices_give_the_loss_of_one(name, stored) -> None:
    """Negatives are those of all devices, whose three rows hold few of a class."""
    mesh = meshes.make_mesh(fsdp=2)

    def on_mesh(*arguments):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return gradient(name)(*arguments)

    vectors, rows = vectors_for(name, stored), meshes.batch_sharding(mesh)
    places = {part: meshes.replicated(mesh) if part == "proxies" else rows for part in vectors}
    compute = jax.jit(on_mesh, in_shardings=(places, rows, rows))
    check(name, stored, compute(vectors, stored["labels"], stored["mask"]))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=() if n in ("contrastive", "triplet_all") else pytest.mark.slow)
        for n in PAIR_LOSSES
    ],
)
def test_memory_does_not_grow_with_the_square_of_the_batch(name, monkeypatch) -> None:
    monkeypatch.setattr(pairs, "_ANCHORS", 16)

    def temporaries(batch: int) -> int:
        shapes = {"embeddings": jax.ShapeDtypeStruct((batch, 8), jnp.float32)}
        labels = jax.ShapeDtypeStruct((batch,), jnp.int32)
        mask = jax.ShapeDtypeStruct((batch,), jnp.float32)
        compiled = jax.jit(gradient(name)).lower(shapes, labels, mask).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    small, large = temporaries(1024), temporaries(4096)
    assert small < 1024 * 1024 * 4  # one array of all pairs
    assert large < 4.4 * small


@pytest.mark.parametrize("name", NAMES)
def test_nothing_to_compare_gives_no_gradient(name) -> None:
    """One class alone, one picture a class, copies of a picture, or a batch that is all broken."""
    rng = np.random.default_rng(0)
    vectors = {
        "embeddings": rng.standard_normal((6, 4), np.float32),
        "proxies": rng.standard_normal((6, 4), np.float32),
    }
    vectors["embeddings"][1] = vectors["embeddings"][0]
    compute = jax.jit(gradient(name))
    for labels, mask in (([0] * 6, 1), (range(6), 1), ([0, 0, 1, 1, 2, 2], 0)):
        arrays = np.array(labels, np.int32), np.full(6, mask, np.float32)
        loss, gradients = compute(vectors_for(name, vectors), *arrays)
        assert np.isfinite(loss) and (mask or loss == 0)
        for value in gradients.values():
            assert np.isfinite(value).all() and (mask or not value.any())


def test_a_wrong_argument_is_named() -> None:
    with pytest.raises(UsageError, match=r"triplet_all has no argument 'margn' \(did you mean ma"):
        metric.make_loss("triplet_all", {"margn": 0.1})
    with pytest.raises(UsageError, match=r"loss_kwargs: n_pair's scale = '8': must be float"):
        metric.make_loss("n_pair", {"scale": "8"})


def test_kinds_of_losses_are_known() -> None:
    assert {*NAMES} - {*PAIR_LOSSES} == {"arcface", "proxy_anchor"}
    assert {*NAMES} - {*TAG_LOSSES} == {"arcface"}


def test_a_loss_of_ones_own_is_found_by_its_path() -> None:
    loss = metric.make_loss("jaxtag.losses.metric.proxies:arcface", {"margin": 0.25})
    assert metric.needs_proxies(loss) and metric.is_single_class(loss)
    with pytest.raises(UsageError, match=r"config.task.loss = 'arcfase': .*did you mean arcface"):
        metric.make_loss("arcfase", {})
