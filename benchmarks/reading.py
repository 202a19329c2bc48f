"""Reading speed of small pictures: jaxtag against tf.data and PyTorch's DataLoader.

    python benchmarks/reading.py --dataset=mnist --size=28 \\
        --torch_python=PATH --tf_python=PATH

Ours: the prepared data set through jaxtag's pipeline, normalised by a jitted function.
tf.data: the same encoded pictures in a TFRecord file, parsed, decoded, cached as uint8, shuffled,
batched, normalised, prefetched, as its performance guide says.
DataLoader: uint8 arrays in memory, each picture through Pillow to a normalised tensor, as
torchvision's MNIST and CIFAR10 do it with ToTensor and Normalize; two workers.
Each gives shuffled float32 batches. In turns, each round starts all of them afresh and counts
the first pass over the data set (with the start of its workers) and the passes after it. Medians
are printed as JSON. Peak memory is that of the process and its children.
"""

import argparse
import io
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SIDES = ("ours", "tf.data", "DataLoader")


def main() -> None:
    args = _arguments()
    if args.side:
        side = {"ours": ours, "tf.data": tf_data, "DataLoader": data_loader}[args.side]
        print(json.dumps(side(args)))
        return
    with tempfile.TemporaryDirectory() as folder:
        _write(args, Path(folder))
        print(json.dumps(_compare(args, folder), indent=1))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="mnist", help="prepared, with a train split")
    parser.add_argument("--data_dir", help="where data sets are kept")
    parser.add_argument("--size", type=int, default=28, help="of its pictures")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--passes", type=int, default=2, help="counted after the first")
    parser.add_argument("--torch_python", help="Python with torch, numpy and Pillow")
    parser.add_argument("--tf_python", help="Python with tensorflow-cpu and Pillow")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    return parser.parse_args()


def _write(args: argparse.Namespace, folder: Path) -> None:
    """The same pictures for the peers: encoded in a TFRecord file, and decoded in an array."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    import numpy as np
    from PIL import Image

    from jaxtag.datasets import prepared

    source = prepared.open_split(args.dataset, "train", args.data_dir)
    pictures, labels = [], []
    with (folder / "encoded.bin").open("wb") as file:
        for start in range(0, len(source), 256):
            chunk = range(start, min(start + 256, len(source)))
            for record in source.__getitems__(list(chunk)):
                data = record["image"]
                file.write(len(data).to_bytes(4, "little") + data)
                pictures.append(np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
                labels.append(record["label"])
    np.save(folder / "pictures.npy", np.stack(pictures))
    np.save(folder / "labels.npy", np.array(labels))


def _compare(args: argparse.Namespace, folder: str) -> dict:
    pythons = dict(zip(SIDES, (sys.executable, args.tf_python, args.torch_python), strict=True))
    seconds: dict[str, list[dict]] = {side: [] for side, python in pythons.items() if python}
    for _ in range(args.rounds):
        for side, rounds in seconds.items():
            command = [pythons[side], __file__, f"--side={side}", f"--folder={folder}"]
            command += [f"--dataset={args.dataset}", f"--size={args.size}"]
            command += [f"--batch_size={args.batch_size}", f"--passes={args.passes}"]
            command += [f"--data_dir={args.data_dir}"] if args.data_dir else []
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            rounds.append(json.loads(output.splitlines()[-1]))
    names = ("first_pass", "later_passes", "peak_bytes", "growth_bytes")
    table = {
        side: {name: round(statistics.median(one[name] for one in rounds)) for name in names}
        for side, rounds in seconds.items()
    }
    ratios = {
        f"ours / {side}": {
            name: round(table["ours"][name] / table[side][name], 2)
            for name in ("first_pass", "later_passes")
        }
        for side in table
        if side != "ours"
    }
    return {"dataset": args.dataset, "size": args.size, "images_per_second": table, **ratios}


def _count(batches, pictures: int, args: argparse.Namespace) -> dict[str, float]:
    """Images a second of the first pass and of those after it, from an endless iterator."""
    steps, start = pictures // args.batch_size, time.perf_counter()
    for _ in range(steps):
        next(batches)
    first = time.perf_counter()
    between = _peak()
    for _ in range(steps * args.passes):
        next(batches)
    end = time.perf_counter()
    counted = steps * args.batch_size
    return {
        "first_pass": counted / (first - start),
        "later_passes": counted * args.passes / (end - first),
        "peak_bytes": _peak(),
        "growth_bytes": _peak() - between,
    }


def _peak() -> int:
    kinds = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN
    return sum(resource.getrusage(kind).ru_maxrss for kind in kinds) * 1024


def ours(args: argparse.Namespace) -> dict[str, float]:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    import jax

    from jaxtag import augment
    from jaxtag.data import pipeline, targets, transforms
    from jaxtag.datasets import prepared

    source = prepared.open_split(args.dataset, "train", args.data_dir)
    batches = pipeline.train_batches(
        source,
        example=pipeline.ExampleSpec(transforms.Resize(args.size), {"label": targets.ClassLabel()}),
        batch_size=args.batch_size,
        seed=0,
        threads=2,
    )
    normalise = jax.jit(lambda images: augment.normalize(images, (0.5,) * 3, (0.5,) * 3))
    found = _count(
        (normalise(batch["image"]).block_until_ready() for batch in batches), len(source), args
    )
    batches.close()
    return found


def tf_data(args: argparse.Namespace) -> dict[str, float]:
    import tensorflow as tf

    folder = Path(args.folder)
    path, count = folder / "pictures.tfrecord", len(_lazy(folder / "labels.npy"))
    if not path.exists():
        _as_tfrecord(tf, folder, path)

    def decoded(record):
        fields = {
            "image": tf.io.FixedLenFeature([], tf.string),
            "label": tf.io.FixedLenFeature([], tf.int64),
        }
        fields = tf.io.parse_single_example(record, fields)
        image = tf.io.decode_image(fields["image"], channels=3, expand_animations=False)
        return tf.ensure_shape(image, (args.size, args.size, 3)), fields["label"]

    def normalised(images, labels):
        return (tf.cast(images, tf.float32) / 255 - 0.5) / 0.5, labels

    batches = (
        tf.data.TFRecordDataset(str(path))
        .map(decoded, num_parallel_calls=tf.data.AUTOTUNE)
        .cache()
        .shuffle(10_000)
        .repeat()
        .batch(args.batch_size, drop_remainder=True, num_parallel_calls=tf.data.AUTOTUNE)
        .map(normalised, num_parallel_calls=tf.data.AUTOTUNE)
        .prefetch(tf.data.AUTOTUNE)
    )
    return _count(iter(batches), count, args)


def _as_tfrecord(tf, folder: Path, path: Path) -> None:
    labels = _lazy(folder / "labels.npy")
    partial = path.with_suffix(".partial")
    with (folder / "encoded.bin").open("rb") as file, tf.io.TFRecordWriter(str(partial)) as out:
        for label in labels:
            data = file.read(int.from_bytes(file.read(4), "little"))
            fields = {
                "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[data])),
                "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[int(label)])),
            }
            example = tf.train.Example(features=tf.train.Features(feature=fields))
            out.write(example.SerializeToString())
    partial.rename(path)


def _lazy(path: Path):
    import numpy as np

    return np.load(path, mmap_mode="r")


def data_loader(args: argparse.Namespace) -> dict[str, float]:
    import numpy as np
    import torch
    from PIL import Image

    folder = Path(args.folder)
    pictures = np.load(folder / "pictures.npy")
    labels = np.load(folder / "labels.npy")
    mean = std = torch.full((3, 1, 1), 0.5)

    class Pictures(torch.utils.data.Dataset):
        def __len__(self):
            return len(pictures)

        def __getitem__(self, index):
            image = Image.fromarray(pictures[index])
            pixels = torch.from_numpy(np.array(image, copy=True)).permute(2, 0, 1).contiguous()
            return pixels.to(torch.float32).div(255).sub_(mean).div_(std), int(labels[index])

    loader = torch.utils.data.DataLoader(
        Pictures(),
        batch_size=args.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=2,
        persistent_workers=True,
    )

    def forever():
        while True:
            yield from loader

    return _count(forever(), len(pictures), args)


if __name__ == "__main__":
    main()
