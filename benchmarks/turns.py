"""Measuring beside a peer: its own process, the same cores, in turns.

The peer's side is the same script, started with `--peer_python`; it waits while ours works.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Threads of OpenMP (PyTorch's, faiss's) spin for 0.2 s after their work, on cores that the other
# side needs in its turn.
_REST = 0.5  # seconds


def pin(threads: int) -> None:
    """Keeps this process, and what it starts, on `threads` cores; before jax or torch starts."""
    cores = sorted(os.sched_getaffinity(0))[:threads]
    os.sched_setaffinity(0, cores)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"


@contextmanager
def peer(args: argparse.Namespace, folder: Path, *more: str) -> Iterator[Callable[[str], Any]]:
    """The calling script's other side: a function that sends a word and gives its answer.

    `more` are further arguments of the script there.
    """
    command = [args.peer_python, *sys.argv, "--serve", str(folder), *more]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ
    )

    def ask(word: str) -> Any:
        process.stdin.write(word + "\n")
        process.stdin.flush()
        for line in process.stdout:
            if line.startswith("answer "):
                time.sleep(_REST)
                return json.loads(line.removeprefix("answer "))
        raise RuntimeError("the peer has ended; its message is above")

    try:
        yield ask
    finally:
        process.stdin.close()
        process.wait(timeout=60)


def serve(answer: Callable[[str], Any]) -> None:
    """The peer's side of `peer`: answers until its input ends."""
    for line in sys.stdin:
        print("answer " + json.dumps(answer(line.strip())), flush=True)


def seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def report(name: str, ours: list[float], theirs: list[float]) -> None:
    """Medians over the turns, and the ratio of each pair of turns."""
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    print(
        f"{name}: jaxtag {statistics.median(ours):.3f} s, peer "
        f"{statistics.median(theirs):.3f} s, ratio {statistics.median(ratios):.2f} "
        f"({min(ratios):.2f} to {max(ratios):.2f}, n={len(ours)})"
    )
