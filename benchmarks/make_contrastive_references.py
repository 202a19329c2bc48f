"""Makes tests/references/contrastive.safetensors: losses of CLIP and SigLIP and their gradients.

Needs torch, transformers, open_clip_torch, safetensors, numpy (nothing of jaxtag):

    python benchmarks/make_contrastive_references.py tests/references

Losses are open_clip's, in float64; transformers' CLIP loss must give the same. Those with weighted
negatives are written out pair by pair; their weights have no gradient. The committed file was made
with torch 2.13.0, transformers 5.24.0 and open_clip_torch 3.3.0 on a CPU.
"""

import argparse
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from open_clip.loss import ClipLoss, SigLipLoss
from safetensors.numpy import save_file
from transformers.models.clip.modeling_clip import image_text_contrastive_loss

PAIRS, SIZE, BETA = 24, 6, 0.25
LOG_SCALE, BIAS = math.log(9.0), -4.0


def clip(
    image: torch.Tensor, text: torch.Tensor, scale: torch.Tensor, _: torch.Tensor
) -> torch.Tensor:
    loss = ClipLoss()(image, text, scale)
    same = image_text_contrastive_loss(scale * text @ image.T)
    torch.testing.assert_close(loss, same)
    return loss


def siglip(
    image: torch.Tensor, text: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor
) -> torch.Tensor:
    return SigLipLoss()(image, text, scale, bias)


def weights(logits: torch.Tensor) -> torch.Tensor:
    """Of the negatives of each row: their number times the softmax of BETA times their logits."""
    result = torch.ones_like(logits)
    for row in range(len(logits)):
        others = [column for column in range(len(logits)) if column != row]
        chosen = torch.softmax(BETA * logits[row, others].detach(), 0)
        result[row, others] = len(others) * chosen
    return result


def clip_hard(
    image: torch.Tensor, text: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor
) -> torch.Tensor:
    logits, terms = scale * image @ text.T + bias, []
    for direction in (logits, logits.T):
        shares = torch.exp(direction) * weights(direction)
        terms.append(torch.log(shares.sum(1)) - direction.diagonal())
    return torch.stack(terms).mean()


def siglip_hard(
    image: torch.Tensor, text: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor
) -> torch.Tensor:
    logits = scale * image @ text.T + bias
    own = torch.eye(len(logits), dtype=torch.bool)
    mean = (weights(logits) + weights(logits.T).T) / 2
    sign = torch.where(own, 1.0, -1.0)
    return -(mean * torch.nn.functional.logsigmoid(sign * logits)).sum(1).mean()


LOSSES: dict[str, Callable[..., torch.Tensor]] = {
    "clip": clip,
    "siglip": siglip,
    "clip_hard": clip_hard,
    "siglip_hard": siglip_hard,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the file goes")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.RandomState(0)
    image = random.randn(PAIRS, SIZE).astype(np.float32)
    text = (0.4 * image + random.randn(PAIRS, SIZE)).astype(np.float32)
    mask = np.ones(PAIRS, np.float32)
    mask[[3, 11, 12]] = 0
    scalars = {"log_scale": np.float32(LOG_SCALE), "bias": np.float32(BIAS)}
    inputs = {"image": image, "text": text, **scalars}
    stored = {**inputs, "mask": mask}
    rows = np.flatnonzero(mask)
    for name, loss in LOSSES.items():
        values = {
            key: torch.tensor(value, dtype=torch.float64, requires_grad=True)
            for key, value in inputs.items()
        }
        x, y = (
            torch.nn.functional.normalize(values[key], dim=-1)[rows] for key in ("image", "text")
        )
        total = loss(x, y, values["log_scale"].exp(), values["bias"])
        total.backward()
        stored[f"{name}/loss"] = np.array(total.item())
        for key, value in values.items():
            gradient = torch.zeros_like(value) if value.grad is None else value.grad
            stored[f"{name}/{key}"] = gradient.numpy().astype(np.float32)
        print(f"{name}: {total.item():.6f}")
    save_file(
        {key: np.asarray(value) for key, value in stored.items()},
        folder / "contrastive.safetensors",
    )


if __name__ == "__main__":
    main()
