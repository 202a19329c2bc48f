"""Reports missing peers and mismatched num_processes before jax.distributed.initialize.

JAX's runtime ends a process whose peers do not come with SIGABRT and a stack trace. Here process 0
listens at the coordinator's port, each of the other processes sends one line of JSON, and all get
the same answer: nothing, or what is wrong.
"""

import contextlib
import dataclasses
import json
import os
import socket
import time
from typing import Any

_MAX_LINE_BYTES = 1000
_STRANGER_SECONDS = 5.0  # to wait for a connection that sends nothing
_RETRY_SECONDS = 0.2
_MAX_LISTED = 16  # processes in a message


@dataclasses.dataclass(frozen=True)
class Peer:
    """A process as it introduces itself.

    Attributes:
        process_id: Its index, starting at 0.
        num_processes: Processes of the job, as it knows.
        host: Name of its machine.
        pid: Its process number on that machine.
    """

    process_id: int
    num_processes: int
    host: str = dataclasses.field(default_factory=socket.gethostname)
    pid: int = dataclasses.field(default_factory=os.getpid)


class RendezvousError(Exception):
    """The processes of the job did not come together; says why.

    Attributes:
        transient: Whether they may come together when all start again: one was late, or an earlier
            start still ends. Not where they disagree about what the job is.
    """

    def __init__(self, problem: str, transient: bool = True):
        super().__init__(problem)
        self.transient = transient


def rendezvous(host: str, port: int, own: Peer, seconds: float) -> list[Peer]:
    """Waits until all processes are there.

    Args:
        host: Where process 0 listens.
        port: Its port.
        own: This process.
        seconds: Time limit.

    Returns:
        On process 0 all peers, in order; on the others that process alone.

    Raises:
        RendezvousError: A process did not come in time, or belongs to another job.
    """
    deadline = time.monotonic() + seconds
    if own.process_id == 0:
        return _serve(port, own, deadline, seconds)
    _introduce(host, port, own, deadline, seconds)
    return [own]


def _serve(port: int, own: Peer, deadline: float, seconds: float) -> list[Peer]:
    """Process 0's part: collects the peers and answers them all at once."""
    peers: dict[int, Peer] = {0: own}
    connections: list[socket.socket] = []
    problem: RendezvousError | None = None
    with _listen(port) as server:
        while len(peers) < own.num_processes and problem is None:
            server.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                connection, _ = server.accept()
            except TimeoutError:
                problem = _missing(peers, own.num_processes, seconds)
                break
            peer = _receive(connection)
            if peer is None:
                connection.close()
                continue
            connections.append(connection)
            problem = _mismatch(peer, peers, own.num_processes)
            peers[peer.process_id] = peer
        for connection in connections:
            with contextlib.suppress(OSError), connection:
                connection.sendall(json.dumps(_answer(problem)).encode() + b"\n")
    if problem is not None:
        raise problem
    return [peers[process_id] for process_id in range(own.num_processes)]


def _listen(port: int) -> socket.socket:
    try:
        if socket.has_dualstack_ipv6():
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        return socket.create_server(("", port))
    except OSError as error:
        raise RendezvousError(
            f"process 0 cannot listen at port {port}: {error.strerror}"
        ) from error


def _receive(connection: socket.socket) -> Peer | None:
    """The peer at the other end; None if that is not a process of a job."""
    connection.settimeout(_STRANGER_SECONDS)
    try:
        with connection.makefile("rb") as lines:
            fields = json.loads(lines.readline(_MAX_LINE_BYTES))
        process_id, num_processes = fields["process_id"], fields["num_processes"]
        host, pid = str(fields["host"]), int(fields["pid"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not isinstance(process_id, int) or not isinstance(num_processes, int):
        return None
    return Peer(process_id, num_processes, host, pid)


def _answer(problem: RendezvousError | None) -> dict[str, Any]:
    """What process 0 sends to each of the others."""
    return {} if problem is None else {"problem": str(problem), "transient": problem.transient}


def _mismatch(peer: Peer, peers: dict[int, Peer], num_processes: int) -> RendezvousError | None:
    """Why `peer` does not fit those that came before it; None if it does."""
    name = f"process {peer.process_id} (pid {peer.pid} on {peer.host})"
    if peer.num_processes != num_processes:
        return RendezvousError(
            f"{name} was started as one of {peer.num_processes}, process 0 as one of "
            f"{num_processes}",
            transient=False,
        )
    if (other := peers.get(peer.process_id)) is not None:
        return RendezvousError(
            f"{name} is there twice: also as pid {other.pid} on {other.host}", transient=False
        )
    return None


def _missing(peers: dict[int, Peer], num_processes: int, seconds: float) -> RendezvousError:
    missing = [process_id for process_id in range(num_processes) if process_id not in peers]
    listed = ", ".join(map(str, missing[:_MAX_LISTED]))
    more = ", …" if len(missing) > _MAX_LISTED else ""
    return RendezvousError(
        f"of {num_processes} processes {len(missing)} did not come within {seconds:g} s: "
        f"{listed}{more}"
    )


def _introduce(host: str, port: int, own: Peer, deadline: float, seconds: float) -> None:
    """The other processes' part: raises what process 0 answers, which comes when all are there."""
    problem = "not tried"
    while (left := deadline - time.monotonic()) > 0:
        try:
            with socket.create_connection((host, port), timeout=left) as connection:
                connection.sendall(json.dumps(dataclasses.asdict(own)).encode() + b"\n")
                # Process 0 may have started to wait later than this one.
                connection.settimeout(left + seconds)
                with connection.makefile("rb") as lines:
                    answer = lines.readline(_MAX_LINE_BYTES)
                if answer.endswith(b"\n"):
                    if failure := json.loads(answer):
                        raise RendezvousError(**failure)
                    return
                problem = "the connection was closed"
        except OSError as error:
            problem = error.strerror or str(error) or type(error).__name__
        time.sleep(min(_RETRY_SECONDS, max(0.0, left)))
    raise RendezvousError(
        f"process 0 could not be reached at {host}:{port} within {seconds:g} s ({problem})"
    )
