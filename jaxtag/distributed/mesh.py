"""The mesh of devices, and how a batch lies on it."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from jaxtag.errors import UserError

_Result = TypeVar("_Result")

AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")  # a batch is split over these; `tensor` splits the layers


def make_mesh(
    data: int = -1, fsdp: int = 1, tensor: int = 1, devices: list[jax.Device] | None = None
) -> Mesh:
    """A mesh with the axes `data`, `fsdp` and `tensor`.

    Args:
      data, fsdp, tensor: sizes; one of them may be -1, which takes all devices that are left.
      devices: all of the job by default.

    Raises:
      UserError: the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [data, fsdp, tensor]
    if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
        raise UserError(f"config.mesh: sizes must be at least 1, one of them may be -1: {sizes}")
    known = int(np.prod([size for size in sizes if size != -1]))
    if -1 in sizes:
        sizes[sizes.index(-1)] = max(1, len(devices) // known)
    if int(np.prod(sizes)) != len(devices):
        named = ", ".join(f"{axis}={size}" for axis, size in zip(AXES, sizes, strict=True))
        raise UserError(f"config.mesh: {named} does not fit the {len(devices)} devices of this job")
    types = (AxisType.Auto,) * len(AXES)
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices > 1:
        return Mesh(_over_slices(sizes, slices, devices), AXES, axis_types=types)
    return jax.make_mesh(tuple(sizes), AXES, devices=devices, axis_types=types)


def _over_slices(sizes: list[int], slices: int, devices: list[jax.Device]) -> np.ndarray:
    """The devices of several slices of TPUs in a mesh of `sizes`.

    Slices, joined by a data centre's network only, lie along `data`: gradients are exchanged over
    it once a step, while `fsdp` and `tensor` speak in every layer.
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
    """`function`, which knows while it is traced over how many devices its batch is split."""

    def on_mesh(*arguments: Any) -> _Result:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*arguments)

    return on_mesh


def num_batch_shards() -> int:
    """Over how many devices the batch of what is traced `within` a mesh is split; 1 outside."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else _parts(mesh)


def constrain_batch(x: jax.Array) -> jax.Array:
    """`x` [B, ...], split over the devices as its batch is, and whole along the rest.

    Where `fsdp` splits the parameters along a model's width, XLA may choose to split activations
    likewise and to hold all pictures on every device. Said at each layer's input, the activations
    stay with their pictures, and the parameters come to them. Outside of a mesh it does nothing.
    """
    shards = num_batch_shards()
    if shards == 1 or x.shape[0] % shards:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(BATCH_AXES))


def check_batch(mesh: Mesh, batch_size: int, field: str = "config.batch_size") -> None:
    """Raises UserError unless `batch_size` splits evenly over the mesh."""
    parts = _parts(mesh)
    if batch_size % parts:
        raise UserError(
            f"{field} = {batch_size} does not split over data x fsdp = {parts} devices; "
            f"take a multiple of {parts}"
        )


def put_global(value: jax.Array | np.ndarray, sharding: NamedSharding) -> jax.Array:
    """A value that all processes have, laid out over the devices of all."""
    value = np.asarray(value)
    return jax.make_array_from_callback(value.shape, sharding, value.__getitem__)


def local_row_indices(mesh: Mesh, batch_size: int) -> np.ndarray:
    """The rows of a global batch that lie on this process's devices, ascending, int64 [B].

    Processes whose devices differ along `tensor` only have the same rows.
    """
    size = batch_size // _parts(mesh)
    return np.concatenate([block * size + np.arange(size) for block in _own_blocks(mesh)])


def make_global_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's rows of a batch (see `own_rows`) → global arrays, split over the mesh."""
    sharding, own = batch_sharding(mesh), _own_blocks(mesh)

    def globally(local: np.ndarray) -> jax.Array:
        size = len(local) // len(own)

        def block(index: tuple[slice, ...]) -> np.ndarray:
            start = own.index((index[0].start or 0) // size) * size
            return local[start : start + size]

        shape = (size * _parts(mesh), *local.shape[1:])
        return jax.make_array_from_callback(shape, sharding, block)

    return {name: globally(np.asarray(value)) for name, value in batch.items()}


def _parts(mesh: Mesh | AbstractMesh) -> int:
    """Blocks that a batch is split into."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def _own_blocks(mesh: Mesh) -> list[int]:
    """Which of them are on devices of this process, ascending."""
    here = jax.process_index()
    own = np.vectorize(lambda device: device.process_index == here, otypes=[bool])(mesh.devices)
    return np.flatnonzero(own.reshape(_parts(mesh), -1).any(1)).tolist()
