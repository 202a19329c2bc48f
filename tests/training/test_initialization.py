"""Runs that start from the weights of another one, or of another library."""

import dataclasses

import jax
import numpy as np
import pytest
from shrinking import VOCABULARY, make_task, shrink

from jaxtag import models, weights
from jaxtag.config import flags
from jaxtag.config.schema import ModelConfig
from jaxtag.distributed import mesh as meshes
from jaxtag.errors import UserError
from jaxtag.training import initialization
from jaxtag.training.setup import TrainSetup

RESNET = {"depths": (1, 1, 1, 1), "bottleneck": False}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    """torchvision's names, 5 classes, random values everywhere."""
    model = models.create_model("resnet18", num_classes=5, **RESNET)
    shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))
    rng = np.random.default_rng(0)
    values = jax.tree.map(lambda s: rng.random(s.shape, np.float32) + 0.1, shapes)
    path = tmp_path_factory.mktemp("weights") / "resnet.safetensors"
    weights.save(path, model, values, library="torchvision")
    return str(path)


def plan(name: str, path: str | None, **optimizer) -> TrainSetup:
    config = shrink(flags.load(name))
    model = ModelConfig(
        backbone="resnet18",
        kwargs=dict(RESNET),
        pretrained=path,
        decoder_width=32,
        decoder_depth=1,
        decoder_heads=2,
    )
    changed = dataclasses.replace(config.optimizer, **optimizer)
    config = dataclasses.replace(config, model=model, optimizer=changed)
    mesh = meshes.make_mesh(devices=jax.devices()[:1])
    return TrainSetup.from_config(config, make_task(config, VOCABULARY), 64, mesh=mesh)


def test_a_classifier_starts_from_torchvisions_backbone(checkpoint: str) -> None:
    run = plan("imagenet_resnet50", checkpoint, ema_decay=0.9)
    fresh = run.initialize()
    state = initialization.load_backbone(fresh, checkpoint, run.task)
    backbone = models.create_model("resnet18", **RESNET)
    expected = weights.load(checkpoint, backbone, adapt=("head",))
    for part in ("stem", "stem_norm", "stage4_0"):
        jax.tree.map(np.testing.assert_array_equal, state.params[part], expected["params"][part])
    jax.tree.map(
        np.testing.assert_array_equal, state.collections["batch_stats"], expected["batch_stats"]
    )
    jax.tree.map(np.testing.assert_array_equal, state.ema["params"], state.params)
    assert state.params["head"]["kernel"].shape == (512, VOCABULARY)
    assert not np.any(state.params["head"]["kernel"])
    jax.tree.map(lambda a, b: a.sharding == b.sharding or pytest.fail("moved"), state, fresh)


def test_a_captioners_encoder_starts_from_it_and_its_decoder_afresh(checkpoint: str) -> None:
    run = plan("coco_caption", checkpoint)
    fresh = run.initialize()
    state = initialization.load_backbone(fresh, checkpoint, run.task)
    expected = weights.load(checkpoint, models.create_model("resnet18", **RESNET), adapt=("head",))
    jax.tree.map(np.testing.assert_array_equal, state.params["encoder"], expected["params"])
    jax.tree.map(
        np.testing.assert_array_equal, state.params["decoder"], run.initialize().params["decoder"]
    )


def test_freezing_and_rates_by_layer(checkpoint: str) -> None:
    from shrinking import batch

    rules = ((r"^(stem|stage[12])", 0.0), (r"^stage", 0.1), (r".*", 1.0))
    run = plan("imagenet_resnet50", checkpoint, lr_mults=rules, warmup_steps=0)
    state = initialization.load_backbone(run.initialize(), checkpoint, run.task)
    before = jax.tree.map(np.asarray, state.params)
    small = run.config
    for seed in range(2):
        state, _ = run.step(state, meshes.make_global_batch(batch(small, seed), run.mesh))
    for part, old in before.items():
        same = jax.tree.map(np.array_equal, old, jax.tree.map(np.asarray, state.params[part]))
        frozen = part.startswith(("stem", "stage1", "stage2"))
        assert all(jax.tree.leaves(same)) is frozen, part


def test_a_file_that_does_not_fit_is_named(checkpoint: str) -> None:
    run = plan("imagenet_vit", None)
    vit = make_task(run.config, 3, models.create_model("vit_tiny_patch16", num_classes=3))
    with pytest.raises(UserError, match="holds no weights of ViT"):
        initialization.load_backbone(run.initialize(), checkpoint, vit)


def test_a_whitening_comes_from_the_training_pictures(tiny_data) -> None:
    from jaxtag.data import transforms
    from jaxtag.data.decode import open_image
    from jaxtag.datasets import prepared
    from jaxtag.models.airbench import whitening_kernel

    config = flags.load("cifar10_airbench")
    mesh = meshes.make_mesh(devices=jax.devices()[:1])
    source = prepared.open_split("tiny", "train", tiny_data)
    run = TrainSetup.from_config(config, make_task(config, 10), len(source), mesh=mesh)
    state = initialization.init_state(run, source)
    pictures = np.empty((len(source), 32, 32, 3), np.uint8)
    for record, out in zip(source.__getitems__(range(len(source))), pictures, strict=True):
        transforms.Resize(32)(open_image(record["image"]), np.random.default_rng(0), out)
    expected = whitening_kernel(pictures, config.data.mean, config.data.std)
    np.testing.assert_allclose(state.params["whiten"]["kernel"], expected, rtol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, state.ema["params"], state.params)
