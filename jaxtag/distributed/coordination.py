"""Barriers and broadcasts between the processes of a job, outside of compiled programs.

They use JAX's coordination service, and every wait has a time limit. With one process all return at
once. All processes must make the same calls in the same order.
"""

import functools
import itertools
import json
from collections.abc import Callable
from typing import Any

import jax
from jax._src import distributed

from jaxtag.errors import ProcessLostError, UserError

# Time limit of what process 0 does while the others wait: it may read a large checkpoint through.
_WAIT_SECONDS = 1800


def barrier(name: str, seconds: float = _WAIT_SECONDS) -> None:
    """Returns when all processes are here.

    Raises:
        ProcessLostError: A process did not arrive within `seconds`.
    """
    if jax.process_count() > 1:
        _coordinator(service_client()).barrier(name, seconds)


def run_on_process_zero(call: Callable[[], Any], seconds: float = _WAIT_SECONDS) -> Any:
    """Calls `call` on process 0 and returns its result on all processes.

    Args:
        call: Returns what JSON can hold. A UserError that it raises is raised on all processes.
        seconds: Time limit for the others to wait.

    Raises:
        ProcessLostError: Process 0 did not answer within `seconds`.
    """
    if jax.process_count() == 1:
        return call()
    return _coordinator(service_client()).run_on_process_zero(call, seconds)


def gather(value: Any, seconds: float = _WAIT_SECONDS) -> list[Any]:
    """The values that all processes give, by their index, on each of them.

    Args:
        value: What JSON can hold.
        seconds: Time limit to wait for the others.

    Raises:
        ProcessLostError: A process did not give its value within `seconds`.
    """
    if jax.process_count() == 1:
        return [value]
    return _coordinator(service_client()).gather(value, seconds)


def service_client() -> Any:
    """The client of JAX's coordination service, in a job of several processes."""
    client = distributed.global_state.client
    assert client is not None, "jax.distributed.initialize was not called"
    return client


class _Coordinator:
    """This process's calls on one connection to the coordination service.

    The number of each call is part of its key, since the service uses every key once.
    """

    def __init__(self, client: Any):
        self._client = client
        self._call_numbers = itertools.count()

    def barrier(self, name: str, seconds: float) -> None:
        key = f"jaxtag/{name}/{next(self._call_numbers)}"
        try:
            self._client.wait_at_barrier(key, int(1000 * seconds))
        except jax.errors.JaxRuntimeError as error:
            reason = _first_line(error)
            raise ProcessLostError(f"not all processes came to '{name}': {reason}") from error

    def run_on_process_zero(self, call: Callable[[], Any], seconds: float) -> Any:
        key = f"jaxtag/first/{next(self._call_numbers)}"
        if jax.process_index() == 0:
            try:
                answer = {"result": call()}
            except UserError as error:
                answer = {"error": str(error), "status": error.exit_status}
            self._client.key_value_set(key, json.dumps(answer))
        else:
            answer = self._get(key, seconds, 0)
        if "error" in answer:
            failure = UserError(answer["error"])
            failure.exit_status = answer["status"]
            raise failure
        return answer["result"]

    def gather(self, value: Any, seconds: float) -> list[Any]:
        key = f"jaxtag/gather/{next(self._call_numbers)}"
        self._client.key_value_set(f"{key}/{jax.process_index()}", json.dumps(value))
        count = jax.process_count()
        # Process 0 collects and answers: with N processes 2 N messages, not N * N.
        return self.run_on_process_zero(
            lambda: [self._get(f"{key}/{index}", seconds, index) for index in range(count)],
            2 * seconds,
        )

    def _get(self, key: str, seconds: float, process: int) -> Any:
        """What `process` has said under `key`."""
        try:
            return json.loads(self._client.blocking_key_value_get(key, int(1000 * seconds)))
        except jax.errors.JaxRuntimeError as error:
            reason = _first_line(error)
            raise ProcessLostError(f"process {process} did not answer: {reason}") from error


@functools.lru_cache(maxsize=1)  # a new connection starts to count anew
def _coordinator(client: Any) -> _Coordinator:
    return _Coordinator(client)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
