"""Orbax's handler of checkpoints of several items, and then each process sums what it wrote."""

import time
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from jaxtag.training import checkpoint_manifest

_MIN_SLICE_BYTES = 1 << 20


def keep_small_arrays_whole() -> None:
    """Has Orbax cut no array of a single process into slices below 1 MiB.

    Orbax cuts an array that devices hold copies of into a slice for each, so that processes share
    the writing. One process writes all of them anyway, and waits while a program cuts each slice:
    0.8 s of a save of 600 small arrays on 8 devices, and 0.1 s without.
    """
    if jax.process_count() == 1:
        handler = ocp.type_handlers.get_type_handler(jax.Array)
        handler._min_slice_bytes_for_replica_parallel = _MIN_SLICE_BYTES  # no public option yet


class SummedHandler(ocp.CompositeCheckpointHandler):
    """Saves as its parent does; a save is complete when the process's files are summed too.

    This happens in the background, on all processes at once, before they meet at Orbax's barrier.
    """

    async def async_save(self, directory: epath.Path, args: "SummedArgs") -> list[Any]:
        operations = await super().async_save(directory, args)
        operations = [
            operation for operation in jax.tree.leaves(operations) if operation is not None
        ]
        return [_SumAfter(operations, directory)]


@ocp.args.register_with_handler(SummedHandler, for_save=True, for_restore=True)
class SummedArgs(ocp.args.Composite):
    """The items of a checkpoint, as arguments of `SummedHandler`."""


class _SumAfter:
    """A future: the results of others, and then the checksums of what they have written."""

    def __init__(self, operations: list[Any], directory: epath.Path):
        self._operations, self._directory = operations, directory

    def result(self, timeout: float | None = None) -> None:
        """Waits for the others, `timeout` seconds for all; raises what they raise."""
        deadline = None if timeout is None else time.monotonic() + timeout
        for operation in self._operations:
            operation.result(None if deadline is None else max(deadline - time.monotonic(), 0.0))
        checkpoint_manifest.sum_own_files(self._directory, jax.process_index())
