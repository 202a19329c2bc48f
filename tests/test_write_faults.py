"""Storage that fails at the n-th write: no command hangs, nothing half is taken for whole.

A shim makes one call fail that changes a file, or all from there on, with ENOSPC, EIO or EROFS.
Judged: the command ends in time with one line and a documented status; what it leaves is whole, and
the same command without a fault ends as one that never met one.
"""

import errno
import itertools
import os
import random
import re
from collections.abc import Iterator
from pathlib import Path

import durable_commands
import forks
import pytest
from durable_commands import COMMANDS, Inputs, Trials, difference
from forks import Ended, Faults, ForkServer

from jaxtag.errors import storage_error_kind

FOREVER = 2**31
_KEYWORDS = re.compile(
    r"\.xmp cannot be written: .*\n.* \d+ sidecar file\(s\) could not be written"
)
# A trial that the sweep of a command makes, at most; each kind of call and file is met first.
MAX_TRIALS = int(os.environ.get("JAXTAG_TEST_FAULTS", "300"))


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    with forks.fork_server() as started:
        yield started


@pytest.fixture(scope="module")
def inputs(server, tmp_path_factory) -> Inputs:
    return durable_commands.make_inputs(server, tmp_path_factory.mktemp("inputs"))


def try_fault(trials: Trials, faults: Faults) -> list[str]:
    """Runs with a fault, then without; what is wrong, in words."""
    target = trials.start()
    ended = trials.run(target, faults=faults)
    wrong, left = _judge_end(ended, target, faults.error), None
    try:
        left = trials.command.result(target)
        if ended.status == 0 and left != trials.whole:
            wrong.append(f"status 0, and other output: {difference(left, trials.whole)}")
        if not trials.command.parts(left, trials.whole, trials.before):
            wrong.append(f"half output: {difference(left, trials.whole)}")
    except Exception as error:
        wrong.append(f"what it left cannot be read: {type(error).__name__}: {error}")
    return wrong + trials.finish(target, left)


def _judge_end(ended: Ended, target: Path, error: int) -> list[str]:
    if ended.timed_out:
        return [f"hangs\n{ended.err}"]
    if ended.status == 0:
        return []
    wrong = []
    if ended.status == 1 and _KEYWORDS.search(ended.err):
        return []  # sidecars are counted, and do not end the run
    if ended.status != storage_error_kind(error).exit_status:
        wrong.append(f"status {ended.status}")
    messages = [line for line in ended.err.splitlines() if line.startswith("error: ")]
    if "Traceback" in ended.err or len(messages) != 1:
        wrong.append(f"not one line:\n{ended.err[-3000:]}")
    elif str(target) not in messages[0]:
        wrong.append(f"no file is named: {messages[0]}")
    return wrong


def plan(ended: Ended, seed: int) -> list[Faults]:
    """The trials of a sweep, the most telling first.

    The first and the last call of each kind, each with another error and by turns alone or with all
    that follow; then the others.
    """
    by_kind: dict[str, list[int]] = {}
    for number, made in enumerate(ended.calls, start=1):
        by_kind.setdefault(made.kind, []).append(number)
    ends = dict.fromkeys(n for numbers in by_kind.values() for n in (numbers[0], numbers[-1]))
    modes = list(itertools.product((errno.ENOSPC, errno.EIO, errno.EROFS), (True, False)))
    others = [n for n in range(1, len(ended.calls) + 1) if n not in ends]
    order = random.Random(seed)
    order.shuffle(others)
    rounds = [*ends, *others]
    trials = []
    for turn in range(len(modes)):
        for position, number in enumerate(rounds):
            error, once = modes[(position + turn) % len(modes)]
            trials.append(Faults(number, number if once else FOREVER, error))
    return trials


def test_an_index_survives_faults(server, tmp_path):
    inputs = durable_commands.make_inputs(server, tmp_path, trained=False)
    folder = tmp_path / "trials"
    folder.mkdir()
    trials = Trials(server, COMMANDS["index add"], inputs, folder)
    calls = [call.kind for call in trials.unbroken.calls]
    moments = [
        ("open64 /vectors-H.npy.H.partial", errno.EROFS, False),
        ("write /vectors-H.npy.H.partial", errno.ENOSPC, False),
        ("write /journal-N.jsonl", errno.ENOSPC, True),
        ("fsync /journal-N.jsonl", errno.EIO, True),
    ]
    for kind, error, once in moments:
        first = calls.index(kind) + 1
        assert not try_fault(trials, Faults(first, first if once else FOREVER, error))


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_sweep(server, inputs, tmp_path, name):
    trials = Trials(server, COMMANDS[name], inputs, tmp_path)
    planned = plan(trials.unbroken, seed=0)[:MAX_TRIALS]
    failed = []
    for faults in planned:
        if wrong := try_fault(trials, faults):
            made = trials.unbroken.calls[faults.first - 1]
            how = "once" if faults.last == faults.first else "from there on"
            number = f"{os.strerror(faults.error)} at call {faults.first} {how}: {made.kind}"
            failed.append("\n  ".join([number, *wrong]))
            print(failed[-1], flush=True)
    print(f"{name}: {len(planned)} trials at {len(trials.unbroken.calls)} calls")
    assert not failed, f"{len(failed)} of {len(planned)}"
