"""Goodput that a run reaches when it is killed every so often, from measured times.

    python benchmarks/goodput.py --startup=7.6 --restore=1.2 --save=0.1 --checkpoint_every=20

Walks through a run in simulated time: a process starts, restores, steps, saves (in the background,
so that a step waits for the copy alone), and is killed. `--recovery` is what passes until the next
process is started.
"""

import argparse

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
) -> goodput.Report:
    """The report of a run; all times in seconds but `hours`."""
    now, saved, segments = 0.0, 0, []
    steps_between_saves = max(1, round(checkpoint_every / step))
    while now < hours * 3600:
        end = now + kill_every
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
        segments.append(segment)
        now = end + recovery
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
    print(simulate(**vars(parser.parse_args())))


if __name__ == "__main__":
    main()
