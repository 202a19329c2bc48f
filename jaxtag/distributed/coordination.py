"""What the processes of a job do together outside of compiled programs, each wait with a limit.

With one process everything here returns at once. All processes must call these alike, in one order.
"""

import itertools
import json
from collections.abc import Callable
from typing import Any

import jax
from jax._src import distributed

from jaxtag.errors import ProcessLostError, UserError

# For what process 0 does while the others wait: it may read a large checkpoint through.
_SECONDS = 1800
_numbers = itertools.count()  # a key for each call


def barrier(name: str, seconds: float = _SECONDS) -> None:
    """Returns when all processes are here. Raises LostProcess when one is not after `seconds`."""
    if jax.process_count() == 1:
        return
    key = f"jaxtag/{name}/{next(_numbers)}"
    try:
        distributed.global_state.client.wait_at_barrier(key, int(1000 * seconds))
    except jax.errors.JaxRuntimeError as error:
        raise ProcessLostError(f"not all processes came to '{name}': {_line(error)}") from error


def run_on_process_zero(call: Callable[[], Any], seconds: float = _SECONDS) -> Any:
    """What `call` returns on process 0, on all of them; the others do not call it.

    Args:
      call: returns what JSON can hold. A UserError that it raises is raised on all.
      seconds: after which the others raise LostProcess.
    """
    if jax.process_count() == 1:
        return call()
    client, key = distributed.global_state.client, f"jaxtag/first/{next(_numbers)}"
    if jax.process_index() == 0:
        try:
            said = {"result": call()}
        except UserError as error:
            said = {"error": str(error), "status": error.exit_status}
        client.key_value_set(key, json.dumps(said))
    else:
        try:
            said = json.loads(client.blocking_key_value_get(key, int(1000 * seconds)))
        except jax.errors.JaxRuntimeError as error:
            raise ProcessLostError(f"process 0 did not answer: {_line(error)}") from error
    if "error" in said:
        error = UserError(said["error"])
        error.exit_status = said["status"]
        raise error
    return said["result"]


def _line(error: Exception) -> str:
    return str(error).splitlines()[0]
