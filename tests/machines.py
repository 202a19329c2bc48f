"""Machines for the launchers' tests: homes in a folder, reached by stubs of gcloud, ssh and scp.

What the launchers run on a machine really runs, in its home: `launch/worker.sh`, `launch/local.sh`
and processes. Only Python is a stand-in, which ends as the machine's file `endings` says.
"""

import os
import shutil
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
SCRIPTS = ("local.sh", "worker.sh", "remote_run.sh", "tpu_pod.sh", "ssh.sh")

# Ends as the first line of ~/endings says, STATUS [STEP], by default with 0; `wait`: when told.
PYTHON = """#!/usr/bin/env bash
case "$1 $2" in
  "-m jaxtag.train")
    echo "run|$JAX_PLATFORMS|${JAXTAG_JOB%-*}|$JAX_COMPILATION_CACHE_DIR|$*" >> ~/calls
    echo "says $*"
    exec 9> ~/endings.lock; flock 9
    read -r status step < ~/endings; sed -i 1d ~/endings; flock -u 9; exec 9>&-
    [[ -z "$step" ]] || echo "$step" > "$JAXTAG_STEP_FILE"
    if [[ "$status" == wait ]]; then
      trap 'exit 75' TERM
      until [[ -e ~/go ]]; do sleep 0.02; done
      status="$(cat ~/go)"
    fi
    exit "${status:-0}" ;;
  "-m pip") echo "pip|$*" >> ~/calls; [[ ! -e ~/broken ]] ;;
esac
"""
OLD_PYTHON = "#!/bin/sh\nexit 1\n"  # 3.10, as on the images of TPUs
UV = """#!/usr/bin/env bash
echo "uv|$*" >> ~/calls
mkdir -p "${@: -1}/bin" && cp -p "$STUBS/python" "${@: -1}/bin/python"
"""
# queued-resources describe: the first line of $STUBS/states, the last of which stays.
GCLOUD = """#!/usr/bin/env bash
echo "$*" >> "$CALLS"
case "$*" in
  *queued-resources\\ describe*)
    exec 9> "$STUBS/states.lock"; flock 9
    now="$(head -n 1 "$STUBS/states")"
    [[ $(wc -l < "$STUBS/states") -le 1 ]] || sed -i 1d "$STUBS/states"
    [[ "$now" != ABSENT ]] || exit 1
    echo "$now" ;;
  *queued-resources\\ create*) [[ ! -e "$STUBS/refuse" ]] ;;
  *tpu-vm\\ scp*)
    for home in "$MACHINES/${6%%:*}"-w*; do cp "$5" "$home/${6#*:}"; done ;;
  *tpu-vm\\ ssh*)
    [[ ! -e "$STUBS/unreachable" ]] || exit 255
    workers=("$MACHINES/$5"-w*); [[ "$*" != *--worker=0* ]] || workers=("$MACHINES/$5-w0")
    pids=() outcome=0
    for argument in "$@"; do
      [[ "$argument" != --command=* ]] || command="${argument#--command=}"
    done
    for home in "${workers[@]}"; do
      (cd "$home" && HOME="$home" exec bash -c "$command") &
      pids+=($!)
    done
    for pid in "${pids[@]}"; do wait "$pid" || outcome=1; done
    exit "$outcome" ;;
  *storage\\ cp*) ;;
esac
"""
SSH = """#!/usr/bin/env bash
while [[ "$1" == -* ]]; do shift 2; done
echo "ssh $1 $2" >> "$CALLS"
[[ ! -e "$STUBS/unreachable" ]] || exit 255
cd "$MACHINES/$1" && HOME="$PWD" exec bash -c "$2"
"""
SCP = """#!/usr/bin/env bash
echo "scp $*" >> "$CALLS"
host="${@: -1}"
cp "${@: -2:1}" "$MACHINES/${host%%:*}/${host#*:}"
"""


class Machines:
    """Some machines, and a checkout with a launcher that reaches them.

    Attributes:
        root: The checkout.
        homes: Folder of each machine.
        stubs: Folder of what stands in for commands, and of files that steer them.
    """

    def __init__(self, folder: Path, script: str, names: list[str]):
        self.root, self.stubs, self._script = folder / "check out", folder / "stubs", script
        self._calls = folder / "calls"
        self.homes = [folder / "machines" / name for name in names]
        for home in (*self.homes, self.stubs, self.root / "launch", self.root / "jaxtag"):
            home.mkdir(parents=True)
        for name in SCRIPTS:
            shutil.copy(ROOT / "launch" / name, self.root / "launch")
        for name in ("jaxtag/train.py", "pyproject.toml", "constraints.txt"):
            (self.root / name).touch()
        stubs = {"gcloud": GCLOUD, "ssh": SSH, "scp": SCP, "python": PYTHON, "uv": UV}
        old = dict.fromkeys(("python3", "python3.11", "python3.12", "python3.13"), OLD_PYTHON)
        for name, text in (stubs | old | {"nvidia-smi": OLD_PYTHON}).items():
            (self.stubs / name).write_text(text)
            (self.stubs / name).chmod(0o755)
        (self.stubs / "states").write_text("ACTIVE\n")
        for home in self.homes:
            (home / "endings").touch()

    def environment(self) -> dict[str, str]:
        named = {
            "PATH": f"{self.stubs}:{os.environ['PATH']}",
            "CALLS": self._calls,
            "STUBS": self.stubs,
            "MACHINES": self.homes[0].parent,
            "POLL_SECONDS": "0.05",
            "JAXTAG_COPY_SECONDS": "0.05",
        }
        hidden = {"PYTHON", "JAXTAG_EXTRAS", "JAXTAG_JOB", "JAX_PLATFORMS"}
        hidden |= {"JAX_COMPILATION_CACHE_DIR", "JAXTAG_STEP_FILE"}
        inherited = {name: value for name, value in os.environ.items() if name not in hidden}
        return {**inherited, **{name: str(value) for name, value in named.items()}}

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Starts the launcher in a session of its own."""
        return subprocess.Popen(
            [self.root / "launch" / self._script, *arguments],
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs the launcher to its end."""
        self._calls.write_text("")
        process = self.start(*arguments)
        out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def seen(self, what: str) -> list[str]:
        """The calls of gcloud, ssh and scp since the last start that hold `what`."""
        return [line for line in self._calls.read_text().splitlines() if what in line]

    def ran(self, machine: int, what: str = "run|") -> list[str]:
        """What a machine's Python and uv were called for."""
        path = self.homes[machine] / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line for line in lines if line.startswith(what)]

    def end(self, machine: int, *endings: str) -> None:
        """How the runs of a machine end, in turn."""
        (self.homes[machine] / "endings").write_text("".join(f"{line}\n" for line in endings))

    def until(self, done) -> None:
        deadline = time.monotonic() + 40
        while not done():
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def close(self) -> None:
        """Kills what still lives on the machines."""
        for home in self.homes:
            pid = home / "jaxtag-run" / "pid"
            if pid.exists():
                subprocess.run(["pkill", "-KILL", "-s", pid.read_text().strip()], check=False)


def close_script(process: subprocess.Popen[str]) -> None:
    """As a user closes the terminal."""
    subprocess.run(["pkill", "-KILL", "-s", str(process.pid)], check=False)
    process.communicate(timeout=20)
