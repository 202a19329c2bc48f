"""Meshes over several slices, and which rows of a batch lie on which process."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxtag.distributed.mesh import batch_sharding, local_row_indices, make_global_batch, make_mesh
from jaxtag.errors import UserError


@dataclasses.dataclass(frozen=True)
class Device:
    """As much of a device as a mesh asks for."""

    id: int
    process_index: int
    slice_index: int = 0
    platform: str = "gpu"
    device_kind: str = "fake"


def devices(slices: int, hosts: int, each: int) -> list[Device]:
    """`each` devices on each of `hosts` of each slice, in an order that is not the slices'."""
    by_slice = [
        Device((s * hosts + h) * each + d, s * hosts + h, s)
        for s in range(slices)
        for h in range(hosts)
        for d in range(each)
    ]
    return by_slice[::2] + by_slice[1::2]


@pytest.mark.parametrize("sizes", [(2, 4, 1), (4, 2, 1), (2, 2, 2), (-1, 2, 1)])
def test_only_the_batch_is_split_between_slices(sizes):
    mesh = make_mesh(*sizes, devices=devices(2, 2, 2))
    of_slice = np.vectorize(lambda device: device.slice_index)(mesh.devices)
    half = mesh.shape["data"] // 2
    assert (of_slice[:half] == 0).all() and (of_slice[half:] == 1).all()
    assert {device.id for device in mesh.devices.flat} == set(range(8))


def test_what_would_speak_between_slices_in_every_layer_is_refused():
    with pytest.raises(UserError, match=r"config.mesh.data = 1 is no multiple of the 2 slices"):
        make_mesh(1, 8, 1, devices=devices(2, 2, 2))


def rows_of(mesh, process: int, batch_size: int, monkeypatch) -> list[int]:
    monkeypatch.setattr(jax, "process_index", lambda: process)
    return local_row_indices(mesh, batch_size).tolist()


@pytest.mark.parametrize("sizes", [(8, 1, 1), (2, 4, 1), (1, 8, 1)])
def test_processes_share_out_the_rows(sizes, monkeypatch):
    mesh = make_mesh(*sizes, devices=devices(1, 4, 2))
    rows = [rows_of(mesh, process, 16, monkeypatch) for process in range(4)]
    assert {len(own) for own in rows} == {4}
    assert sorted(np.concatenate(rows)) == list(range(16))


def test_processes_that_share_a_tensor_axis_have_the_same_rows(monkeypatch):
    mesh = make_mesh(2, 1, 4, devices=sorted(devices(1, 4, 2), key=lambda device: device.id))
    rows = [rows_of(mesh, process, 4, monkeypatch) for process in range(4)]
    assert rows == [[0, 1], [0, 1], [2, 3], [2, 3]]


@pytest.mark.parametrize("sizes", [(8, 1, 1), (2, 2, 2), (1, 8, 1)])
def test_rows_arrive_in_their_order(sizes):
    mesh = make_mesh(*sizes)
    batch = np.arange(32.0).reshape(16, 2)
    (array,) = make_global_batch({"x": batch}, mesh).values()
    np.testing.assert_array_equal(array, batch)
    assert array.sharding == batch_sharding(mesh)
