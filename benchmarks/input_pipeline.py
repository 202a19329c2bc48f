"""Input speed: JPEG files to augmented float batches, jaxtag against DataLoader and tf.data.

    python benchmarks/input_pipeline.py --images=DIR --torch_python=PATH --tf_python=PATH

Ours: ArrayRecord → threads (random-resized crop, uint8) → jitted flip and normalisation.
DataLoader: files → workers with Pillow, written as torchvision's RandomResizedCrop,
RandomHorizontalFlip, ToTensor and Normalize do it. tf.data: files → decode_and_crop_jpeg of the
same kind of box (sample_distorted_bounding_box), resized, flipped, in as many threads as it finds
best. All give float32 batches with ImageNet normalisation, from the same files, in turns: each
round starts each afresh, leaves the first batches out and counts images for a set time. The median
round of each is printed as JSON, one line for each folder and size.
"""

import argparse
import json
import math
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DATASET = "input_benchmark"


def main() -> None:
    args = _arguments()
    if args.part:
        parts = {"ours": ours, "DataLoader": data_loader, "tf.data": tf_data}
        print(json.dumps(parts[args.part](args)))
        return
    for folder in args.images:
        with tempfile.TemporaryDirectory() as records:
            name = folder
            if args.longest:
                folder = _scaled(folder, args.longest, f"{records}/scaled")
            _prepare(_files(folder), records)
            for size in args.sizes:
                print(json.dumps({"images": name, **_compare(args, folder, records, size)}))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", action="append", required=True, help="folder of JPEG files")
    parser.add_argument("--longest", type=int, help="scale to this longest side first, quality 92")
    parser.add_argument("--torch_python", help="Python with torch, numpy and Pillow")
    parser.add_argument("--tf_python", help="Python with tensorflow-cpu")
    parser.add_argument("--sizes", type=int, nargs="+", default=[224, 128])
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2, help="processes of DataLoader")
    parser.add_argument("--threads", type=int, default=2, help="of ours")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8.0, help="counted in each round")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--records", help=argparse.SUPPRESS)
    return parser.parse_args()


def _files(folder: str) -> list[Path]:
    files = sorted(Path(folder).glob("*.jpg"))
    if not files:
        sys.exit(f"{folder} holds no .jpg files")
    return files


def _scaled(folder: str, longest: int, target: str) -> str:
    from PIL import Image

    Path(target).mkdir()
    for file in _files(folder):
        image = Image.open(file).convert("RGB")
        image.thumbnail((longest, longest), Image.LANCZOS)
        image.save(Path(target) / file.name, quality=92)
    return target


def _prepare(files: list[Path], data_dir: str) -> None:
    """Writes the files as they are into ArrayRecord."""
    import tensorflow_datasets as tfds

    class InputBenchmark(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        name = DATASET

        def _info(self):
            features = tfds.features.FeaturesDict({"image": tfds.features.Image()})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for index, file in enumerate(self.files):
                yield index, {"image": file.read_bytes()}

    tfds.core.registered._DATASET_REGISTRY.pop(DATASET, None)
    tfds.disable_progress_bar()
    InputBenchmark.files = files
    InputBenchmark(data_dir=data_dir, file_format="array_record").download_and_prepare()


def _compare(args: argparse.Namespace, folder: str, records: str, size: int) -> dict:
    pythons = {
        "ours": sys.executable,
        "DataLoader": args.torch_python,
        "tf.data": args.tf_python,
    }
    speeds = {part: [] for part, python in pythons.items() if python}
    for _ in range(args.rounds):
        for part in speeds:
            command = [pythons[part], __file__, f"--part={part}", f"--images={folder}"]
            command += [f"--records={records}", f"--sizes={size}", f"--seconds={args.seconds}"]
            command += [f"--workers={args.workers}", f"--batch_size={args.batch_size}"]
            command += [f"--threads={args.threads}"]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            speeds[part].append(json.loads(output.splitlines()[-1]))
    medians = {part: statistics.median(values) for part, values in speeds.items()}
    return {
        "size": size,
        "workers": args.workers,
        "threads": args.threads,
        "images_per_second": {part: round(value) for part, value in medians.items()},
        "ratios": {
            part: round(medians["ours"] / value, 2)
            for part, value in medians.items()
            if part != "ours"
        },
        "rounds": {part: [round(value) for value in values] for part, values in speeds.items()},
    }


def _count(next_batch, batch_size: int, seconds: float) -> float:
    """Images a second, after six batches that fill the queues."""
    for _ in range(6):
        next_batch()
    start, batches = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        next_batch()
        batches += 1
    return batches * batch_size / (time.perf_counter() - start)


def ours(args: argparse.Namespace) -> float:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    import jax

    from jaxtag import augment
    from jaxtag.data import pipeline, transforms
    from jaxtag.datasets import prepared

    batches = pipeline.train_batches(
        prepared.open_split(DATASET, "train", args.records),
        example=pipeline.ExampleSpec(transforms.RandomResizedCrop(args.sizes[0])),
        batch_size=args.batch_size,
        seed=0,
        threads=args.threads,
    )

    flipped = augment.Augmentation(flip=True)

    @jax.jit
    def finish(images, key):
        return augment.normalize(flipped.images(images, key), MEAN, STD)

    keys = iter(jax.random.split(jax.random.key(0), 100_000))
    speed = _count(
        lambda: finish(next(batches)["image"], next(keys)).block_until_ready(),
        args.batch_size,
        args.seconds,
    )
    batches.close()
    return speed


def data_loader(args: argparse.Namespace) -> float:
    import numpy as np
    import torch
    from PIL import Image

    size, mean, std = args.sizes[0], torch.tensor(MEAN), torch.tensor(STD)
    mean, std = mean.view(3, 1, 1), std.view(3, 1, 1)

    def crop_box(width: int, height: int) -> tuple[int, int, int, int]:
        for _ in range(10):
            area = width * height * random.uniform(0.08, 1.0)
            ratio = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                left, top = random.randint(0, width - w), random.randint(0, height - h)
                return left, top, left + w, top + h
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        return left, top, left + side, top + side

    class Files(torch.utils.data.Dataset):
        def __init__(self, files):
            self.files = files

        def __len__(self):
            return len(self.files)

        def __getitem__(self, index):
            with open(self.files[index], "rb") as file:
                image = Image.open(file).convert("RGB")
            image = image.crop(crop_box(*image.size)).resize((size, size), Image.BILINEAR)
            if random.random() < 0.5:
                image = image.transpose(Image.FLIP_LEFT_RIGHT)
            pixels = torch.from_numpy(np.array(image, copy=True)).permute(2, 0, 1).contiguous()
            return pixels.to(torch.float32).div(255).sub_(mean).div_(std)

    files = _files(args.images[0])
    files *= -(-10_000 // len(files))  # few pauses between epochs, however few the files

    def forever():
        loader = torch.utils.data.DataLoader(
            Files(files),
            batch_size=args.batch_size,
            shuffle=True,
            num_workers=args.workers,
            drop_last=True,
            persistent_workers=args.workers > 0,
        )
        while True:
            yield from loader

    batches = forever()
    return _count(lambda: next(batches), args.batch_size, args.seconds)


def tf_data(args: argparse.Namespace) -> float:
    import tensorflow as tf

    size, files = args.sizes[0], [str(file) for file in _files(args.images[0])]

    def load(path):
        data = tf.io.read_file(path)
        begin, extent, _ = tf.image.sample_distorted_bounding_box(
            tf.io.extract_jpeg_shape(data),
            tf.zeros((1, 0, 4)),
            min_object_covered=0.0,
            area_range=(0.08, 1.0),
            aspect_ratio_range=(3 / 4, 4 / 3),
            max_attempts=10,
            use_image_if_no_bounding_boxes=True,
        )
        window = tf.concat([begin[:2], extent[:2]], 0)
        image = tf.image.decode_and_crop_jpeg(data, window, channels=3)
        image = tf.image.random_flip_left_right(tf.image.resize(image, (size, size)))
        return (image / 255 - MEAN) / STD

    batches = iter(
        tf.data.Dataset.from_tensor_slices(files)
        .shuffle(len(files))
        .repeat()
        .map(load, num_parallel_calls=tf.data.AUTOTUNE)
        .batch(args.batch_size, drop_remainder=True)
        .prefetch(tf.data.AUTOTUNE)
    )
    return _count(lambda: next(batches), args.batch_size, args.seconds)


if __name__ == "__main__":
    main()
