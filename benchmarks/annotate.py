"""Tagging a folder: what jaxtag.annotate takes beside its parts, and whether its memory grows.

    python benchmarks/annotate.py --workdir=RUN --images=DIR

RUN is a work directory of jaxtag.train, DIR a folder of some thousands of pictures. In turns: the
input pipeline alone (files to batches), the model alone (its predictions of one batch, again and
again), and jaxtag.annotate from files to lines. On a CPU the first two share the cores, so that
their sum is the most that the third can reach; beside an accelerator it is the slower of the two.
Then one long pass, with the memory of the process after each tenth of the pictures. JSON.
"""

import argparse
import functools
import json
import resource
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--images", required=True)
    parser.add_argument("--pictures", type=int, default=1000, help="in each turn")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()

    from jaxtag.data import files
    from jaxtag.inference import predictor

    model = predictor.load(Path(args.workdir))
    names = files.list_files([args.images])
    few = names[: args.pictures]
    sides = {"input": _input, "model": _model, "annotate": _annotate}
    for side in sides.values():  # compiles
        side(model, few[: model.config.evaluation.batch_size])
    times = {name: [] for name in sides}
    for _ in range(args.rounds):
        for name, side in sides.items():
            times[name].append(side(model, few))
    seconds = {name: statistics.median(each) for name, each in times.items()}
    parts = seconds["input"] + seconds["model"]
    results = {
        "pictures": len(few),
        "images_per_second": {name: round(len(few) / each, 1) for name, each in seconds.items()},
        "annotate / (input + model)": round(seconds["annotate"] / parts, 2),
        "long pass": _long_pass(model, names),
    }
    print(json.dumps(results, indent=1))


def _input(model, names: list[str]) -> float:
    from jaxtag.data import pipeline

    config = model.config
    start = time.perf_counter()
    batches = pipeline.image_batches(
        names,
        image=model.task.image_transform(train=False),
        batch_size=config.evaluation.batch_size,
        num_workers=config.data.num_workers,
        num_threads=config.data.num_threads,
    )
    for _ in batches:
        pass
    batches.close()
    return time.perf_counter() - start


def _model(model, names: list[str]) -> float:
    import jax
    import numpy as np

    from jaxtag.distributed import mesh as meshes

    config = model.config
    rows, side = config.evaluation.batch_size, config.data.image_size
    images = np.random.default_rng(0).integers(0, 256, (rows, side, side, 3), np.uint8)
    batch = meshes.make_global_batch({"image": images}, model.mesh)
    predict = _predict(model.task)
    start = time.perf_counter()
    for _ in range(-(-len(names) // rows)):
        jax.device_get(predict(model.variables, batch, jax.random.key(0)))
    return time.perf_counter() - start


@functools.cache
def _predict(task):
    return task.make_predict()


def _annotate(model, names: list[str]) -> float:
    start = time.perf_counter()
    count = sum(1 for _ in model.predict_rows(names))
    assert count == len(names)
    return time.perf_counter() - start


def _long_pass(model, names: list[str]) -> dict:
    marks = {len(names) * tenth // 10 for tenth in range(1, 11)}
    held, start = [], time.perf_counter()
    for count, _ in enumerate(model.predict_rows(names), start=1):
        if count in marks:
            held.append(_resident())
    seconds = time.perf_counter() - start
    return {
        "pictures": len(names),
        "images_per_second": round(len(names) / seconds, 1),
        "resident_mib_after_each_tenth": held,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() >> 20


if __name__ == "__main__":
    main()
