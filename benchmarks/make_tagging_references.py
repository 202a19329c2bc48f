"""Makes tests/references/tagging.json and tests/references/tagging.safetensors.

Needs torch, scikit-learn, safetensors, numpy (nothing of jaxtag):

    python benchmarks/make_tagging_references.py tests

Metrics are scikit-learn's, on scores with many ties, with some labels unknown. Losses are written
as their papers have them, in float64, with autograd's gradients; the query head is ML-Decoder's
forward pass of torch's own layers. The committed files were made with torch 2.13.0 and
scikit-learn 1.9.1 on a CPU.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from sklearn.metrics import average_precision_score, f1_score, precision_score, recall_score
from torch import nn

PICTURES, TAGS = 60, 9


def metrics() -> dict[str, list]:
    """Inputs and what scikit-learn makes of them, tag by tag over what is known."""
    rng = np.random.RandomState(0)
    scores = rng.randint(0, 12, (PICTURES, TAGS)) / 11  # many ties
    tags = rng.rand(PICTURES, TAGS) < 0.1 + 0.6 * scores * rng.rand(TAGS)
    known = rng.rand(PICTURES, TAGS) < 0.85
    tags[:, -1] = False  # a tag that no picture has
    thresholds = np.linspace(0.2, 0.9, TAGS)
    chosen = scores >= thresholds
    columns = [(tags[known[:, t], t], scores[known[:, t], t]) for t in range(TAGS - 1)]
    decided = [(tags[known[:, t], t], chosen[known[:, t], t]) for t in range(TAGS - 1)]
    return {
        "scores": scores.tolist(),
        "tags": tags.astype(int).tolist(),
        "known": known.astype(int).tolist(),
        "thresholds": thresholds.tolist(),
        "average_precision": [average_precision_score(*column) for column in columns],
        "precision": [precision_score(*column, zero_division=0) for column in decided],
        "recall": [recall_score(*column) for column in decided],
        "f1": [f1_score(*column) for column in decided],
        "micro_f1": f1_score(tags[known], chosen[known]),
    }


def asymmetric(z: torch.Tensor, y: torch.Tensor, gamma_neg, gamma_pos, clip) -> torch.Tensor:
    """Ridnik et al. 2021, arXiv:2009.14119, equations 4, 6 and 7."""
    p = torch.sigmoid(z)
    q = (p - clip).clamp(min=0)
    return -y * (1 - p) ** gamma_pos * p.log() - (1 - y) * q**gamma_neg * (1 - q).log()


def focal(z: torch.Tensor, y: torch.Tensor, gamma, alpha) -> torch.Tensor:
    """Lin et al. 2017, arXiv:1708.02002, equations 2 and 5."""
    p = torch.sigmoid(z)
    p_t = torch.where(y == 1, p, 1 - p)
    alpha_t = torch.where(y == 1, alpha, 1 - alpha)
    return -alpha_t * (1 - p_t) ** gamma * p_t.log()


def losses() -> dict[str, np.ndarray]:
    """logits, labels, and each loss with its gradient, elementwise."""
    torch.manual_seed(0)
    z = (3 * torch.randn(8, 5, dtype=torch.float64)).requires_grad_()
    y = (torch.rand(8, 5) < 0.4).double()
    tensors = {"logits": z.detach(), "labels": y}
    for name, values in {
        "asymmetric": asymmetric(z, y, 4, 0, 0.05),
        "asymmetric_both": asymmetric(z, y, 3, 1, 0.0),
        "focal": focal(z, y, 2.0, 0.25),
        "binary_cross_entropy": nn.functional.binary_cross_entropy_with_logits(
            z, y, reduction="none"
        ),
    }.items():
        tensors[name] = values.detach()
        tensors[f"{name}_gradient"] = torch.autograd.grad(values.sum(), z)[0]
    return {name: value.numpy() for name, value in tensors.items()}


def query_head(features=6, width=8, heads=2, groups=3, tags=7) -> dict[str, np.ndarray]:
    """Weights, inputs and logits of ML-Decoder (the authors' `MLDecoder`), in inference."""
    torch.manual_seed(1)
    attention = nn.MultiheadAttention(width, heads, batch_first=True)
    linears = {
        "memory": nn.Linear(features, width),
        "fc1": nn.Linear(width, 4 * width),
        "fc2": nn.Linear(4 * width, width),
    }
    norms = {f"norm{i}": nn.LayerNorm(width) for i in (1, 2, 3)}
    for parameter in attention.parameters():
        nn.init.normal_(parameter, std=0.5)
    for norm in norms.values():
        nn.init.normal_(norm.weight, 1.0, 0.3)
        nn.init.normal_(norm.bias, 0.0, 0.3)
    queries = torch.randn(groups, width)
    per_group = -(-tags // groups)
    kernel, bias = torch.randn(groups, width, per_group), torch.randn(tags)
    pictures = torch.randn(2, 4, features)

    memory = linears["memory"](pictures).relu()
    x = queries.expand(len(pictures), -1, -1)
    x = norms["norm1"](x + x)
    x = norms["norm2"](x + attention(x, memory, memory, need_weights=False)[0])
    x = norms["norm3"](x + linears["fc2"](linears["fc1"](x).relu()))
    logits = torch.stack([x[:, g] @ kernel[g] for g in range(groups)], 1)
    logits = logits.flatten(1)[:, :tags] + bias

    tensors = {"queries": queries, "head_kernel": kernel, "head_bias": bias}
    for name, layer in linears.items():
        tensors[f"{name}/kernel"], tensors[f"{name}/bias"] = layer.weight.T, layer.bias
    for name, layer in norms.items():
        tensors[f"{name}/scale"], tensors[f"{name}/bias"] = layer.weight, layer.bias
    weights, biases = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
    tensors["query/kernel"], tensors["query/bias"] = weights[0].T, biases[0]
    tensors["key_value/kernel"] = torch.stack([w.T for w in weights[1:]], 1)
    tensors["key_value/bias"] = torch.stack(biases[1:])
    tensors["out/kernel"], tensors["out/bias"] = (
        attention.out_proj.weight.T,
        attention.out_proj.bias,
    )
    tensors = {f"params/{name}": value for name, value in tensors.items()}
    tensors |= {"pictures": pictures, "query_head_logits": logits}
    return {name: value.detach().contiguous().numpy() for name, value in tensors.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tests", type=Path, help="the folder of tests")
    folder = parser.parse_args().tests
    for name in ("evaluation", "tasks"):
        (folder / name / "references").mkdir(exist_ok=True)
    (folder / "evaluation/references/tagging.json").write_text(json.dumps(metrics()) + "\n")
    save_file(losses() | query_head(), folder / "tasks/references/tagging.safetensors")


if __name__ == "__main__":
    main()
