"""Steps of a running training that are profiled."""

import json

import jax
import pytest
from tiny import tiny_config

from jaxtag import api
from jaxtag.config import checks, schema
from jaxtag.errors import UsageError
from jaxtag.perf import hardware
from jaxtag.perf.profile import step_profiler


def test_the_page_of_a_few_steps(tiny_data, tmp_path, monkeypatch, one_device):
    monkeypatch.setattr(hardware, "_MATRIX_SIDE", 64)
    monkeypatch.setattr(hardware, "_TRIAD_SIZE", 2**12)
    config = tiny_config(tiny_data, total_steps=4, evaluate_every=4, profile_steps=(2, 3))
    outcome = api.fit(config, tmp_path)
    assert int(outcome.state.step) == 4
    folder = tmp_path / "profile" / "steps-2-3" / "process-0"
    profile = json.loads((folder / "profile.json").read_text())
    assert len(profile["step"]["each"]) == 2 and profile["step"]["device"] > 0
    ran = sum(kernel["runs"] for kernel in profile["kernels"] if kernel["opcode"] == "fusion")
    assert ran > 0 and all(kernel["seconds"] >= 0 for kernel in profile["kernels"])
    assert sum(kernel["seconds"] for kernel in profile["kernels"]) > 0
    assert {"profile.html", "step.before.hlo.txt", "step.after.hlo.txt"} <= {
        path.name for path in folder.iterdir()
    }


def test_a_resumed_run_records_what_is_left():
    config = schema.Config(total_steps=9, profile_steps=(5, 7))
    assert step_profiler._remaining(config, 0) == (5, 7)
    assert step_profiler._remaining(config, 5) == (6, 7)
    assert step_profiler._remaining(config, 7) is None


@pytest.mark.parametrize("steps", [(0, 3), (5, 4)])
def test_wrong_steps_are_named(steps):
    with pytest.raises(UsageError, match=r"config.profile_steps = .*: must be a first step of"):
        checks.check(schema.Config(total_steps=9, profile_steps=steps))


def test_a_server_for_other_tools(monkeypatch, tmp_path):
    ports = []
    monkeypatch.setattr(jax.profiler, "start_server", ports.append)
    profiler = step_profiler.StepProfiler()

    class Setup:
        config = schema.Config(total_steps=1, profiler_port=9012)

    profiler.on_start(Setup(), tmp_path, 0)
    profiler.on_step(1, None, {})
    assert ports == [9012] and not list(tmp_path.iterdir())
