"""Goodput that a run reaches when it is killed every so often, from measured times.

    python benchmarks/goodput.py --startup=7.6 --restore=1.2 --save=0.1 --checkpoint_every=20

Walks through a run in simulated time: a process starts, restores, steps, saves (in the background,
so that a step waits for the copy alone), and is killed after `--kill_every` seconds, half as many
more or fewer at random. With `--last_save` it is told in advance by
SIGTERM, as a preempted machine is, and saves in that time before it ends. `--recovery` is what
passes until the next process is started.
"""

import argparse
import random

from jaxtag.training import goodput
from jaxtag.training.goodput import Segment


def simulate(
    *,
    hours: float,
    kill_every: float,
    startup: float,
    restore: float,
    save: float,
    checkpoint_every: float,
    step: float,
    recovery: float,
    last_save: float | None = None,
) -> goodput.Report:
    """The report of a run; times in seconds but for `hours`, `kill_every` in the mean."""
    draw = random.Random(0)
    now, saved, segments = 0.0, 0, []
    steps_between_saves = max(1, round(checkpoint_every / step))
    while now < hours * 3600:
        end = now + kill_every * draw.uniform(0.5, 1.5) - (last_save or 0.0)
        segment = Segment(now, end, saved, saved, {"program_startup": startup})
        segment.seconds["checkpoint_restore"] = restore
        segment.seconds["checkpoint_save"] = 0.0
        clock = now + startup + restore
        while clock + step <= end:
            clock += step
            segment.step += 1
            if (segment.step - segment.first_step) % steps_between_saves == 0:
                if clock + save > end:
                    break
                clock += save
                segment.seconds["checkpoint_save"] += save
                saved = segment.step
        if last_save is not None:
            segment.seconds["checkpoint_save"] += last_save
            segment.ended, saved = end + last_save, segment.step
        segments.append(segment)
        now = segment.ended + recovery
    return goodput.report(segments)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hours", type=float, default=24.0)
    parser.add_argument("--kill_every", type=float, default=600.0)
    parser.add_argument("--startup", type=float, required=True)
    parser.add_argument("--restore", type=float, required=True)
    parser.add_argument("--save", type=float, required=True, help="that a step waits for")
    parser.add_argument("--checkpoint_every", type=float, default=20.0)
    parser.add_argument("--step", type=float, default=0.25)
    parser.add_argument("--recovery", type=float, default=0.0)
    parser.add_argument("--last_save", type=float, help="after SIGTERM; without it, SIGKILL")
    print(simulate(**vars(parser.parse_args())))


if __name__ == "__main__":
    main()
