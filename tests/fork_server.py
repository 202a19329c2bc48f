"""Runs commands in forks of one process that has imported all they need: a start costs no imports.

Reads a request a line from stdin, JSON, and answers with a line. A request is

    {"argv": [[…], …],          the command line of each process that starts
     "folder": "…",             where each writes N.out, N.err and N.calls
     "seconds": 60,             after which what still runs is killed
     "watched": "…",            the folder whose changes write_faults.c counts
     "faults": [first, last, error],
     "kills": {"0": 1.5}}       process -> seconds after its start at which SIGKILL ends it

and the answer {"statuses": […], "seconds": 1.2, "timed_out": false}.
"""

import contextlib
import ctypes
import json
import os
import signal
import sys
import time
import warnings

_POLL_SECONDS = 0.01
_DUMP_SECONDS = 5.0  # for faulthandler to write where a process hangs


def main() -> None:
    warnings.filterwarnings("ignore", message=".*os.fork.*")
    _import_commands()
    requests = sys.stdin
    print(json.dumps("ready"), flush=True)
    for line in requests:
        request = json.loads(line)
        children = []
        for index, argv in enumerate(request["argv"]):
            if not (child := os.fork()):
                requests.close()
                _run(argv, index, request)
            children.append(child)
        print(json.dumps(_wait(children, request)), flush=True)


def _import_commands() -> None:
    import jax

    import jaxtag.annotate
    import jaxtag.api
    import jaxtag.compile
    import jaxtag.datasets.custom
    import jaxtag.evaluate
    import jaxtag.index
    import jaxtag.prepare
    import jaxtag.tag_index
    import jaxtag.train
    import jaxtag.weights.__main__  # noqa: F401
    from jaxtag.perf.aot import topologies

    # Compilers for other hardware may not be installed, and start slowly.
    topologies.devices = lambda topology: jax.devices()[: topology.size]


def _run(argv: list[str], index: int, request: dict) -> None:
    """The rest of a child: the command, as the process of a user runs it."""
    os.setsid()
    stem = os.path.join(request["folder"], str(index))
    for descriptor, path in ((0, os.devnull), (1, f"{stem}.out"), (2, f"{stem}.err")):
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
        os.dup2(file, descriptor)
        os.close(file)
    if shim := os.environ.get("LD_PRELOAD"):
        first, last, error = request.get("faults", (0, 0, 0))
        arm = ctypes.CDLL(shim).write_faults_arm
        watched, calls = os.fsencode(request["watched"]), os.fsencode(f"{stem}.calls")
        arm(watched, ctypes.c_long(first), ctypes.c_long(last), error, calls)
    from jaxtag import __main__

    sys.argv = ["jaxtag", *argv]
    # Not to be caught on the way out of `main` above.
    __main__.main()


def _wait(children: list[int], request: dict) -> dict:
    began = time.monotonic()
    kills = {int(index): seconds for index, seconds in request.get("kills", {}).items()}
    statuses: dict[int, int] = {}
    timed_out = False
    while len(statuses) < len(children):
        for index, child in enumerate(children):
            if index in statuses:
                continue
            if index in kills and time.monotonic() - began >= kills[index]:
                _signal(child, signal.SIGKILL)
                del kills[index]
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                statuses[index] = os.waitstatus_to_exitcode(status)
                _signal(child, signal.SIGKILL)  # its workers
        if time.monotonic() - began > request["seconds"]:
            late = signal.SIGABRT if not timed_out else signal.SIGKILL
            if not timed_out or time.monotonic() - began > request["seconds"] + _DUMP_SECONDS:
                for index, child in enumerate(children):
                    if index not in statuses:
                        _signal(child, late)
            timed_out = True
        time.sleep(_POLL_SECONDS)
    return {
        "statuses": [statuses[index] for index in range(len(children))],
        "seconds": time.monotonic() - began,
        "timed_out": timed_out,
    }


def _signal(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


if __name__ == "__main__":
    main()
