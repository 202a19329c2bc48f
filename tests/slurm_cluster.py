"""A Slurm of one node on this machine, with everything that it writes in one folder; needs root."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from jobs import free_port

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol")
_UP_SECONDS = 120


def is_there() -> bool:
    """Whether Debian's slurm-wlm and munge are installed, and we may start them."""
    return os.geteuid() == 0 and all(map(shutil.which, PROGRAMS))


@contextmanager
def cluster(folder: Path, tasks: int) -> Iterator[dict[str, str]]:
    """Starts munged, slurmctld and slurmd; gives the environment in which sbatch finds them.

    Args:
      tasks: that may run at once, whatever the machine's cores.
    """
    socket_path = _short(folder) / "munge.socket"
    configuration = folder / "slurm.conf"
    configuration.write_text(_configuration(folder, socket_path, tasks))
    environment = {**os.environ, "SLURM_CONF": str(configuration)}
    with ExitStack() as stack:
        for command in (
            _munged(folder, socket_path),
            ["slurmctld", "-D", "-i"],
            ["slurmd", "-D"],
        ):
            log = stack.enter_context((folder / f"{command[0]}.log").open("w"))
            started = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            stack.callback(started.wait)
            stack.callback(started.terminate)
        stack.callback(shutil.rmtree, socket_path.parent, ignore_errors=True)
        _wait_until_idle(environment, folder)
        yield environment


def _short(folder: Path) -> Path:
    """A path of a socket has at most 107 characters."""
    short = Path(f"/run/jaxtag-{os.getpid()}")
    short.mkdir(mode=0o755)
    return short


def _munged(folder: Path, socket_path: Path) -> list[str]:
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    return [
        "munged",
        "--foreground",
        "--force",  # the folder of a test belongs to whom it does
        f"--key-file={key}",
        f"--socket={socket_path}",
        f"--pid-file={folder / 'munged.pid'}",
        f"--log-file={folder / 'munged.messages'}",
        f"--seed-file={folder / 'munged.seed'}",
    ]


def _configuration(folder: Path, socket_path: Path, tasks: int) -> str:
    host = socket.gethostname().split(".")[0]
    for name in ("state", "spool"):
        (folder / name).mkdir()
    return f"""
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={socket_path}
CryptoType=crypto/munge
SlurmctldPort={free_port()}
SlurmdPort={free_port()}
StateSaveLocation={folder / "state"}
SlurmdSpoolDir={folder / "spool"}
SlurmctldPidFile={folder / "slurmctld.pid"}
SlurmdPidFile={folder / "slurmd.pid"}
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
KillWait=30
NodeName={host} NodeAddr=127.0.0.1 CPUs={tasks} State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def _wait_until_idle(environment: dict[str, str], folder: Path) -> None:
    deadline = time.monotonic() + _UP_SECONDS
    while time.monotonic() < deadline:
        command = ["sinfo", "--noheader", "--format=%T"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.stdout.strip() == "idle":
            return
        time.sleep(0.5)
    logs = "\n".join(path.read_text()[-2000:] for path in folder.glob("*.log"))
    raise RuntimeError(f"Slurm did not come up ({done.stdout.strip()} {done.stderr}):\n{logs}")
