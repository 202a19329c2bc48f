"""SIGKILL at any moment: the same command, run again, ends with the bits of an unbroken run.

Half of the kills come at a random time, half at a random call that changes a file, which may have
written half. `JAXTAG_TEST_KILLS` says how many kills all commands meet together.
"""

import dataclasses
import os
import random
import signal
from collections.abc import Iterator

import durable_commands
import forks
import pytest
from durable_commands import COMMANDS, Inputs, Trials
from forks import Ended, Faults, ForkServer

from jaxtag.errors import ProcessLostError

KILLS = int(os.environ.get("JAXTAG_TEST_KILLS", "300"))
TRAIN = COMMANDS["train"]
# Command -> its share of the kills.
SHARES = {
    "train": 0.25,
    "train, two processes": 0.1,
    "prepare": 0.15,
    "annotate": 0.15,
    "index build": 0.1,
    "index add": 0.1,
    "index remove": 0.15,
}
MAX_IN_ROW = 4  # kills before the command may end
# Of a process that is killed; of one that ends by itself, before or because the other was killed.
STATUSES = {-signal.SIGKILL, 0, ProcessLostError.exit_status, -signal.SIGABRT}


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    with forks.fork_server() as started:
        yield started


@pytest.fixture(scope="module")
def inputs(server, tmp_path_factory) -> Inputs:
    return durable_commands.make_inputs(server, tmp_path_factory.mktemp("inputs"))


@pytest.mark.slow
@pytest.mark.parametrize("name", SHARES)
def test_killed_and_run_again(server, inputs, tmp_path, name):
    single = COMMANDS.get(name)
    command = single or dataclasses.replace(TRAIN, processes=durable_commands.two_processes)
    trials = Trials(server, command, inputs, tmp_path)
    moments, kills, failed = random.Random(name), 0, []
    while kills < KILLS * SHARES[name]:
        target = trials.start()
        for _ in range(moments.randint(1, MAX_IN_ROW)):
            ended = trials.run(target, **_kill(moments, trials.unbroken))
            kills += ended.statuses.count(-signal.SIGKILL)
            if ended.timed_out or not set(ended.statuses) <= {*STATUSES, int(command.once)}:
                failed.append(f"statuses {ended.statuses}: {ended.err}")
                print(failed[-1], flush=True)
        left = trials.command.result(target)
        wrong = [] if command.parts(left, trials.whole, trials.before) else ["half output"]
        if wrong := wrong + trials.finish(target, left):
            failed.append("\n  ".join([f"before kill {kills}", *wrong]))
            print(failed[-1], flush=True)
    print(f"{name}: {kills} kills, {len(failed)} failed")
    assert not failed


def _kill(moments: random.Random, unbroken: Ended) -> dict:
    """When to kill, as `ForkServer.run` takes it: at a time, or at a call."""
    if unbroken.calls and moments.random() < 0.5:
        number = moments.randint(1, len(unbroken.calls))
        return {"faults": Faults(number, number, forks.KILL)}
    # One process, or all at once, as a machine that loses its power.
    indices = range(len(unbroken.statuses))
    victims = indices if moments.random() < 0.5 else [moments.choice(indices)]
    return {"kills": dict.fromkeys(victims, moments.uniform(0, unbroken.seconds))}
