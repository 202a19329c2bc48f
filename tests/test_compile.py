"""The command, with 8 CPU devices in place of others; and, slowly, with other compilers."""

import json
import re
import subprocess
import sys

import jax
import pytest
from calling import call

from jaxtag.perf.aot import topologies

CONFIG = """
import shrinking
from jaxtag.config import flags

def get_config():
    return shrinking.shrink(flags.load("imagenet_vit"))
"""
LIBTPU_VARIABLES = {"ALLOW_MULTIPLE_LIBTPU_LOAD", "TPU_ACCELERATOR_TYPE", "TPU_WORKER_HOSTNAMES"}
CONTRACT = {
    "devices",
    "fits",
    "memory_bytes_per_device",
    "flops_per_example",
    "hbm_bytes_per_example",
    "collectives",
    "compile_seconds",
}


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("configs") / "small.py"
    path.write_text(CONFIG)
    return f"--config={path}"


@pytest.fixture
def on_cpu(monkeypatch):
    monkeypatch.setattr(topologies, "devices", lambda topology: jax.devices()[: topology.size])


def test_what_it_prints_and_writes(config, tmp_path, on_cpu):
    files = [f"--{name}={tmp_path}/deep/{name}" for name in ("output", "html", "hlo", "executable")]
    done = call("compile", config, "--topology=v5e:2x4", *files)
    assert done.status == 0, done.err
    assert "8 x TPU v5e (v5e:2x4)" in done.out
    report = json.loads((tmp_path / "deep" / "output").read_text())
    assert set(report) >= CONTRACT
    assert (report["devices"], report["fits"], report["topology"]) == (8, True, "v5e:2x4")
    held = report["memory_bytes_per_device"]
    assert {"arguments", "temporaries", "outputs", "peak", "capacity"} <= set(held)
    assert set(report["collectives"]["all-reduce"]) >= {"count", "bytes"}
    assert 0 < report["schedule"]["waited_seconds"] < report["schedule"]["seconds"]
    assert '"phase": "backward"' in (tmp_path / "deep" / "html").read_text()
    assert (tmp_path / "deep" / "hlo").read_text().startswith("HloModule ")
    assert (tmp_path / "deep" / "executable").stat().st_size > 0
    assert not list(tmp_path.glob("deep/*.partial"))
    assert report["config"]["batch_size"] == report["batch_size"]
    other = {**report, "batch_size": 16, "compile_seconds": None}
    other["collectives"] = {}
    (tmp_path / "other.json").write_text(json.dumps(other))
    done = call("compile", "diff", tmp_path / "deep" / "output", tmp_path / "other.json")
    assert done.status == 0, done.err
    assert re.search(r"batch_size +\d+ +16", done.out) and "all-reduce" in done.out
    assert re.search(r"compilation +[\d.]+ s +unknown", done.out)


def test_a_diff_of_something_else_is_refused(tmp_path):
    (tmp_path / "a.json").write_text("{}")
    done = call("compile", "diff", tmp_path / "a.json", tmp_path / "a.json")
    assert (done.status, done.out) == (1, "") and "a.json is no analysis" in done.err
    done = call("compile", "diff", tmp_path / "a.json")
    assert done.status == 2 and "usage: jaxtag.compile diff OLD.json NEW.json" in done.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--topology=v5e:16x16"], "--config is missing (there are: "),
        (["--config=mnist_capsnet"], "--topology is missing, such as --topology=v5e:16x16"),
        (["--config=mnist_capsnet", "--topology=v5e:16x15"], "(the nearest is v5e:16x16)"),
        (["--config=mnist_capsnet", "--topology=v5e:2x2", "--slices=0"], "slices"),
        (
            ["--config=mnist_capsnet", "--topology=v5e:2x2", "--config.data.dataset=mine"],
            "config.data.dataset = 'mine' is not built in: say how many classes",
        ),
    ],
)
def test_wrong_use_is_one_line_that_names_it(arguments, message):
    done = call("compile", *arguments)
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("error: ") and done.err.count("\n") == 1
    assert message in done.err


def test_a_batch_that_does_not_split_over_the_devices(on_cpu):
    done = call("compile", "--config=mnist_capsnet", "--topology=v5e:2x4", "--config.batch_size=12")
    assert (done.status, done.out) == (1, "")
    assert "= 12 does not split over data x fsdp = 8 devices" in done.err


def test_without_the_compiler_it_says_how_to_get_it(monkeypatch):
    def absent(*_, **__):
        raise RuntimeError("no libtpu\nat all")

    monkeypatch.setattr(topologies.topologies, "get_topology_desc", absent)
    done = call("compile", "--config=mnist_capsnet", "--topology=v5e:2x2")
    assert (done.status, done.out) == (1, "")
    assert done.err.count("\n") == 1
    assert '(no libtpu). It comes with: pip install "jaxtag[tpu]"' in done.err


def test_importing_it_sets_no_variables_of_libtpu(monkeypatch):
    for name in LIBTPU_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    code = f"import os, jaxtag.compile; print({LIBTPU_VARIABLES} & os.environ.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.slow
@pytest.mark.parametrize("topology", ["v5e:2x2", "v4:2x2x1", "v5p:2x2x1", "v6e:2x2"])
def test_for_a_tpu(topology, config, tmp_path):
    pytest.importorskip("libtpu")
    output = tmp_path / "report.json"
    flags = ["--config.batch_size=8", f"--output={output}"]
    done = call("compile", config, f"--topology={topology}", *flags)
    assert done.status == 0, done.err
    report = json.loads(output.read_text())
    assert (report["devices"], report["fits"]) == (4, True)
    assert report["collectives"]["all-reduce"]["bytes"] < 1.05 * report["gradient_bytes"]
    assert report["program"]["donated buffers"] > 50


@pytest.mark.slow
def test_for_gpus(config, tmp_path):
    pytest.importorskip("jax_plugins.xla_cuda13")
    output = tmp_path / "report.json"
    flags = ["--config.batch_size=16", f"--output={output}"]
    done = call("compile", config, "--topology=h100:16", *flags)
    assert done.status == 0, done.err
    report = json.loads(output.read_text())
    assert (report["devices"], report["fits"]) == (16, True)
    assert report["xla"]["flops_per_example"] is None
    assert report["collectives"]["all-reduce"]["bytes"] < 1.05 * report["gradient_bytes"]
