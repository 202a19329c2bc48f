"""Saving and restoring: exact, on any mesh, damage found, failures loud, the right steps kept."""

import errno
import gc
import os
import shutil
import threading
import time

import flax.struct
import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec, SingleDeviceSharding

from jaxtag.errors import UserError
from jaxtag.training import checkpoint_manifest
from jaxtag.training.checkpoint import Checkpoints


@flax.struct.dataclass
class State:
    """The kinds of leaves and containers that a run's state has."""

    step: jax.Array
    params: dict
    optimizer: optax.OptState
    key: jax.Array
    ema: dict | None = None


def mesh(shape, names):
    count = int(np.prod(shape))
    return jax.make_mesh(
        shape, names, axis_types=(AxisType.Auto,) * len(shape), devices=jax.devices()[:count]
    )


def sharded_first_axis(leaf, mesh):
    """Splits the first axis over all axes of the mesh where it divides, else replicates."""
    split = leaf.ndim and leaf.shape[0] % mesh.size == 0
    return NamedSharding(mesh, PartitionSpec(mesh.axis_names) if split else PartitionSpec())


def make_state(seed=0, on=None):
    on = on or mesh((8,), ("data",))
    keys = jax.random.split(jax.random.key(seed), 4)
    params = {
        "kernel": jax.random.normal(keys[0], (16, 24)),
        "half": jax.random.normal(keys[1], (8, 3)).astype(jnp.bfloat16),
        "frozen": jnp.arange(5.0) + seed,
    }
    transform = optax.multi_transform(
        {"train": optax.adamw(1e-3), "freeze": optax.set_to_zero()},
        {"kernel": "train", "half": "train", "frozen": "freeze"},
    )
    state = State(
        step=jnp.int32(seed),
        params=params,
        optimizer=transform.init(params),
        key=jax.random.split(keys[2], 8),
    )
    return jax.tree.map(lambda leaf: jax.device_put(leaf, sharded_first_axis(leaf, on)), state)


def abstract(state, sharding=lambda leaf: leaf.sharding):
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding(leaf)), state
    )


def bits(leaf):
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf).tobytes(), leaf.dtype, leaf.shape


def assert_equal(state, expected):
    assert jax.tree.structure(state) == jax.tree.structure(expected)
    assert jax.tree.map(bits, state) == jax.tree.map(bits, expected)


def saved(directory, steps, **options):
    """A folder with `steps` saved, the state of each seeded by its step."""
    with Checkpoints(directory, **{"keep_last": 10, **options}) as checkpoints:
        for step in steps:
            checkpoints.save(step, make_state(step), config={"seed": step})
    return directory


def test_round_trip_is_exact(tmp_path):
    state = make_state(3)
    with Checkpoints(tmp_path / "runs", keep_last=1) as checkpoints:
        assert checkpoints.steps() == []
        assert checkpoints.save(3, state, config={"name": "é", "list": [1, None]})
        checkpoints.wait()
        restored = checkpoints.restore(abstract(state))
    assert restored.step == 3
    assert restored.config == {"name": "é", "list": [1, None]}
    assert_equal(restored.state, state)
    assert type(restored.state) is State
    assert Checkpoints(tmp_path / "runs", keep_last=1).restore_config() == restored.config


TARGETS = {
    "4 devices": lambda leaf: sharded_first_axis(leaf, mesh((4,), ("data",))),
    "2 by 4": lambda leaf: sharded_first_axis(leaf, mesh((2, 4), ("fsdp", "tensor"))),
    "replicated": lambda leaf: NamedSharding(mesh((8,), ("data",)), PartitionSpec()),
    "last device": lambda leaf: SingleDeviceSharding(jax.devices()[7]),
    "unsaid": lambda leaf: None,
}


@pytest.mark.parametrize("target", TARGETS)
def test_restores_on_another_mesh(tmp_path_factory, target):
    directory = tmp_path_factory.getbasetemp() / "another_mesh"
    state = make_state(1)
    if not directory.exists():
        saved(directory, [1])
    abstract_state = abstract(state, TARGETS[target])
    restored = Checkpoints(directory, keep_last=1).restore(abstract_state).state
    assert_equal(restored, state)
    for leaf, abstract_leaf in zip(
        jax.tree.leaves(restored), jax.tree.leaves(abstract_state), strict=True
    ):
        sharding = abstract_leaf.sharding or SingleDeviceSharding(jax.devices()[0])
        assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim)


def test_one_device_to_eight(tmp_path):
    one, eight = mesh((1,), ("data",)), mesh((8,), ("data",))
    state = make_state(1, on=one)
    with Checkpoints(tmp_path, keep_last=1) as checkpoints:
        checkpoints.save(1, state)
    abstract_state = abstract(state, lambda leaf: sharded_first_axis(leaf, eight))
    assert_equal(Checkpoints(tmp_path, keep_last=1).restore(abstract_state).state, state)


def test_part_of_the_state(tmp_path):
    saved(tmp_path, [1])
    part = {"params": abstract(make_state(1)).params}
    restored = Checkpoints(tmp_path, keep_last=1).restore(part, partial=True)
    assert_equal(restored.state, {"params": make_state(1).params})


def test_plain_orbax_reads_it(tmp_path):
    saved(tmp_path, [1, 2])
    with ocp.CheckpointManager(tmp_path) as manager:
        assert manager.all_steps() == [1, 2]
        args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract(make_state(2))))
        assert_equal(manager.restore(2, args=args).state, make_state(2))


def test_only_large_arrays_are_cut_into_slices(tmp_path):
    copies = NamedSharding(jax.make_mesh((8,), ("data",)), PartitionSpec())
    state = {"small": jnp.zeros((64, 8)), "large": jnp.zeros((2048, 1024))}
    with Checkpoints(tmp_path / "run", keep_last=1) as checkpoints:
        checkpoints.save(1, jax.device_put(state, copies))
    metadata = ocp.StandardCheckpointer().metadata(tmp_path / "run/1/state").item_metadata
    written = {name: metadata[name].storage.write_shape for name in state}
    assert written == {"small": (64, 8), "large": (256, 1024)}


def test_model_that_does_not_fit(tmp_path):
    saved(tmp_path, [1])
    checkpoints = Checkpoints(tmp_path, keep_last=1)
    state = abstract(make_state(1))

    def message(params, **options):
        with pytest.raises(UserError, match="does not fit the configured model") as error:
            checkpoints.restore(state.replace(params=params), **options)
        return str(error.value).splitlines()[1:]

    kernel = "  params/kernel: saved float32[16, 24], configured "
    wider = {**state.params, "kernel": jax.ShapeDtypeStruct((16, 25), jnp.float32)}
    assert message(wider) == [kernel + "float32[16, 25]"]
    assert message(wider, partial=True) == [kernel + "float32[16, 25]"]
    half = {**state.params, "kernel": jax.ShapeDtypeStruct((16, 24), jnp.bfloat16)}
    assert message(half) == [kernel + "bfloat16[16, 24]"]
    less = {"half": state.params["half"], "frozen": state.params["frozen"]}
    assert message(less) == [kernel + "nothing"]
    more = {**state.params, **{f"extra{i}": state.step for i in range(10)}}
    assert message(more)[0] == "  params/extra0: saved nothing, configured int32[]"
    assert message(more)[-1] == "  and 2 more"


def test_iterator_goes_on_where_it_stood(tmp_path):
    def batches():
        return iter(grain.MapDataset.range(100).shuffle(5).repeat().batch(3).to_iter_dataset())

    iterator = batches()
    for _ in range(50):
        next(iterator)
    with Checkpoints(tmp_path, keep_last=1) as checkpoints:
        checkpoints.save(50, make_state(), iterator)
        expected = [next(iterator).tolist() for _ in range(5)]  # drawn while it is being written
    again = batches()
    Checkpoints(tmp_path, keep_last=1).restore(abstract(make_state()), iterator=again)
    assert [next(again).tolist() for _ in range(5)] == expected


def test_iterator_of_another_number_of_processes(tmp_path):
    """It goes on where all of them stood at one place, and only there."""
    iterator = iter(grain.MapDataset.range(9).to_iter_dataset())
    next(iterator), next(iterator)
    with Checkpoints(tmp_path, keep_last=1) as checkpoints:
        checkpoints.save(1, make_state(), iterator)
        checkpoints.wait()
        folder = tmp_path / "1" / "iterator"
        (folder / "process_0-of-1.json").rename(folder / "process_0-of-2.json")
        state = (folder / "process_0-of-2.json").read_text()

        def restore(other: str) -> None:
            (folder / "process_1-of-2.json").write_text(other)
            checkpoint_manifest.write(
                tmp_path / "1", checkpoint_manifest.read(tmp_path / "1").notes
            )
            checkpoints.restore(abstract(make_state()), iterator=iterator)

        with pytest.raises(UserError, match="process 0 of 1"):
            restore(state.replace("2", "3"))
        next(iterator)
        restore(state)
        assert next(iterator) == 2


# --- donation


def test_donated_buffers_are_saved_as_they_were(tmp_path, monkeypatch):
    """Writing is held back until the state has been donated many times."""
    from orbax.checkpoint._src.serialization import jax_array_handlers as handlers

    go = threading.Event()
    write = handlers._async_serialize_replica_slices

    async def held_back(*args, **kwargs):
        assert go.wait(30)
        return await write(*args, **kwargs)

    monkeypatch.setattr(handlers, "_async_serialize_replica_slices", held_back)
    step = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    on = mesh((8,), ("data",))
    state = {
        "split": jax.device_put(jnp.zeros((64, 1024)), NamedSharding(on, PartitionSpec("data"))),
        "replicated": jax.device_put(jnp.zeros((300, 100)), NamedSharding(on, PartitionSpec())),
        "single": jnp.zeros((100, 100)),
    }
    state = step(state)
    with Checkpoints(tmp_path, keep_last=1) as checkpoints:
        started = time.monotonic()
        checkpoints.save(1, state)
        assert time.monotonic() - started < 20  # it did not wait for the writing
        for _ in range(10):
            state = step(state)
        jax.block_until_ready(state)
        assert not (tmp_path / "1").exists()
        go.set()
        checkpoints.wait()
        restored = checkpoints.restore(abstract(state)).state
    for name, leaf in restored.items():
        np.testing.assert_array_equal(leaf, 1, err_msg=name)
    np.testing.assert_array_equal(state["split"], 11)


# --- which steps stay


def test_last_and_best_stay_together(tmp_path):
    scores = {1: 0.3, 2: 0.9, 3: 0.5, 4: float("nan"), 5: None, 6: 0.1, 7: 0.2}
    with Checkpoints(tmp_path, keep_last=2, keep_best=2, best_metric="CIDEr") as checkpoints:
        for step, score in scores.items():
            metrics = {"loss": 1.0} if score is None else {"CIDEr": score}
            checkpoints.save(step, {"x": jnp.float32(step)}, metrics=metrics)
        checkpoints.wait()
        assert checkpoints.steps() == [2, 3, 6, 7]
        assert checkpoints.best_step() == 2
    with Checkpoints(
        tmp_path, keep_last=1, keep_best=1, best_metric="CIDEr", best_mode="min"
    ) as checkpoints:
        checkpoints.save(8, {"x": jnp.float32(8)})
        checkpoints.wait()
        assert checkpoints.steps() == [6, 8]
        assert checkpoints.best_step() == 6
    assert Checkpoints(tmp_path, keep_last=1).best_step() is None


def test_metrics_join_a_saved_step_and_decide_which_is_best(tmp_path):
    with Checkpoints(tmp_path, keep_last=1, keep_best=1, best_metric="CIDEr") as checkpoints:
        for step, score in {1: 0.9, 2: 0.5, 3: 0.95}.items():
            checkpoints.save(step, {"x": jnp.float32(step)})
            checkpoints.add_metrics(step, {"CIDEr": score})
            checkpoints.wait()
            assert checkpoints.steps() == {1: [1], 2: [1, 2], 3: [3]}[step]
        assert checkpoints.best_step() == 3
        checkpoint_manifest.verify(tmp_path / "3")


def test_old_steps_go_only_when_the_new_one_is_there(tmp_path, monkeypatch):
    def fail(folder, notes):
        raise OSError(28, "No space left on device")

    with Checkpoints(tmp_path, keep_last=1) as checkpoints:
        checkpoints.save(1, make_state(1))
        checkpoints.wait()
        monkeypatch.setattr(checkpoint_manifest, "write", fail)
        checkpoints.save(2, make_state(2))
        with pytest.raises(UserError, match="No space left"):
            checkpoints.wait()
        assert checkpoints.steps() == [1]
        assert_equal(checkpoints.restore(abstract(make_state())).state, make_state(1))


def test_same_step_again_is_nothing_to_do_and_an_older_one_is_refused(tmp_path):
    state = make_state(5)
    with Checkpoints(tmp_path, keep_last=3) as checkpoints:
        assert checkpoints.save(5, state)
        assert not checkpoints.save(5, state)
        with pytest.raises(UserError, match="already holds step 5"):
            checkpoints.save(4, state)
        assert checkpoints.save(6, state)
    with Checkpoints(tmp_path, keep_last=3) as checkpoints:
        checkpoints.restore(abstract(state))
        assert not checkpoints.save(6, state)
    with (
        Checkpoints(tmp_path, keep_last=3) as checkpoints,
        pytest.raises(UserError, match="already holds step 6"),
    ):
        checkpoints.save(6, state)


@pytest.mark.parametrize(
    "options",
    [
        {"keep_last": 0},
        {"keep_last": 1, "keep_best": 1},
        {"keep_last": 1, "best_mode": "most"},
    ],
)
def test_wrong_options(tmp_path, options):
    with pytest.raises(ValueError, match=next(reversed(options))):
        Checkpoints(tmp_path, **options)


# --- damage


def largest_file(folder):
    return max((f for f in folder.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


DAMAGES = {
    "truncated": lambda step: largest_file(step / "state").write_bytes(b"short"),
    "bit flipped": lambda step: flip_a_bit(largest_file(step / "state")),
    "file missing": lambda step: (step / "state" / "manifest.ocdbt").unlink(),
    "file empty": lambda step: (step / "state" / "_METADATA").write_bytes(b""),
    "item missing": lambda step: shutil.rmtree(step / "state"),
    "all but the folder missing": lambda step: (shutil.rmtree(step), step.mkdir()),
    "no manifest": lambda step: (step / checkpoint_manifest.NAME).unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_newest_is_named_and_the_one_before_used(
    tmp_path, tmp_path_factory, caplog, damage
):
    pristine = tmp_path_factory.getbasetemp() / "pristine"
    if not pristine.exists():
        saved(pristine, [1, 2])
    directory = shutil.copytree(pristine, tmp_path / "checkpoints")
    DAMAGES[damage](directory / "2")
    with Checkpoints(directory, keep_last=2) as checkpoints:
        restored = checkpoints.restore(abstract(make_state()))
        assert restored.step == 1
        assert_equal(restored.state, make_state(1))
        assert checkpoints.restore_config() == {"seed": 1}
        warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
        assert len(warnings) == 1
        assert warnings[0].startswith(f"{directory / '2'} is damaged: ")
        with pytest.raises(UserError, match=str(directory / "2")):
            checkpoints.restore(abstract(make_state()), step=2)
        assert checkpoints.steps() == [1, 2]  # reading moves nothing
        checkpoints.save(2, make_state(7))
        checkpoints.wait()
        assert checkpoints.steps() == [1, 2]
        assert_equal(checkpoints.restore(abstract(make_state())).state, make_state(7))
    assert (directory / "2.damaged").is_dir()  # nothing of the user's is lost
    assert Checkpoints(directory, keep_last=2).steps() == [1, 2]


@pytest.mark.parametrize("content", [b"", b"{garbage"])
def test_files_outside_the_manifest_are_not_needed(tmp_path, content):
    saved(tmp_path, [1])
    (tmp_path / "1" / "_CHECKPOINT_METADATA").write_bytes(content)
    (tmp_path / "1" / "commit_success.txt").unlink()
    restored = Checkpoints(tmp_path, keep_last=1).restore(abstract(make_state()))
    assert_equal(restored.state, make_state(1))


def test_nothing_readable(tmp_path):
    checkpoints = Checkpoints(saved(tmp_path / "run", [1, 2]), keep_last=2)
    for step in "12":
        flip_a_bit(largest_file(tmp_path / "run" / step))
    with pytest.raises(UserError, match=r"none of the 2 checkpoints in .*run can be read"):
        checkpoints.restore(abstract(make_state()))
    with pytest.raises(UserError, match=r"no checkpoint in .*empty: train first"):
        Checkpoints(tmp_path / "empty", keep_last=2).restore(abstract(make_state()))
    with pytest.raises(UserError, match=r"has no step 7; it has \[1, 2\]"):
        checkpoints.restore(abstract(make_state()), step=7)
    assert not (tmp_path / "empty").exists()


def test_what_a_killed_run_left_is_swept_by_the_next_one_that_saves(tmp_path):
    saved(tmp_path, [1])
    shutil.copytree(tmp_path / "1", tmp_path / "2.orbax-checkpoint-tmp")
    shutil.copytree(tmp_path / "1", tmp_path / "0.deleting")
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "1.backup").mkdir()
    with Checkpoints(tmp_path, keep_last=2) as checkpoints:
        assert checkpoints.restore(abstract(make_state())).step == 1
        assert (tmp_path / "2.orbax-checkpoint-tmp").exists()
        checkpoints.save(2, make_state(2))
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["1", "1.backup", "2", "notes.txt"]


# --- failures


def test_failed_background_save_surfaces(tmp_path, monkeypatch):
    """As on a full disk: writing the arrays fails after save has returned."""
    from orbax.checkpoint._src.serialization import jax_array_handlers as handlers

    async def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    with Checkpoints(tmp_path, keep_last=1) as checkpoints:
        with monkeypatch.context() as patch:
            patch.setattr(handlers, "_async_serialize_replica_slices", full)
            checkpoints.save(4, make_state())
            deadline = time.monotonic() + 20
            with pytest.raises(UserError, match=r"4 could not be saved: .*No space left"):
                while time.monotonic() < deadline:
                    checkpoints.check()
                    time.sleep(0.01)
        assert checkpoints.steps() == []
        assert checkpoints.save(4, make_state())  # told once; the same step can be saved again
        checkpoints.wait()
        assert checkpoints.steps() == [4]


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with (
        Checkpoints(tmp_path / "file" / "checkpoints", keep_last=1) as checkpoints,
        pytest.raises(UserError, match="could not be saved"),
    ):
        checkpoints.save(1, make_state())


@pytest.mark.parametrize("name", ["2.orbax-checkpoint-tmp", "state.orbax-checkpoint-tmp"])
def test_a_folder_of_a_step_that_cannot_be_made_is_no_hang(tmp_path, monkeypatch, name):
    """Threads of Orbax that wait for it would do so for 20 minutes."""
    make = os.mkdir

    def mkdir(path, *arguments, **options):
        if os.path.basename(path) == name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        make(path, *arguments, **options)

    began = time.monotonic()
    with Checkpoints(tmp_path, keep_last=2) as checkpoints:
        state = make_state()
        checkpoints.save(1, state)
        checkpoints.wait()
        monkeypatch.setattr(os, "mkdir", mkdir)
        with pytest.raises(UserError, match=r"2 could not be saved: No space left on device\."):
            checkpoints.save(2, state)
            checkpoints.wait()
        monkeypatch.undo()
        assert checkpoints.restore(abstract(state)).step == 1
    assert time.monotonic() - began < 60


def test_storage_that_fails_when_the_writer_ends(tmp_path, monkeypatch):
    """Orbax writes metadata in the background, for which its `close` waits."""

    def fails(_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    checkpoints = Checkpoints(tmp_path, keep_last=2)
    checkpoints.save(1, make_state())
    checkpoints.wait()
    monkeypatch.setattr(ocp.AsyncCheckpointer, "close", fails)
    with pytest.raises(UserError, match=r"1 could not be saved: Input/output error") as raised:
        checkpoints.close()
    assert raised.value.exit_status == os.EX_SOFTWARE


def test_configuration_that_is_not_json(tmp_path):
    with Checkpoints(tmp_path, keep_last=1) as checkpoints, pytest.raises(TypeError, match="JSON"):
        checkpoints.save(1, make_state(), config={"f": object()})


def test_a_failed_save_is_one_line(tmp_path, capfd):
    """A limit on the size of files stands for a full disk."""
    resource = pytest.importorskip("resource")
    state = {"w": jax.random.normal(jax.random.key(0), (256, 256))}
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    checkpoints = Checkpoints(tmp_path, keep_last=2)
    checkpoints.save(1, {"w": jnp.zeros(3)})
    checkpoints.wait()
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        checkpoints.save(2, state)
        with pytest.raises(UserError, match=r"2 could not be saved: File too large\. See that"):
            checkpoints.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    checkpoints.close()
    gc.collect()  # tasks that nobody awaited would be told now
    assert checkpoints.steps() == [1]
    assert capfd.readouterr() == ("", "")
