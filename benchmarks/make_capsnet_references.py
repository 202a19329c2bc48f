"""Makes the reference files of CapsNet and the airbench network: plain PyTorch definitions of both.

Needs torch, safetensors, numpy (nothing of jaxtag):

    python benchmarks/make_capsnet_references.py tests/references

The committed files were made with torch 2.13.0 on a CPU.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from torch import Tensor, nn
from torch.nn import functional

CLASSES = 5
SPEED_WIDTHS = (10, 26, 14)
SPEED_SIZES = ((32, 32), (37, 51))


def squash(x: Tensor) -> Tensor:
    squared = (x**2).sum(-1, keepdim=True)
    return squared / (1 + squared) * x / squared.sqrt()


class CapsNet(nn.Module):
    """Narrow: 3 types of capsules with 4 dimensions at 3x2 places, class capsules with 6."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(2, 12, 9)
        self.primary = nn.Conv2d(12, 3 * 4, 9, stride=2)
        # [types, rows, columns, classes, class dimensions, primary dimensions]
        self.matrices = nn.Parameter(torch.randn(3, 3, 2, CLASSES, 6, 4))
        self.decoder = nn.Sequential(
            nn.Linear(CLASSES * 6, 14), nn.ReLU(), nn.Linear(14, 18), nn.ReLU(),
            nn.Linear(18, 21 * 19 * 2), nn.Sigmoid(),
        )  # fmt: skip

    def forward(self, images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        x = self.primary(functional.relu(self.stem(images)))
        x = squash(x.unflatten(1, (3, 4)).permute(0, 1, 3, 4, 2))  # [B, types, rows, columns, 4]
        votes = torch.matmul(self.matrices, x[:, :, :, :, None, :, None])[..., 0].flatten(1, 3)
        logits = torch.zeros(votes.shape[:3])
        for _ in range(3):
            shares = logits.softmax(2)
            capsules = squash((shares[..., None] * votes).sum(1))
            logits = logits + (votes * capsules[:, None]).sum(-1)
        lengths = capsules.norm(dim=-1)
        selected = functional.one_hot(lengths.argmax(1) if labels is None else labels, CLASSES)
        pictures = self.decoder((capsules * selected[..., None]).flatten(1)).unflatten(
            1, (21, 19, 2)
        )
        return capsules, lengths, pictures


def margin_loss(lengths: Tensor, targets: Tensor) -> Tensor:
    present = targets * (0.9 - lengths).clamp(min=0) ** 2
    absent = 0.5 * (1 - targets) * (lengths - 0.1).clamp(min=0) ** 2
    return (present + absent).sum(1)


class Group(nn.Module):
    def __init__(self, inputs: int, width: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, padding="same", bias=False)
        self.norm1 = nn.BatchNorm2d(width, eps=1e-12, momentum=0.4)
        self.conv2 = nn.Conv2d(width, width, 3, padding="same", bias=False)
        self.norm2 = nn.BatchNorm2d(width, eps=1e-12, momentum=0.4)
        for norm in (self.norm1, self.norm2):
            norm.weight.requires_grad = False

    def forward(self, x: Tensor) -> Tensor:
        x = functional.gelu(self.norm1(functional.max_pool2d(self.conv1(x), 2)))
        return functional.gelu(self.norm2(self.conv2(x)))


class SpeedNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.whiten = nn.Conv2d(3, 24, 2)
        inputs = (24, *SPEED_WIDTHS)
        for index, width in enumerate(SPEED_WIDTHS):
            self.add_module(f"group{index + 1}", Group(inputs[index], width))
        self.head = nn.Linear(SPEED_WIDTHS[-1], CLASSES, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.gelu(self.whiten(x))
        for group in (self.group1, self.group2, self.group3):
            x = group(x)
        return self.head(x.amax((2, 3))) / 9


def randomise(model: nn.Module) -> None:
    """Values in all parameters and running moments, also in those that start as zeros or ones."""
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor += torch.rand_like(tensor)
        elif name.endswith(("running_mean", "bias")):
            tensor += 0.3 * torch.randn_like(tensor)


def state(prefix: str, model: nn.Module) -> dict[str, np.ndarray]:
    tensors = model.state_dict().items()
    return {f"{prefix}/{name}": t.numpy().copy() for name, t in tensors if t.ndim}


def gradients(prefix: str, model: nn.Module) -> dict[str, np.ndarray]:
    named = model.named_parameters()
    return {f"{prefix}/{name}": p.grad.numpy().copy() for name, p in named if p.requires_grad}


def nchw(images: np.ndarray) -> Tensor:
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy())


def make_capsnet(path: Path) -> None:
    torch.manual_seed(0)
    model = CapsNet()
    with torch.no_grad():  # so that the capsules are neither all short nor all alike
        model.primary.weight *= 5
        model.decoder[0].weight *= 4
    images = np.random.RandomState(1).random_sample((4, 21, 19, 2)).astype(np.float32)
    labels = torch.tensor([3, 0, 4, 3])
    tensors = state("weights", model) | {"images": images, "labels": labels.int().numpy()}
    for mode, selected in (("labels", labels), ("longest", None)):
        model.zero_grad()
        capsules, lengths, pictures = model(nchw(images), selected)
        error = ((pictures - torch.from_numpy(images)) ** 2).sum((1, 2, 3))
        losses = margin_loss(lengths, functional.one_hot(labels, CLASSES)) + 0.0005 * error
        losses.mean().backward()
        outputs = {"capsules": capsules, "lengths": lengths, "reconstruction": pictures}
        outputs |= {"losses": losses}
        tensors |= {f"{mode}/{name}": t.detach().numpy() for name, t in outputs.items()}
        tensors |= gradients(f"{mode}/gradients", model)
    print("lengths:", tensors["labels/lengths"])
    save_file({name: np.ascontiguousarray(t) for name, t in tensors.items()}, path)


def make_speednet(path: Path) -> None:
    torch.manual_seed(2)
    model = SpeedNet()
    randomise(model)
    random = np.random.RandomState(3)
    tensors = state("weights", model)
    start = {name: t.clone() for name, t in model.state_dict().items()}
    for height, width in SPEED_SIZES:
        name = f"{height}x{width}"
        model.load_state_dict(start)
        images = random.standard_normal((4, height, width, 3)).astype(np.float32)
        labels = random.randint(0, CLASSES, 4)
        with torch.no_grad():
            tensors[f"{name}/inference"] = model.eval()(nchw(images)).numpy()
        model.zero_grad()
        logits = model.train()(nchw(images))
        loss = functional.cross_entropy(logits, torch.from_numpy(labels), label_smoothing=0.2)
        loss.backward()
        tensors |= {
            f"{name}/images": images,
            f"{name}/labels": labels.astype(np.int32),
            f"{name}/training": logits.detach().numpy(),
            f"{name}/loss": loss.detach().numpy(),
        }
        tensors |= gradients(f"{name}/gradients", model) | state(f"{name}/after", model)
    save_file({name: np.ascontiguousarray(t) for name, t in tensors.items()}, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the files go")
    folder = parser.parse_args().folder
    make_capsnet(folder / "capsnet.safetensors")
    make_speednet(folder / "speednet.safetensors")


if __name__ == "__main__":
    main()
