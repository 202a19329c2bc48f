"""The command, on a small captioner: what it leaves, and that its figures agree with each other."""

import errno
import json
import os

import jax
import jobs
import pytest
from calling import call

from jaxtag.perf import hardware, hlo
from jaxtag.perf.profile import measure


@pytest.fixture(scope="module", autouse=True)
def settings():
    """What the command sets for its process; peaks are measured with small arrays."""
    name = "jax_compilation_cache_include_metadata_in_key"
    before = getattr(jax.config, name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hardware, "_MATRIX_SIDE", 256)
        patch.setattr(hardware, "_TRIAD_SIZE", 2**18)
        yield
    jax.config.update(name, before)


@pytest.fixture(scope="module")
def profiled(own_config, tmp_path_factory, settings, one_device):
    workdir = tmp_path_factory.mktemp("profiled")
    few = ["--steps=4", "--trace_steps=2"]
    done = call("profile", f"--config={own_config}", f"--workdir={workdir}", *few)
    assert done.status == 0, done.err
    return workdir, done, json.loads((workdir / "profile" / "profile.json").read_text())


def test_what_it_leaves(profiled):
    workdir, done, _ = profiled
    left = {path.name for path in (workdir / "profile").iterdir()}
    assert {"profile.json", "profile.html", "trace", "tokenizer.json"} <= left
    assert "checkpoint" not in left and not (workdir / "checkpoints").exists()
    assert list((workdir / "profile" / "trace").glob("plugins/profile/*/*.xplane.pb"))
    for name in ("step.before.hlo.txt", "step.after.hlo.txt"):
        program = hlo.parse((workdir / "profile" / name).read_text())
        assert program.frames and len(program.instructions) > 1000
    assert done.out.endswith(f"{workdir}/profile/profile.html\n")
    assert "of the kernels' time has a part" in done.out


def test_times_add_up(profiled):
    _, _, profile = profiled
    step = profile["step"]
    parts = [step[name] for name in ("data", "host", "device", "checkpoint")]
    assert min(parts) >= 0 and step["device"] > 0 and step["checkpoint"] > 0
    assert step["seconds"] == pytest.approx(sum(parts))
    each = sum(step["each"]) / len(step["each"])
    assert len(step["each"]) == 4 and each == pytest.approx(sum(parts[:3]))
    assert step["images_per_second"] == pytest.approx(8 / step["seconds"])
    ran = sum(kernel["seconds"] for kernel in profile["kernels"])
    assert 0 < ran <= step["traced_device"]
    assert sum(part["seconds"] for part in profile["parts"]) == pytest.approx(ran)


def test_kernels_have_their_parts_lines_and_costs(profiled):
    _, _, profile = profiled
    kernels = profile["kernels"]
    ran = sum(kernel["seconds"] for kernel in kernels)
    of_a_part = sum(kernel["seconds"] for kernel in kernels if kernel["part"])
    assert of_a_part > 0.95 * ran
    products = [kernel for kernel in kernels if kernel["opcode"] == "dot"]
    assert products and all(kernel["line"] and kernel["flops"] for kernel in products)
    modules = {kernel["module"] for kernel in kernels}
    assert {"encoder/block_0/mlp/fc1", "decoder/block_0/qkv"} <= modules
    assert {"forward", "backward"} <= {kernel["phase"] for kernel in kernels}
    counted = sum(kernel["flops"] for kernel in kernels)
    flops = profile["costs"]["flops"]
    assert counted == pytest.approx(flops["xla"], rel=0.2)
    assert 0.2 < flops["analytic"] / flops["xla"] < 1.5


def test_memory_and_compilation(profiled):
    _, _, profile = profiled
    planned, largest = profile["memory"]["planned"], profile["memory"]["largest"]
    state = ("parameters", "collections", "optimizer", "moving average", "batch")
    assert planned["arguments"] == pytest.approx(sum(planned[name] for name in state), rel=0.01)
    assert planned["peak"] > planned["temporaries"] > 0
    sizes = [row["bytes"] for row in largest]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > 0
    assert any(row["line"].startswith(("jaxtag/models/", "jaxtag/kernels/")) for row in largest)
    assert profile["compilation"]["recompilations"] == []


def test_the_difference_to_itself(profiled):
    workdir, _, _ = profiled
    done = call("profile", "diff", workdir, workdir / "profile" / "profile.json")
    assert done.status == 0, done.err
    assert done.out.startswith("the same settings\n") and "part of the step" in done.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--config is missing (there are: "),
        (["--config=shapes_caption"], "--workdir is missing"),
        (["diff", "one"], "usage: jaxtag.profile diff OLD NEW"),
        (["--config=shapes_caption", "--workdir={tmp}/w", "--data=noise"], "data"),
        (["--config=shapes_caption", "--workdir={tmp}/w", "--steps=1"], "steps"),
    ],
)
def test_wrong_use_is_one_line(arguments, message, tmp_path):
    done = call("profile", *(argument.format(tmp=tmp_path) for argument in arguments))
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("error: ") and message in done.err


def test_a_full_disk_is_told_in_one_line(tmp_path, monkeypatch):
    def fails(number):
        def prepare(*_, **__):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(measure, "prepare", prepare)
        return call("profile", "--config=shapes_caption", f"--workdir={tmp_path}")

    done = fails(errno.ENOSPC)
    assert done.status == 1
    assert done.err == f"error: {tmp_path}/profile cannot be written: No space left on device\n"
    done = fails(errno.EIO)  # which starting again may mend
    assert done.status == 70 and "Input/output error" in done.err


def test_a_profile_that_is_not_there(tmp_path):
    done = call("profile", "diff", tmp_path, tmp_path)
    assert done.status == 1 and done.err.startswith(f"error: {tmp_path}: no profile.json is there")


@pytest.mark.slow
def test_two_processes(own_config, tmp_path):
    """One profile, of the devices of the first, with the counts of the step over all."""
    few = ["--steps=4", "--trace_steps=2", "--data=random"]
    job = jobs.start("profile", f"--config={own_config}", f"--workdir={tmp_path}", *few)
    assert job.wait() == [0, 0], job.errors
    profile = json.loads((tmp_path / "profile" / "profile.json").read_text())
    assert (profile["device"]["count"], profile["device"]["processes"]) == (4, 2)
    assert profile["kernels"] and len(profile["step"]["each"]) == 4
    assert len(list((tmp_path / "profile" / "trace").glob("plugins/profile/*/*.xplane.pb"))) == 1
    assert not (tmp_path / "profile" / "checkpoint").exists()
