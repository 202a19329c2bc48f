"""Orders of an epoch: how random they are, what they cost, how often they read.

    python benchmarks/record_order.py

For each `config.data.shuffle` (with its block size) on a million records that are sorted by their
1,000 classes: the rank correlation of batch and record; how the mean record of batches varies, and
from one to the next; the classes in a batch beside what independent draws have; the time to order a
batch and the memory it takes; and, for a prepared split on disk, how often 1,000 records are read.
"""

import argparse
import json
import tempfile
import time
import tracemalloc
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from scipy import stats

from jaxtag.data.block_reader import BlockReader
from jaxtag.data.samplers import BlockShuffleSampler, Sampler, make_shuffle_sampler
from jaxtag.data.sources import PreparedSource

RECORD_BYTES = 20_000


class Noise(tfds.core.GeneratorBasedBuilder):
    """Records of random bytes."""

    VERSION = tfds.core.Version("1.0.0")
    count = 0

    def _info(self) -> tfds.core.DatasetInfo:
        image = tfds.features.Text()
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict({"image": image})
        )

    def _split_generators(self, dl_manager: object) -> dict:
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        rng = np.random.default_rng(0)
        for number in range(self.count):
            yield number, {"image": rng.bytes(RECORD_BYTES // 2).hex()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument("--stored", type=int, default=8192, help="records written to count reads")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tfds.disable_progress_bar()
        Noise.count = args.stored
        Noise(data_dir=folder, file_format="array_record").download_and_prepare()
        source = PreparedSource(Path(folder) / "noise" / "1.0.0", "train")
        for shuffle in ("stored", "full", "blocks:64", "blocks:128", "blocks:256"):
            order = make_sampler(shuffle, args, args.records)
            figures = {"shuffle": shuffle, **cost(shuffle, args), **randomness(order, args)}
            print(json.dumps(figures | reads(shuffle, source, args)))


def make_sampler(
    shuffle: str, args: argparse.Namespace, count: int, buffer_size: int = 65536
) -> Sampler:
    name, _, block_size = shuffle.partition(":")
    return make_shuffle_sampler(
        name,
        count,
        batch_size=args.batch_size,
        block_size=int(block_size or 1),
        buffer_size=buffer_size,
        seed=0,
    )


def randomness(order: Sampler, args: argparse.Namespace) -> dict[str, float]:
    """Of an epoch: its rank correlation, and the classes and mean records of its batches.

    The variance of the means is in units of that of independent draws.
    """
    batches = np.stack([order(number) for number in range(args.records // args.batch_size)])
    places = np.repeat(np.arange(len(batches)), args.batch_size)
    means = batches.mean(axis=1)
    variance = args.records**2 / 12 / args.batch_size
    labels = batches * args.classes // args.records
    distinct = [len(np.unique(row)) for row in labels]
    expected = args.classes * (1 - (1 - 1 / args.classes) ** args.batch_size)
    return {
        "rank_correlation": round(float(stats.spearmanr(places, batches.ravel()).statistic), 5),
        "mean_variance": round(float(means.var() / variance), 4),
        "mean_autocorrelation": round(float(np.corrcoef(means[:-1], means[1:])[0, 1]), 4),
        "classes_in_batch": round(float(np.mean(distinct)), 2),
        "least_classes_in_batch": int(np.min(distinct)),
        "expected_classes_in_batch": round(expected, 2),
    }


def cost(shuffle: str, args: argparse.Namespace) -> dict[str, float]:
    """Microseconds of a core for each of 1,000 batches, and the most memory held meanwhile."""
    order = make_sampler(shuffle, args, args.records)
    tracemalloc.start()
    order(0)
    memory = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    began = time.process_time()
    for number in range(1000):
        order(number)
    seconds = (time.process_time() - began) / 1000
    return {"us_per_batch": round(1e6 * seconds, 1), "memory_bytes": memory}


def reads(shuffle: str, source: PreparedSource, args: argparse.Namespace) -> dict[str, float]:
    """System calls that read, and bytes, for 1,000 records of an epoch of a prepared split."""
    order = make_sampler(shuffle, args, len(source), len(source) // 4)
    calls, read_bytes = _io()
    reader = BlockReader(source, order) if isinstance(order, BlockShuffleSampler) else None
    for number in range(len(source) // args.batch_size):
        if reader is not None:
            reader.take(number, np.arange(args.batch_size))
        else:
            source.__getitems__(order(number).tolist())
    after = _io()
    thousands = len(source) / 1000
    return {
        "reads_per_1000": round((after[0] - calls) / thousands),
        "bytes_per_record": round((after[1] - read_bytes) / len(source)),
    }


def _io() -> tuple[int, int]:
    values = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(values["syscr"]), int(values["rchar"])


if __name__ == "__main__":
    main()
