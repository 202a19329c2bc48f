"""What depends on the arrays of all processes is the same for two as for one."""

import json
from pathlib import Path

import jobs
import numpy as np
import pytest

PROGRAM = str(Path(__file__).with_name("global_steps.py"))


def step_values(processes: int) -> dict[str, list[float]]:
    job = jobs.start(PROGRAM, processes=processes)
    outputs = [process.communicate(timeout=jobs.SECONDS) for process in job.processes]
    assert [process.returncode for process in job.processes] == [0] * processes, outputs
    return json.loads(outputs[0][0].splitlines()[-1])  # Gloo writes to stdout too


@pytest.mark.slow
def test_two_processes_find_what_one_finds(monkeypatch):
    # XLA's CPU devices share a pool of as many threads as there are cores: on two cores four of
    # them waited for each other for ever, two in one exchange and two in another.
    monkeypatch.setenv("NPROC", "8")
    alone, together = step_values(1), step_values(2)
    assert len(alone) == 5
    for name, values in alone.items():
        np.testing.assert_allclose(together[name], values, rtol=1e-4, err_msg=name)
