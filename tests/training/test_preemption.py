"""Signals become a request to save and stop; a second Ctrl-C ends the process."""

import os
import signal
import socket
import subprocess
import sys
import textwrap

import pytest

from jaxtag.errors import ProcessLostError
from jaxtag.training.preemption import RESTART_STATUS, Preemption


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_sets_the_flag_and_handlers_come_back(number, request):
    own = signal.getsignal(number)
    request.addfinalizer(lambda: signal.signal(number, own))
    before = signal.default_int_handler
    signal.signal(number, before)  # of a suite under nohup SIGHUP would be ignored
    with Preemption() as preemption:
        assert not preemption.requested(0)
        os.kill(os.getpid(), number)
        assert preemption.requested(1)
        assert preemption.requested(2)
    assert signal.getsignal(number) is before


def test_handlers_come_back_after_an_error():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyError), Preemption():
        raise KeyError("from the loop")
    assert signal.getsignal(signal.SIGTERM) is before


def test_sigterm_twice_is_still_one_request():
    with Preemption() as preemption:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
        assert preemption.requested(1)


def test_a_hangup_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with Preemption() as preemption:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not preemption.requested(1)
    finally:
        signal.signal(signal.SIGHUP, before)


def _start(body: str) -> subprocess.Popen:
    script = textwrap.dedent(body)
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=os.getcwd(),
    )
    assert process.stdout.readline().strip() == "ready"
    return process


LOOP = """
    import sys, threading, time
    from jaxtag.training.preemption import RESTART_STATUS, Preemption
    threading.Thread(target=time.sleep, args=(60,)).start()  # as a writer in the background is
    with Preemption() as preemption:
        print("ready", flush=True)
        while {condition}:
            time.sleep(0.01)
    import os
    os._exit(RESTART_STATUS)
"""


def test_second_interrupt_kills_at_once():
    process = _start(LOOP.format(condition="True"))
    process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.3)
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == -signal.SIGINT


STUCK = """
    import sys, threading
    from jaxtag.training import preemption
    preemption._ONE_REQUEST_SECONDS = 0.0
    with preemption.Preemption({seconds}):
        print("ready", flush=True)
        lock = threading.Lock()
        with lock:
            lock.acquire()  # for ever, in C
"""


def test_a_second_sigterm_ends_a_process_that_is_stuck():
    process = _start(STUCK.format(seconds=300))
    process.send_signal(signal.SIGTERM)
    assert process.stderr.readline().startswith("SIGTERM: saves and stops at the next step")
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 128 + signal.SIGTERM
    assert "SIGTERM for the second time: ends without saving" in process.stderr.read()


def test_one_sigterm_ends_a_process_in_which_nothing_moves():
    process = _start(STUCK.format(seconds=0.5))
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == ProcessLostError.exit_status
    assert "nothing has moved for 0.5 s: this process hangs" in process.stderr.read()


def test_exit_status():
    process = _start(LOOP.format(condition="not preemption.requested(1)"))
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == RESTART_STATUS == 75


MANY = """
    import os, sys, time
    import jax
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize("127.0.0.1:{port}", 2, int(sys.argv[1]), initialization_timeout=60)
    from jaxtag.training.preemption import Preemption
    with Preemption() as preemption:
        print("ready", flush=True)
        for step in range(3000):
            if preemption.requested(step):
                break
            time.sleep(0.01)
    print("stopped at", step, flush=True)
    jax.distributed.shutdown()
"""


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_processes_agree_on_the_step(number, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = tmp_path / "run.py"
    script.write_text(textwrap.dedent(MANY.format(port=port)))
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "XLA_FLAGS": ""}
    processes = [
        subprocess.Popen(
            [sys.executable, script, str(index)],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for index in range(2)
    ]
    for process in processes:
        assert process.stdout.readline().strip() == "ready"
    processes[1].send_signal(number)
    lines = [process.communicate(timeout=60)[0].strip() for process in processes]
    assert lines[0] == lines[1]
    assert 0 <= int(lines[0].split()[-1]) < 2999
