"""Configurations: by name, typed, with errors that name the field."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from shrinking import batch, make_task, shrink

from jaxtag.config import checks, dotted, flags, serialization
from jaxtag.config.schema import Config, DataConfig, OptimizerConfig
from jaxtag.distributed import mesh as meshes
from jaxtag.errors import UsageError, UserError
from jaxtag.training.setup import TrainSetup

# Configurations whose step is compiled and taken in the default suite; all others' are traced.
STEPPING = ("mnist_capsnet",)
# Those that are traced by slow tests alone: of other configurations they have another backbone.
OTHER_BACKBONES = (
    "cifar100_resnet18",
    "coco_caption_efficientnet",
    "coco_caption_resnet50",
    "imagenet_alexnet",
    "imagenet_efficientnet",
    "imagenet_mobilenet",
    "imagenet_squeezenet",
)


def traced() -> list:
    return [
        pytest.param(name, marks=[pytest.mark.slow] if name in OTHER_BACKBONES else [])
        for name in flags.names()
        if name not in STEPPING
    ]


def stepping() -> list:
    return [
        pytest.param(name, marks=[] if name in STEPPING else [pytest.mark.slow])
        for name in flags.names()
    ]


@pytest.mark.parametrize("name", flags.names())
def test_every_configuration_resolves(name):
    config = checks.check(flags.load(name))
    assert serialization.from_json(serialization.to_json(config)) == config


@pytest.mark.parametrize("name", traced())
def test_the_step_of_every_configuration_is_traced(name):
    setup, rows = small_run(name)
    state, metrics = jax.eval_shape(setup.step, setup.shapes, rows)
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, setup.shapes)
    assert "loss" in metrics


@pytest.mark.parametrize("name", stepping())
def test_every_configuration_takes_a_step(name):
    setup, rows = small_run(name)
    state, metrics = setup.step(setup.initialize(), rows)
    assert int(state.step) == 1 and int(state.skipped) == 0
    total, count = metrics["loss"]
    if setup.task.config.task.loss == "softmax":
        assert 4.0 < float(total / count) < 8.0  # near log(300) at the start


def small_run(name):
    """A configuration's run in miniature on one device, and a batch for it."""
    small = checks.check(shrink(flags.load(name)))
    if small.model.backbone == "capsnet":  # votes of 2,048 capsules for 300 classes take long
        small = dataclasses.replace(small, data=dataclasses.replace(small.data, image_size=20))
    mesh = meshes.make_mesh(devices=jax.devices()[:1])
    setup = TrainSetup.from_config(small, make_task(small), 64, mesh)
    return setup, meshes.make_global_batch(batch(small), mesh)


@pytest.mark.parametrize("name", flags.names())
def test_the_docstring_says_how_to_run_it(name):
    text = (flags._folder() / f"{name}.py").read_text()
    assert f"--config={name} " in text and "Smoke run" in text and "Expected" in text


@pytest.mark.parametrize(
    "arguments, phrases",
    [
        (["--config=shapes_captoin"], ["shapes_captoin", "did you mean shapes_caption"]),
        (["--config=shapes_caption", "--config.optimizer.learnig_rate=1"], ["learning_rate"]),
        (["--config=shapes_caption", "--config.learning_rate=1"], ["optimizer.learning_rate"]),
        (["--config=shapes_caption:size=3"], ["size", "image_size"]),
        (["--config=shapes_caption:image_size=big"], ["image_size", "int"]),
        (["--config=imagenet_vit:model=vit_bsae_patch16"], ["vit_bsae", "vit_base_patch16"]),
        (["--config.seed=3"], ["--config=NAME"]),
    ],
)
def test_a_wrong_name_is_named_with_the_nearest(arguments, phrases):
    with pytest.raises(UsageError) as error:
        flags.prepare_arguments(["train", *arguments])
    for phrase in phrases:
        assert phrase in str(error.value)


def test_arguments_of_a_configuration():
    assert flags.load("shapes_caption:image_size=32").data.image_size == 32


def test_a_file_of_ones_own(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from jaxtag.config import Config\n"
        "def get_config(steps: int = 5, flag: bool = False):\n"
        "    return Config(total_steps=steps, batch_size=2 if flag else 4)\n"
    )
    assert flags.load(f"{path}:steps=7,flag").total_steps == 7
    assert flags.load(f"{path}:flag=true").batch_size == 2


def test_an_argument_without_a_default_must_be_given(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from jaxtag.config import Config, DataConfig\n"
        "def get_config(dataset: str):\n"
        "    return Config(total_steps=1, data=DataConfig(dataset=dataset))\n"
    )
    assert flags.load(f"{path}:dataset=mine").data.dataset == "mine"
    with pytest.raises(UsageError, match=r"say what dataset is .*:dataset=…"):
        flags.load(str(path))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"batch_size": 0}, "config.batch_size"),
        ({"data": DataConfig(num_threads=-1)}, "config.data.num_threads = -1: must be at least 0"),
        ({"data": DataConfig(num_workers=-1)}, "config.data.num_workers = -1: must be at least 0"),
        ({"batch_size": "8"}, "config.batch_size = '8': must be int"),
        ({"total_steps": None}, "total_steps"),
        ({"data": DataConfig(mean=0.5)}, "config.data.mean"),
        ({"task": "captions"}, "config.task = 'captions': must be a section such as"),
        ({"data": DataConfig(grayscale=True)}, "config.data.grayscale = True: a captioner"),
        (
            {"optimizer": OptimizerConfig(ema_bn_batches=2)},
            "ema_bn_batches = 2: .* config.*ema_decay",
        ),
        (
            {"optimizer": OptimizerConfig(ema_bn_batches=-1)},
            "ema_bn_batches = -1: must be at least 0",
        ),
    ],
)
def test_wrong_values_are_refused(changes, message):
    config = dataclasses.replace(Config(total_steps=1), **changes)
    with pytest.raises(UsageError, match=message):
        checks.check(config)


def test_differences_are_those_that_change_what_is_trained():
    old, new = Config(total_steps=1), Config(total_steps=1, seed=1, log_every=7)
    new.optimizer.learning_rate = 0.5
    new.data.num_workers = 3
    assert dotted.differences(old, new) == {
        "seed": (0, 1),
        "optimizer.learning_rate": (1e-3, 0.5),
    }


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"seeds": 1}')
    with pytest.raises(UserError, match=r"config.json: unknown field seeds \(did you mean seed"):
        serialization.load(tmp_path)
    (tmp_path / "config.json").write_text('{"seed": ')
    with pytest.raises(UserError, match="damaged"):
        serialization.load(tmp_path)
    with pytest.raises(UserError, match="no work directory"):
        serialization.load(tmp_path / "other")


def test_blanks_around_names_and_values_do_not_count() -> None:
    spaced = flags.load("corel5k_tag: image_size = 64, total_epochs=2.0")
    assert spaced == flags.load("corel5k_tag:image_size=64,total_epochs=2.0")


def test_runs_of_two_tasks_differ_in_their_task() -> None:
    changed = dotted.differences(flags.load("shapes_caption"), flags.load("corel5k_tag"))
    assert changed["task.name"] == ("caption", "tag")
    assert not any(name.startswith("task.") for name in changed if name != "task.name")


@pytest.mark.parametrize("name", [["tag"], {}, 3, None])
def test_a_task_is_named_by_a_text(name) -> None:
    with pytest.raises(UserError, match=r"config\.json: task\.name must be a text"):
        serialization.from_dict({"task": {"name": name}})


def test_a_run_without_length_names_its_data_set() -> None:
    config = Config(total_steps=None, total_epochs=None, data=DataConfig(dataset="not_there"))
    with pytest.raises(UserError, match=r"total_epochs must say .* train on not_there"):
        checks.check(config)
