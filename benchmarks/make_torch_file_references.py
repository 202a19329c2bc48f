"""Makes the reference files of `torch.save`: checkpoints in both of its forms, and their tensors.

And one of `torch.jit.save`, as OpenAI published CLIP, whose numbers count from 0.

Needs torch, safetensors, numpy (nothing of jaxtag):

    python benchmarks/make_torch_file_references.py tests/references

The committed files were made with torch 2.13.0.
"""

import argparse
import io
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn


def make_tensors() -> dict[str, torch.Tensor]:
    """Tensors of every kind of view and number that checkpoints have."""
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(6, 8, generator=generator)
    flat = torch.randn(30, generator=generator)
    return {
        "plain": torch.randn(2, 3, generator=generator),
        "transposed": base.T,
        "slice": base[1:4, 2:7:2],
        "same_storage_a": flat[:12].view(3, 4),
        "same_storage_b": flat[12:],
        "half": torch.randn(5, generator=generator).half(),
        "bfloat16": torch.randn(5, generator=generator).bfloat16(),
        "double": torch.randn(5, generator=generator).double(),
        "scalar": torch.tensor(1.5),
        "empty": torch.zeros(0, 4),
        "channels_last": torch.randn(2, 3, 4, 5, generator=generator).contiguous(
            memory_format=torch.channels_last
        ),
        "parameter": nn.Parameter(torch.randn(3, generator=generator)),
        "num_batches_tracked": torch.tensor(7),
    }


def make_training_state(tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    """What a training program saves: weights, their average, an optimizer, settings."""
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(4, 2)).square().sum().backward()
    optimizer.step()
    return {
        "epoch": 3,
        "model": OrderedDict((f"module.{name}", tensor) for name, tensor in tensors.items()),
        "model_ema": {name: tensor * 2 for name, tensor in tensors.items()},
        "linear": model.state_dict(),  # with its _metadata
        "optimizer": optimizer.state_dict(),
        "best": 0.5,
        "betas": (0.9, 0.999),
    }


class Block(nn.Module):
    """A module of parameters and plain attributes, for TorchScript."""

    sizes: list[int]

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 2, 2, bias=False)
        self.resblocks = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
        self.positional_embedding = nn.Parameter(torch.zeros(3, 2))
        self.register_buffer("input_resolution", torch.tensor(8))
        self.sizes = [4, 5]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv1(x) + len(self.sizes)


def make_script() -> torch.jit.ScriptModule:
    model = Block()
    for name, value in model.state_dict().items():
        if name != "input_resolution":
            value.copy_(torch.arange(value.numel()).view(value.shape))
    return torch.jit.script(model.half())


def save_script(path: Path) -> None:
    """Saves it without its code, which has the paths of its sources."""
    buffer = io.BytesIO()
    torch.jit.save(make_script(), buffer)
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(path, "w") as file:
        for name in source.namelist():
            if "/code/" not in name:
                file.writestr(zipfile.ZipInfo(name), source.read(name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    tensors = make_tensors()
    save_file({n: t.detach().clone().contiguous() for n, t in tensors.items()},
              folder / "torch_file.safetensors")  # fmt: skip
    save_script(folder / "torch_file_script.pt")
    state = make_training_state(tensors)
    for form, is_zip in (("zip", True), ("legacy", False)):
        path = folder / f"torch_file_{form}.pth"
        torch.save(tensors, path, _use_new_zipfile_serialization=is_zip)
        path = folder / f"torch_file_training_{form}.pth"
        torch.save(state, path, _use_new_zipfile_serialization=is_zip)


if __name__ == "__main__":
    main()
