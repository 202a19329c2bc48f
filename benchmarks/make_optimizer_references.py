"""Makes tests/references/optimizers.safetensors: steps of PyTorch's and timm's optimisers.

Needs torch, timm, safetensors, numpy (nothing of jaxtag):

    python benchmarks/make_optimizer_references.py tests/references

The committed file was made with torch 2.13.0 and timm 1.0.31 on a CPU.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from timm.optim import Lamb

STEPS = 6
DECAY = 0.05
RATES = (0.1, 0.2, 0.15, 0.1, 0.05, 0.01)  # of each step


OPTIMIZERS = {
    "sgd": lambda groups: torch.optim.SGD(groups, lr=1.0, momentum=0.9),
    "nesterov": lambda groups: torch.optim.SGD(groups, lr=1.0, momentum=0.9, nesterov=True),
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.98), eps=1e-8),
    # timm leaves out the trust ratio of what has no decay unless told otherwise.
    "lamb": lambda groups: Lamb(groups, lr=1.0, eps=1e-6, always_adapt=True, max_grad_norm=None),
}


def groups(params: dict[str, torch.Tensor]) -> list[dict]:
    return [
        {"params": [params["kernel"]], "weight_decay": DECAY},
        {"params": [params["bias"]], "weight_decay": 0.0},
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the file goes")
    folder = parser.parse_args().folder
    random = np.random.RandomState(0)
    start = {"kernel": random.randn(4, 3), "bias": random.randn(3)}
    start = {name: value.astype(np.float32) for name, value in start.items()}
    gradients = {
        name: random.randn(STEPS, *value.shape).astype(np.float32) for name, value in start.items()
    }
    stored = {f"start/{name}": value for name, value in start.items()}
    stored |= {f"gradients/{name}": value for name, value in gradients.items()}
    stored["rates"] = np.array(RATES, np.float32)
    for which, make in OPTIMIZERS.items():
        params = {name: torch.from_numpy(value.copy()) for name, value in start.items()}
        optimizer = make(groups(params))
        trace = {name: [] for name in params}
        for step, rate in enumerate(RATES):
            for group in optimizer.param_groups:
                group["lr"] = rate
            for name, parameter in params.items():
                parameter.grad = torch.from_numpy(gradients[name][step])
            optimizer.step()
            for name, parameter in params.items():
                trace[name].append(parameter.numpy().copy())
        stored |= {f"{which}/{name}": np.stack(values) for name, values in trace.items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(stored, folder / "optimizers.safetensors")


if __name__ == "__main__":
    main()
