"""launch/tpu_pod.sh with a gcloud that runs what it is given on stand-ins for workers."""

import subprocess

import pytest
from machines import Machines, close_script

SLICE = ["--name=mine", "--zone=us-west4-a", "--type=v5litepod-16"]


@pytest.fixture
def pod(tmp_path):
    """A slice of two workers."""
    machines = Machines(tmp_path, "tpu_pod.sh", ["mine-w0", "mine-w1"])
    yield machines
    machines.close()


@pytest.fixture
def train(tmp_path):
    return ["train", "--config=a b", f"--workdir={tmp_path / 'run'}"]


def lives(session: str) -> bool:
    """Whether a session has a process that is not dead."""
    command = ["pgrep", "-s", session.strip(), "--runstates", "R,S,D,T"]
    return subprocess.run(command, capture_output=True).returncode == 0


def test_slices_are_requested_and_the_run_lives_on_old_pythons(pod, train, tmp_path):
    (pod.stubs / "states").write_text("ABSENT\nWAITING_FOR_RESOURCES\nPROVISIONING\nACTIVE\n")
    options = ["--spot", "--service-account=me@p", "--network=n", "--project=p", "--delete"]
    done = pod(*SLICE, *options, *train)
    assert done.returncode == 0, done.stderr
    (created,) = pod.seen("queued-resources create")
    for flag in ("--node-id=mine", "--accelerator-type=v5litepod-16", *options[:-1]):
        assert flag in created
    assert "--runtime-version=v2-alpha-tpuv5-lite" in created
    assert all("--project=p" in line for line in pod.seen("queued-resources"))
    assert pod.seen("queued-resources delete mine")
    for worker in (0, 1):
        assert "--python 3.11" in pod.ran(worker, "uv|")[0]
        assert "--editable .[tpu]" in pod.ran(worker, "pip|")[-1]
        (run,) = pod.ran(worker)
        workdir = tmp_path / "run"
        flags = f"--config=a b --workdir={workdir}"
        assert run == f"run|tpu,cpu|mine|{workdir}/compiled|-m jaxtag.train {flags}"
    logs = [path.read_text() for path in (tmp_path / "run" / "logs").iterdir()]
    assert len(logs) == 2 and all("says -m jaxtag.train" in log for log in logs)
    assert "says -m jaxtag.train" in done.stderr  # it followed


def test_it_installs_again_only_what_has_changed(pod, train):
    assert pod(*SLICE, *train).returncode == 0
    assert pod.seen("tpu-vm scp")
    assert pod(*SLICE, *train).returncode == 0
    assert not pod.seen("tpu-vm scp") and len(pod.ran(0, "uv|")) == 1
    (pod.root / "jaxtag" / "train.py").write_text("x = 1\n")
    (pod.root / "jaxtag" / "gone.py").touch()
    assert pod(*SLICE, *train).returncode == 0
    assert pod.seen("tpu-vm scp") and len(pod.ran(0, "uv|")) == 1
    (pod.root / "jaxtag" / "gone.py").unlink()
    assert pod(*SLICE, *train).returncode == 0
    copied = pod.homes[1] / "jaxtag" / "jaxtag"
    assert (copied / "train.py").read_text() == "x = 1\n" and not (copied / "gone.py").exists()


def test_closed_and_opened_again_it_follows_the_same_run(pod, train):
    for worker in (0, 1):
        pod.end(worker, "wait")
    script = pod.start(*SLICE, *train)
    pod.until(lambda: pod.ran(0) and pod.ran(1))
    close_script(script)
    other = pod(*SLICE, "train", "--config=b")
    assert other.returncode == 1 and "another command runs there" in other.stderr
    script = pod.start(*SLICE, *train)
    for home in pod.homes:
        (home / "go").write_text("0")
    _, err = script.communicate(timeout=40)
    assert script.returncode == 0, err
    assert "says -m jaxtag.train" in err
    assert len(pod.ran(0)) == len(pod.ran(1)) == 1


def test_told_to_stop_the_run_saves(pod, train):
    for worker in (0, 1):
        pod.end(worker, "wait")
    script = pod.start(*SLICE, *train)
    pod.until(lambda: pod.ran(0) and pod.ran(1))
    close_script(script)
    assert pod(*SLICE[:2], "--stop").returncode == 0
    for home in pod.homes:
        assert (home / "jaxtag-run" / "status").read_text() == "75\n"


@pytest.mark.parametrize(
    ("endings", "status", "runs"),
    [
        ((["75 10", "134 10", "0 20"], ["75 10", "75 10", "0 20"]), 0, 3),
        ((["70"] * 5, ["70"] * 5), 70, 3),  # three starts without progress
        ((["70 1", "70 2", "70 3", "0 4"], ["70 1", "70 2", "70 3", "0 4"]), 0, 4),
        ((["1"], ["wait"]), 1, 1),  # a failure of one ends the other
        ((["2"], ["2"]), 2, 1),
        ((["137 1", "137 1", "137 1"], ["wait"]), 137, None),  # one that never comes back
    ],
)
def test_workers_start_again_or_end(pod, train, endings, status, runs):
    for worker, lines in enumerate(endings):
        pod.end(worker, *lines)
    done = pod(*SLICE, *train)
    assert done.returncode == status, done.stderr
    assert runs is None or len(pod.ran(0)) == runs
    for home in pod.homes:
        session = (home / "jaxtag-run" / "pid").read_text()
        pod.until(lambda session=session: not lives(session))


def test_what_a_killed_run_left_is_ended_first(pod, train):
    """The supervisor is gone, and a process of it still holds the device."""
    home = pod.homes[0]
    left = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    (home / "jaxtag-run").mkdir()
    leader = subprocess.run(
        ["setsid", "bash", "-c", "sleep 1000 >/dev/null 2>&1 & echo $$"],
        capture_output=True,
        text=True,
    ).stdout
    (home / "jaxtag-run" / "pid").write_text(leader)
    assert lives(leader)
    assert pod(*SLICE, *train).returncode == 0
    assert not lives(leader)
    assert left.poll() is None  # another's
    left.kill()
    left.wait()


def test_slices_that_were_taken_away_are_requested_again(pod, train):
    for worker in (0, 1):
        pod.end(worker, "wait", "0")
    script = pod.start(*SLICE, "--spot", *train)
    pod.until(lambda: pod.ran(0) and pod.ran(1))
    (pod.stubs / "states").write_text("SUSPENDED\nSUSPENDED\nSUSPENDED\nABSENT\nACTIVE\n")
    pod.close()  # the workers are gone, with all that they held
    for home in pod.homes:
        subprocess.run(["rm", "-rf", home / "jaxtag", home / "jaxtag-run"], check=True)
    _, err = script.communicate(timeout=40)
    assert script.returncode == 0, err
    assert "machines were taken away" in err
    assert len(pod.seen("queued-resources create")) == 1 and pod.seen("queued-resources delete")
    assert len(pod.ran(1)) == 2


def test_a_worker_that_was_made_anew_joins_again(pod, train):
    """As maintenance does: the slice stays active, and one machine has lost everything."""
    for worker in (0, 1):
        pod.end(worker, "wait", "0")
    script = pod.start(*SLICE, *train)
    pod.until(lambda: pod.ran(0) and pod.ran(1))
    home = pod.homes[1]
    subprocess.run(["pkill", "-KILL", "-s", (home / "jaxtag-run" / "pid").read_text().strip()])
    subprocess.run(["rm", "-rf", home / "jaxtag", home / "jaxtag-run"], check=True)
    _, err = script.communicate(timeout=40)
    assert script.returncode == 0, err
    assert len(pod.ran(0)) == len(pod.ran(1)) == 2
    assert len(pod.ran(1, "uv|")) == 2 and not pod.seen("queued-resources create")


def test_several_slices_train_together(tmp_path, train):
    names = ["mine-0-w0", "mine-0-w1", "mine-1-w0", "mine-1-w1"]
    pod = Machines(tmp_path, "tpu_pod.sh", names)
    (pod.stubs / "states").write_text("ABSENT\nACTIVE\n")
    done = pod(*SLICE, "--node-count=2", "--reserved", *train)
    pod.close()
    assert done.returncode == 0, done.stderr
    (created,) = pod.seen("queued-resources create")
    assert "--node-count=2 --node-prefix=mine" in created and "--reserved" in created
    assert "--node-id" not in created
    assert all(len(pod.ran(worker)) == 1 for worker in range(4))


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("stubs/refuse", "the slices could not be requested"),
        ("machines/mine-w1/broken", "installing or starting failed"),
        ("stubs/unreachable", "installing or starting failed"),
    ],
)
def test_what_does_not_mend_ends_with_a_reason(pod, train, tmp_path, file, message):
    (pod.stubs / "states").write_text("ABSENT\nACTIVE\n")
    (tmp_path / file).touch()
    done = pod(*SLICE, *train)
    assert done.returncode == 1
    assert message in done.stderr
    assert not pod.ran(0)


def test_workers_that_do_not_answer_end_the_script_and_not_the_run(pod, train):
    for worker in (0, 1):
        pod.end(worker, "wait")
    script = pod.start(*SLICE, *train)
    pod.until(lambda: pod.ran(0) and pod.ran(1))
    (pod.stubs / "unreachable").touch()
    _, err = script.communicate(timeout=40)
    assert script.returncode == 1
    assert "the machines do not answer; the run may live" in err
    assert not (pod.homes[0] / "jaxtag-run" / "status").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train"], "--name is missing"),
        (SLICE[:2], "--type is missing"),
        ([*SLICE, "--fast", "train"], "unknown option --fast"),
        ([*SLICE, "nothing"], "no command 'nothing'"),
        ([*SLICE, "--node-count=0", "train"], "--node-count=0 is not a number above 0"),
        ([*SLICE[:2], "--type=v9-8", "train"], "--type=v9-8: no software is known"),
    ],
)
def test_wrong_use(pod, arguments, message):
    done = pod(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert not pod.seen("")
