"""What int8 costs an exported model: accuracy on real images, agreement, size, time.

    M="--model=efficientnet_lite0 --format=onnx"
    python -m jaxtag.export $M --output=/tmp/float32
    python -m jaxtag.export $M --output=/tmp/int8 --quantize=int8
    python benchmarks/export_int8.py --float32=/tmp/float32 --int8=/tmp/int8 --data=DATA

DATA/cifar10/{train,test}/<class>/*.jpg: accuracy of the nearest class mean, over the logarithms of
the model's probabilities, whose means are of `--train` images a class. DATA/coco_mini/*2017: how
often both models name the same class. Needs no jaxtag.
"""

import argparse
import itertools
import json
import time
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

_BATCH = 50


class Model:
    """An exported classifier and its time."""

    def __init__(self, folder: Path):
        about = json.loads((folder / "jaxtag.json").read_text("utf-8"))["preprocessing"]
        self._size, self._crop = about["image_size"], about["crop"] or 1.0
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(folder / "model.onnx", options)
        self.megabytes = (folder / "model.onnx").stat().st_size / 1e6
        self.seconds, self.images = 0.0, 0

    def log_probabilities(self, files: list[Path]) -> np.ndarray:
        """float32 [N, C]."""
        rows = []
        for start in range(0, len(files), _BATCH):
            images = np.stack([self._pixels(file) for file in files[start : start + _BATCH]])
            before = time.process_time()
            rows.append(self._session.run(None, {"images": images})[0])
            self.seconds += time.process_time() - before
            self.images += len(images)
        return np.log(np.concatenate(rows) + 1e-9)

    def _pixels(self, file: Path) -> np.ndarray:
        image = ImageOps.exif_transpose(Image.open(file)).convert("RGB")
        x, y = ((side - self._crop * min(image.size)) / 2 for side in image.size)
        size = (self._size, self._size)
        box = (x, y, image.width - x, image.height - y)
        return np.asarray(image.resize(size, Image.Resampling.BILINEAR, box))


def first_images(folder: Path, count: int) -> tuple[list[Path], np.ndarray]:
    """The first images of each class, and their classes."""
    files = [sorted(path.iterdir())[:count] for path in sorted(folder.iterdir())]
    return list(itertools.chain.from_iterable(files)), np.repeat(np.arange(len(files)), count)


def nearest_mean_accuracy(model: Model, data: Path, train: int, test: int) -> float:
    """Of CIFAR-10's classes, by the cosine to their means."""
    files, classes = first_images(data / "train", train)
    vectors = model.log_probabilities(files)
    center = vectors.mean(0)
    means = np.stack([(vectors[classes == c] - center).mean(0) for c in np.unique(classes)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    files, classes = first_images(data / "test", test)
    scores = (model.log_probabilities(files) - center) @ means.T
    return float((scores.argmax(1) == classes).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name in ("float32", "int8", "data"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--train", type=int, default=50, help="images a class for the means")
    parser.add_argument("--test", type=int, default=100, help="images a class")
    arguments = parser.parse_args()
    coco = sorted(arguments.data.glob("coco_mini/*2017/*.jpg"))
    rows = {}
    for name in ("float32", "int8"):
        model = Model(getattr(arguments, name))
        accuracy = nearest_mean_accuracy(
            model, arguments.data / "cifar10", arguments.train, arguments.test
        )
        rows[name] = model.log_probabilities(coco)
        milliseconds = 1000 * model.seconds / model.images
        print(
            f"{name}: CIFAR-10 {accuracy:.4f}, {model.megabytes:.1f} MB, "
            f"{milliseconds:.1f} ms of one core an image",
            flush=True,
        )
    best = rows["float32"].argmax(1)
    top5 = np.argsort(-rows["int8"], 1)[:, :5]
    same, among = (top5[:, 0] == best).mean(), (top5 == best[:, None]).any(1).mean()
    print(
        f"{len(coco)} COCO images: the same likeliest class {same:.3f}, float32's among the 5 of "
        f"int8 {among:.3f}"
    )


if __name__ == "__main__":
    main()
