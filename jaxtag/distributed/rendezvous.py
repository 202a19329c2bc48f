"""All processes of a job say who they are to process 0, before JAX's runtime connects them.

That runtime ends a process whose peers do not come with SIGABRT and a stack trace; here each learns
who is missing, or who thinks of another job. Process 0 listens at the coordinator's port, each of
the others sends one line of JSON, and all get the same answer: nothing, or what is wrong.
"""

import contextlib
import dataclasses
import json
import os
import socket
import time
from typing import Any

_LONGEST = 1000  # bytes of a line
_STRANGER_SECONDS = 5.0  # for a connection that says nothing
_AGAIN_SECONDS = 0.2
_NAMED = 16  # processes in a message


@dataclasses.dataclass(frozen=True)
class Peer:
    """A process as it introduces itself."""

    index: int
    count: int
    host: str = dataclasses.field(default_factory=socket.gethostname)
    pid: int = dataclasses.field(default_factory=os.getpid)


class Failed(Exception):
    """The job did not come together; says why."""


def rendezvous(host: str, port: int, own: Peer, seconds: float) -> list[Peer]:
    """Waits until all processes are there.

    Args:
      host, port: where process 0 listens.
      own: this process.
      seconds: after which it is an error.

    Returns:
      All members, in order, to process 0; to the others themselves alone.

    Raises:
      Failed: somebody did not come, or does not mean the same job.
    """
    deadline = time.monotonic() + seconds
    if own.index == 0:
        return _host(port, own, deadline, seconds)
    answer = _ask(host, port, own, deadline, seconds)
    if answer:
        raise Failed(answer)
    return [own]


def _host(port: int, own: Peer, deadline: float, seconds: float) -> list[Peer]:
    members, waiting, problem = {0: own}, [], ""
    with _listen(port) as server:
        while len(members) < own.count and not problem:
            server.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                connection, _ = server.accept()
            except TimeoutError:
                problem = _absent(members, own.count, seconds)
                break
            member = _heard(connection)
            if member is None:
                connection.close()
                continue
            waiting.append(connection)
            problem = _contradiction(member, members, own.count)
            members[member.index] = member
        for connection in waiting:
            with contextlib.suppress(OSError), connection:
                connection.sendall(problem.encode() + b"\n")
    if problem:
        raise Failed(problem)
    return [members[index] for index in range(own.count)]


def _listen(port: int) -> socket.socket:
    try:
        if socket.has_dualstack_ipv6():
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        return socket.create_server(("", port))
    except OSError as error:
        raise Failed(f"process 0 cannot listen at port {port}: {error.strerror}") from error


def _heard(connection: socket.socket) -> Peer | None:
    """Who speaks; None for whoever is no process of a job."""
    connection.settimeout(_STRANGER_SECONDS)
    try:
        with connection.makefile("rb") as lines:
            said: Any = json.loads(lines.readline(_LONGEST))
        member = Peer(said["index"], said["count"], str(said["host"]), int(said["pid"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return member if isinstance(member.index, int) and isinstance(member.count, int) else None


def _contradiction(member: Peer, members: dict[int, Peer], count: int) -> str:
    told = f"process {member.index} (pid {member.pid} on {member.host})"
    if member.count != count:
        return f"{told} was started as one of {member.count}, process 0 as one of {count}"
    if (other := members.get(member.index)) is not None:
        return f"{told} is there twice: also as pid {other.pid} on {other.host}"
    return ""


def _absent(members: dict[int, Peer], count: int, seconds: float) -> str:
    absent = [index for index in range(count) if index not in members]
    named = ", ".join(map(str, absent[:_NAMED])) + (", …" if len(absent) > _NAMED else "")
    return f"of {count} processes {len(absent)} did not come within {seconds:g} s: {named}"


def _ask(host: str, port: int, own: Peer, deadline: float, seconds: float) -> str:
    """What process 0 answers; the first word comes when all are there."""
    problem = "nobody was asked"
    while (left := deadline - time.monotonic()) > 0:
        try:
            with socket.create_connection((host, port), timeout=left) as connection:
                connection.sendall(json.dumps(dataclasses.asdict(own)).encode() + b"\n")
                # Process 0 may have begun to wait later than we did.
                connection.settimeout(left + seconds)
                with connection.makefile("rb") as lines:
                    answer = lines.readline(_LONGEST)
                if answer.endswith(b"\n"):
                    return answer.decode().strip()
                problem = "the connection was closed"
        except OSError as error:
            problem = error.strerror or str(error) or type(error).__name__
        time.sleep(min(_AGAIN_SECONDS, max(0.0, left)))
    return f"process 0 could not be reached at {host}:{port} within {seconds:g} s ({problem})"
