"""The mesh of devices, and how a batch is laid out on it."""

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from jaxtag.errors import UserError

_Result = TypeVar("_Result")

AXES = ("data", "fsdp", "tensor")
_local_only = contextvars.ContextVar("local_only", default=False)
BATCH_AXES = ("data", "fsdp")  # a batch is split over these; `tensor` splits the layers


def make_mesh(
    data: int = -1, fsdp: int = 1, tensor: int = 1, devices: list[jax.Device] | None = None
) -> Mesh:
    """Makes a mesh with the axes `data`, `fsdp` and `tensor`.

    Args:
        data: Size of the axis; one of the three may be -1, which takes all remaining devices.
        fsdp: Likewise.
        tensor: Likewise.
        devices: By default all of the job, or within `on_local_devices` those of this process.

    Raises:
        UserError: The product of the sizes is not the number of devices.
    """
    if devices is None:
        devices = jax.local_devices() if _local_only.get() else jax.devices()
    sizes = [data, fsdp, tensor]
    if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
        raise UserError(f"config.mesh: sizes must be at least 1, one of them may be -1: {sizes}")
    if -1 in sizes:
        others = int(np.prod([size for size in sizes if size != -1]))
        sizes[sizes.index(-1)] = max(1, len(devices) // others)
    if int(np.prod(sizes)) != len(devices):
        shape = ", ".join(f"{axis}={size}" for axis, size in zip(AXES, sizes, strict=True))
        raise UserError(f"config.mesh: {shape} does not fit the {len(devices)} devices of this job")
    types = (AxisType.Auto,) * len(AXES)
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices > 1:
        return Mesh(_arrange_slices(sizes, slices, devices), AXES, axis_types=types)
    arranged = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    return Mesh(arranged, AXES, axis_types=types)


@contextlib.contextmanager
def on_local_devices() -> Iterator[None]:
    """A context in which meshes are of this process's devices, for work that it does by itself."""
    token = _local_only.set(True)
    try:
        yield
    finally:
        _local_only.reset(token)


def _arrange_slices(sizes: list[int], slices: int, devices: list[jax.Device]) -> np.ndarray:
    """Arranges the devices of several TPU slices in a mesh of `sizes`.

    Slices, connected by the data center's network only, lie along `data`: gradients are exchanged
    over it once a step, while `fsdp` and `tensor` communicate in every layer.
    """
    if sizes[0] % slices:
        raise UserError(
            f"config.mesh.data = {sizes[0]} is no multiple of the {slices} slices of this job, "
            "between which only the batch can be split"
        )
    return mesh_utils.create_hybrid_device_mesh(
        [sizes[0] // slices, *sizes[1:]],
        [slices, 1, 1],
        devices,
        allow_split_physical_axes=True,
    )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Splits the first dimension of every array of a batch over the devices."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def with_mesh(mesh: Mesh, function: Callable[..., _Result]) -> Callable[..., _Result]:
    """`function`, traced within `mesh`, so that `num_batch_shards` knows it."""

    def on_mesh(*arguments: Any) -> _Result:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*arguments)

    return on_mesh


def num_batch_shards() -> int:
    """Devices that split the batch of what is traced in `with_mesh`; 1 outside of a mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else num_shards(mesh)


def constrain_batch(x: jax.Array) -> jax.Array:
    """`x` [B, ...], split over the devices as its batch is, and whole along the other dimensions.

    Where `fsdp` splits the parameters along a model's width, XLA may choose to split activations
    likewise and to hold all images on every device. With this constraint on each layer's input, the
    activations stay with their images, and the parameters come to them. No-op outside of a mesh.
    """
    shards = num_batch_shards()
    if shards == 1 or x.shape[0] % shards:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(BATCH_AXES))


def check_batch(mesh: Mesh, batch_size: int, field: str = "config.batch_size") -> None:
    """Raises UserError unless `batch_size` splits evenly over the mesh."""
    shards = num_shards(mesh)
    if batch_size % shards:
        raise UserError(
            f"{field} = {batch_size} does not split over data x fsdp = {shards} devices; "
            f"take a multiple of {shards}"
        )


def put_global(value: jax.Array | np.ndarray, sharding: NamedSharding) -> jax.Array:
    """Lays out a value that all processes have over the devices of all processes."""
    array = np.asarray(value)
    return jax.make_array_from_callback(array.shape, sharding, array.__getitem__)


def local_row_indices(mesh: Mesh, batch_size: int) -> np.ndarray:
    """The rows of a global batch that lie on this process's devices, ascending, int64 [B].

    Processes whose devices differ along `tensor` only have the same rows.
    """
    size = batch_size // num_shards(mesh)
    return np.concatenate([shard * size + np.arange(size) for shard in _local_shards(mesh)])


def make_global_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Makes global arrays, split over the mesh, of each process's rows of a batch.

    Args:
        batch: Arrays of this process's rows, in the order of `local_row_indices`.
        mesh: The mesh.
    """
    sharding, local_shards = batch_sharding(mesh), _local_shards(mesh)

    def make_global(rows: np.ndarray) -> jax.Array:
        size = len(rows) // len(local_shards)

        def shard(index: tuple[slice, ...] | None) -> np.ndarray:
            assert index is not None
            start = local_shards.index((index[0].start or 0) // size) * size
            return rows[start : start + size]

        shape = (size * num_shards(mesh), *rows.shape[1:])
        return jax.make_array_from_callback(shape, sharding, shard)

    return {name: make_global(np.asarray(rows)) for name, rows in batch.items()}


def num_shards(mesh: Mesh | AbstractMesh) -> int:
    """Shards that a batch is split into."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def _local_shards(mesh: Mesh) -> list[int]:
    """Indices of the shards that lie on devices of this process, ascending."""
    process = jax.process_index()
    is_local = np.vectorize(lambda device: device.process_index == process, otypes=[bool])
    return np.flatnonzero(is_local(mesh.devices).reshape(num_shards(mesh), -1).any(1)).tolist()
