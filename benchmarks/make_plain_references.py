"""Makes the reference files of AlexNet, SqueezeNet and ResNet: what other libraries compute.

Needs torch, torchvision, timm, transformers, safetensors, numpy (nothing of jaxtag):

    python benchmarks/make_plain_references.py tests/references

The committed files were made with torch 2.13.0, torchvision 0.28.0, timm 1.0.31 and transformers
5.24.0 on a CPU. Weights and pictures are drawn from seeds, so that the files need not hold them;
of a large gradient they hold some elements.
"""

import argparse
import copy
import itertools
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import drawn
import numpy as np
import timm
import torch
import torchvision
import transformers
from safetensors.numpy import save_file
from torch import nn
from torchvision.models import resnet
from torchvision.models.alexnet import AlexNet
from torchvision.models.squeezenet import Fire, SqueezeNet

CLASSES = 5
STEADY = 5e-5  # how far a step may be from one with shaken weights, relative to largest elements
SHAKES, NOISE = 2, 1e-6
SMALL_SIZES = ((33, 39), (64, 32))  # the first one for training too
ALEXNET_SIZES = ((131, 99), (160, 195))  # larger than needed, so that its grid is not all the same


def narrow_alexnet() -> nn.Module:
    """torchvision's with a quarter of the channels, and 32 hidden units."""
    model = AlexNet(num_classes=CLASSES, dropout=0.0)
    for index, layer in enumerate(model.features):
        if isinstance(layer, nn.Conv2d):
            channels = 3 if index == 0 else layer.in_channels // 4
            size = (layer.kernel_size, layer.stride, layer.padding)
            model.features[index] = nn.Conv2d(channels, layer.out_channels // 4, *size)
    model.classifier[1] = nn.Linear(64 * 36, 32)
    model.classifier[4] = nn.Linear(32, 32)
    model.classifier[6] = nn.Linear(32, CLASSES)
    return model


class TwoTowers(nn.Module):
    """The network of Krizhevsky et al. 2012, narrow, under torchvision's names of its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.ModuleDict(
            {
                "0": nn.Conv2d(3, 12, 11, stride=4),
                "3": nn.Conv2d(12, 16, 5, padding=2, groups=2),
                "6": nn.Conv2d(16, 20, 3, padding=1),
                "8": nn.Conv2d(20, 20, 3, padding=1, groups=2),
                "10": nn.Conv2d(20, 16, 3, padding=1, groups=2),
            }
        )
        layers = {"1": nn.Linear(16 * 36, 32), "4": nn.Linear(32, 32), "6": nn.Linear(32, CLASSES)}
        self.classifier = nn.ModuleDict(layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pool = nn.MaxPool2d(3, 2)
        x = pool(response_norm(torch.relu(self.features["0"](x))))
        x = pool(response_norm(torch.relu(self.features["3"](x))))
        for name in ("6", "8", "10"):
            x = torch.relu(self.features[name](x))
        x = nn.AdaptiveAvgPool2d(6)(pool(x)).flatten(1)
        for name in ("1", "4"):
            x = torch.relu(self.classifier[name](x))
        return self.classifier["6"](x)


def response_norm(a: torch.Tensor) -> torch.Tensor:
    """Section 3.3 of the paper, a channel after the other; k = 2, n = 5, alpha = 1e-4, beta = 0.75.

    torch's own takes the mean over n, so that its alpha is the paper's times n.
    """
    last = a.shape[1] - 1
    channels = []
    for i in range(last + 1):
        near = a[:, max(0, i - 2) : min(last, i + 2) + 1]
        channels.append(a[:, i] / (2 + 1e-4 * (near**2).sum(1)) ** 0.75)
    result = torch.stack(channels, dim=1)
    torch.testing.assert_close(result, nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2)(a))
    return result


def narrow_squeezenet(version: str) -> nn.Module:
    """torchvision's with a quarter of the channels."""
    model = SqueezeNet(version, num_classes=CLASSES, dropout=0.0)
    for index, layer in enumerate(model.features):
        if isinstance(layer, nn.Conv2d):
            size = (layer.kernel_size, layer.stride)
            model.features[index] = nn.Conv2d(3, layer.out_channels // 4, *size)
        elif isinstance(layer, Fire):
            parts = (layer.squeeze, layer.expand1x1, layer.expand3x3)
            widths = [part.out_channels // 4 for part in parts]
            model.features[index] = Fire(layer.inplanes // 4, *widths)
    model.classifier[1] = nn.Conv2d(128, CLASSES, 1)
    return model


def transformers_resnet(kind: str, depths: list[int], classes: int = CLASSES) -> nn.Module:
    widths = [width * (4 if kind == "bottleneck" else 1) for width in (64, 128, 256, 512)]
    config = transformers.ResNetConfig(
        depths=depths, hidden_sizes=widths, layer_type=kind, num_labels=classes
    )
    return transformers.ResNetForImageClassification(config)


def timm_resnet() -> nn.Module:
    kind = timm.models.resnet
    return kind.ResNet(kind.Bottleneck, (1, 1, 1, 1), num_classes=CLASSES)


def torchvision_resnet(block: type, depths: list[int]) -> nn.Module:
    return resnet.ResNet(block, depths, num_classes=CLASSES)


# Name -> (what makes the model, sizes of pictures, their standard deviation). The pictures of two
# towers are as bright as the paper's (0 to 255), so that the response norm has something to do.
Entry = tuple[Callable[[], nn.Module], tuple[tuple[int, int], ...], float]
MODELS: dict[str, Entry] = {
    "alexnet": (narrow_alexnet, ALEXNET_SIZES, 1.0),
    "alexnet_two_tower": (TwoTowers, ALEXNET_SIZES, 80.0),
    "squeezenet1_0": (partial(narrow_squeezenet, "1_0"), SMALL_SIZES, 1.0),
    "squeezenet1_1": (partial(narrow_squeezenet, "1_1"), SMALL_SIZES, 1.0),
    "resnet_basic_torchvision": (
        partial(torchvision_resnet, resnet.BasicBlock, [1, 1, 2, 1]), SMALL_SIZES, 1.0,
    ),
    "resnet_bottleneck_torchvision": (
        partial(torchvision_resnet, resnet.Bottleneck, [1, 1, 2, 1]), SMALL_SIZES, 1.0,
    ),
    "resnet_basic_transformers": (
        partial(transformers_resnet, "basic", [1, 1, 2, 1]), SMALL_SIZES, 1.0,
    ),
    "resnet_bottleneck_transformers": (
        partial(transformers_resnet, "bottleneck", [1, 1, 2, 1]), SMALL_SIZES, 1.0,
    ),
    "resnet_bottleneck_timm": (timm_resnet, SMALL_SIZES, 1.0),
}  # fmt: skip

# The files' notes: names and shapes of full-size models. File -> library/our name -> the model.
FULL_SIZE: dict[str, dict[str, Callable[[], nn.Module]]] = {
    "alexnet": {"torchvision/alexnet": torchvision.models.alexnet},
    "squeezenet1_0": {"torchvision/squeezenet1_0": torchvision.models.squeezenet1_0},
    "squeezenet1_1": {"torchvision/squeezenet1_1": torchvision.models.squeezenet1_1},
    "resnet_basic_torchvision": {"torchvision/resnet34": torchvision.models.resnet34},
    "resnet_bottleneck_torchvision": {"torchvision/resnet50": torchvision.models.resnet50},
    "resnet_bottleneck_timm": {"torchvision/resnet152": partial(timm.create_model, "resnet152")},
    "resnet_basic_transformers": {
        "transformers/resnet18": partial(transformers_resnet, "basic", [2, 2, 2, 2], 1000),
    },
    "resnet_bottleneck_transformers": {
        "transformers/resnet101": partial(transformers_resnet, "bottleneck", [3, 4, 23, 3], 1000),
    },
}


def shapes(model: nn.Module) -> dict[str, list[int]]:
    return {
        name: list(tensor.shape)
        for name, tensor in model.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }


def logits(model: nn.Module, images: np.ndarray) -> torch.Tensor:
    output = model(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    return getattr(output, "logits", output)


def trained(model: nn.Module, images: np.ndarray, factors: np.ndarray) -> dict[str, np.ndarray]:
    """What a step in training gives: logits, gradients, running moments; in the images' dtype."""
    dtype = torch.from_numpy(images).dtype
    model = copy.deepcopy(model).train().to(dtype)
    outputs = logits(model, images)
    (outputs * torch.from_numpy(factors).to(dtype)).mean().backward()
    tensors = {"trained_logits": outputs.detach().numpy()}
    tensors |= {f"after/{n}": drawn.sampled(p.grad.numpy()) for n, p in model.named_parameters()}
    return tensors | {
        f"after/{n}": drawn.sampled(b.numpy()) for n, b in model.named_buffers() if "running" in n
    }


def distance(outputs: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> float:
    """The largest difference, relative to the largest element of its tensor."""
    return max(np.abs(outputs[n] - e).max() / np.abs(e).max() for n, e in expected.items())


def unsteadiness(model: nn.Module, images: np.ndarray, factors: np.ndarray, expected) -> float:
    """How far steps with weights that differ as by rounding are from what is expected.

    Where a ReLU or a max pool stands on the edge, rounding turns it, and a gradient jumps.
    """
    worst = distance(trained(model, images.astype(np.float32), factors), expected)
    for shake in range(SHAKES):
        generator = torch.Generator().manual_seed(shake)
        shaken = copy.deepcopy(model).double()
        for parameter in shaken.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.data *= 1 + NOISE * noise
        worst = max(worst, distance(trained(shaken, images, factors), expected))
    return worst


def make_reference(path: Path, entry: Entry, full_size: dict[str, dict[str, list[int]]]) -> None:
    """Logits in inference and a step in training, computed in float64, for steady pictures."""
    make, sizes, deviation = entry
    model = make()
    state = {
        name: torch.from_numpy(w)
        for name, w in drawn.weights(shapes(model), spread_norms=True).items()
    }
    model.load_state_dict(state, strict=False)
    factors = np.random.RandomState(0).standard_normal((4, CLASSES)).astype(np.float32)
    for seed in itertools.count():
        images = drawn.images(seed, sizes[0], deviation).astype(np.float64)
        tensors = trained(model, images, factors)
        off = unsteadiness(model, images, factors, tensors)
        print(path.name, "seed", seed, "is off by", off, flush=True)
        if off < STEADY:
            break
    model = model.eval().double()
    for size in sizes:
        images = drawn.images(seed, size, deviation).astype(np.float64)
        with torch.no_grad():
            tensors[f"logits/{size[0]}x{size[1]}"] = logits(model, images).numpy()
    tensors = {name: tensor.astype(np.float32) for name, tensor in tensors.items()}
    notes = {"seed": str(seed), "full_size": json.dumps(full_size)}
    save_file({**tensors, "factors": factors}, path, notes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the files go")
    folder = parser.parse_args().folder
    for name, entry in MODELS.items():
        with torch.device("meta"):
            full_size = {full: shapes(make()) for full, make in FULL_SIZE.get(name, {}).items()}
        make_reference(folder / f"{name}.safetensors", entry, full_size)


if __name__ == "__main__":
    main()
