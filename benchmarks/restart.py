"""Time from process start to the end of the first step of a restart, and what it is made of.

    python benchmarks/restart.py
    python benchmarks/restart.py --config=flickr8k_caption --config.data.dataset=shapes_captions

What is not an argument of this script goes to `python -m jaxtag.train`. A first start with an
empty compilation cache leaves a checkpoint; then the same command is started again and again,
and killed after its second step, so that each time it finds the same checkpoint.
"""

import argparse
import collections
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FIRST = re.compile(r"first step after .* s: (.*)")
STEP = re.compile(r"step \d+/\d+: ")
COMPILATION = re.compile(
    r"Finished (tracing step|jaxpr to MLIR module conversion jit\(step\)|"
    r"XLA compilation of jit\(step\)).* in ([\d.]+) sec"
)
STAGES = {"tracing": "  tracing", "jaxpr": "  lowering", "XLA": "  XLA, or its cache"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="shapes_caption")
    parser.add_argument("--rounds", type=int, default=5)
    args, overrides = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "compiled"
        environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(cache)}
        command = [sys.executable, "-m", "jaxtag.train", f"--config={args.config}", *overrides]
        command += [f"--workdir={folder}/run", "--config.log_every=1"]
        first = start(command, environment, signal.SIGTERM)
        programs = set(cache.iterdir())
        restarts = [start(command, environment, signal.SIGKILL) for _ in range(args.rounds)]
        compiled = len(set(cache.iterdir()) - programs)
    print(f"{' '.join([args.config, *overrides])}: seconds, {args.rounds} restarts")
    print(f"{'':20}{'first start':>12}{'restart':>9}{'min':>7}{'max':>7}")
    for part in first:
        times = [parts[part] for parts in restarts]
        columns = f"{statistics.median(times):9.2f}{min(times):7.2f}{max(times):7.2f}"
        print(f"{part:20}{first[part]:12.2f}{columns}")
    print(f"programs that the restarts had to compile: {compiled}")


def start(command: list[str], environment: dict[str, str], end: signal.Signals) -> dict[str, float]:
    """{part: seconds} of one start; the process gets the signal `end` after its second step."""
    # JAX then tells what each stage of compiling took.
    environment = {**environment, "JAX_LOG_COMPILES": "1"}
    began, steps, lines = time.perf_counter(), 0, []
    parts: dict[str, float] = {}
    stages: dict[str, list[float]] = collections.defaultdict(list)
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        for line in process.stderr:
            lines.append(line)
            if match := COMPILATION.search(line):
                stages[STAGES[match[1].split()[0]]].append(float(match[2]))
            if match := FIRST.match(line):
                total = time.perf_counter() - began
                for pair in match[1].split(", "):
                    name, seconds = pair.rsplit(" ", 1)
                    parts[name] = float(seconds)
            steps += bool(STEP.match(line))
            if steps == 2:
                process.send_signal(end)
    if steps < 2 or not parts:
        sys.exit("".join(lines) + "the run did not get to its second step")
    if any(len(times) > 1 for times in stages.values()):
        sys.exit("the step was compiled more than once")
    table = {"interpreter": total - sum(parts.values())}
    for name, seconds in parts.items():
        table[name] = seconds
        if name == "compilation":
            table |= {stage: times[0] for stage, times in stages.items()}
    return {**table, "total": total}


if __name__ == "__main__":
    main()
