"""Makes tests/references/metric_learning.safetensors: metric losses, their gradients, NMI.

Needs torch, scikit-learn, safetensors, numpy (nothing of jaxtag):

    python benchmarks/make_metric_learning_references.py tests/references

Each loss is written out pair by pair from its paper's equation, in float64; autograd gives the
gradients with respect to the vectors before they are brought to length 1. The committed file was
made with torch 2.13.0 and scikit-learn 1.9.1 on a CPU.
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from sklearn.metrics import normalized_mutual_info_score

PICTURES, SIZE, CLASSES = 24, 6, 7
Vectors = list[torch.Tensor]


def pairs(labels: list[int]) -> Iterator[tuple[int, list[int], list[int]]]:
    """(anchor, its positives, its negatives)."""
    for anchor, label in enumerate(labels):
        others = [i for i in range(len(labels)) if i != anchor]
        yield (
            anchor,
            [i for i in others if labels[i] == label],
            [i for i in others if labels[i] != label],
        )


def distance(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return ((x - y) ** 2).sum().sqrt()


def mean(terms: Vectors) -> torch.Tensor:
    return torch.stack(terms).mean()


def contrastive(x: torch.Tensor, labels: list[int], margin: float = 1.0) -> torch.Tensor:
    """Hadsell et al. 2006, equation 4."""
    terms = []
    for anchor, positives, negatives in pairs(labels):
        terms += [distance(x[anchor], x[p]) ** 2 / 2 for p in positives]
        terms += [(margin - distance(x[anchor], x[n])).clamp(min=0) ** 2 / 2 for n in negatives]
    return mean(terms)


def triplet_all(x: torch.Tensor, labels: list[int], margin: float = 0.2) -> torch.Tensor:
    """Hermans et al. 2017, section 2, mean of the non-zero terms."""
    terms = [
        margin + distance(x[anchor], x[p]) - distance(x[anchor], x[n])
        for anchor, positives, negatives in pairs(labels)
        for p in positives
        for n in negatives
    ]
    return mean([term for term in terms if term > 0])


def triplet_hard(x: torch.Tensor, labels: list[int], margin: float = 0.2) -> torch.Tensor:
    """Hermans et al. 2017, equation 5."""
    terms = []
    for anchor, positives, negatives in pairs(labels):
        if positives and negatives:
            furthest = max(distance(x[anchor], x[p]) for p in positives)
            nearest = min(distance(x[anchor], x[n]) for n in negatives)
            terms.append((margin + furthest - nearest).clamp(min=0))
    return mean(terms)


def triplet_semi_hard(x: torch.Tensor, labels: list[int], margin: float = 0.2) -> torch.Tensor:
    """Schroff et al. 2015, equations 1 and 4: d_ap < d_an < d_ap + margin, the smallest d_an."""
    terms = []
    for anchor, positives, negatives in pairs(labels):
        for p in positives:
            gap = ((x[anchor] - x[p]) ** 2).sum()
            gaps = [((x[anchor] - x[n]) ** 2).sum() for n in negatives]
            inside = [g for g in gaps if gap < g < gap + margin]
            if inside:
                terms.append(gap + margin - min(inside))
    return mean(terms)


def n_pair(x: torch.Tensor, labels: list[int], scale: float = 16.0) -> torch.Tensor:
    """Sohn 2016, section 3, over all pairs of a class."""
    terms = []
    for anchor, positives, negatives in pairs(labels):
        for p in positives:
            own = x[anchor] @ x[p]
            ratios = [torch.exp(scale * (x[anchor] @ x[n] - own)) for n in negatives]
            terms.append(torch.log(1 + sum(ratios)))
    return mean(terms)


def multi_similarity(
    x: torch.Tensor,
    labels: list[int],
    alpha: float = 2.0,
    beta: float = 50.0,
    base: float = 0.5,
    margin: float = 0.1,
) -> torch.Tensor:
    """Wang et al. 2019, section 4: pairs are mined, then weighted."""
    terms = []
    for anchor, positives, negatives in pairs(labels):
        near, far = [x[anchor] @ x[p] for p in positives], [x[anchor] @ x[n] for n in negatives]
        pushed = [s for s in far if near and s > min(near) - margin]
        pulled = [s for s in near if far and s < max(far) + margin]
        pull = sum((torch.exp(-alpha * (s - base)) for s in pulled), torch.zeros(()))
        push = sum((torch.exp(beta * (s - base)) for s in pushed), torch.zeros(()))
        terms.append(torch.log(1 + pull) / alpha + torch.log(1 + push) / beta)
    return mean(terms)


def proxy_anchor(
    x: torch.Tensor,
    labels: list[int],
    proxies: torch.Tensor,
    margin: float = 0.1,
    scale: float = 32.0,
) -> torch.Tensor:
    """Kim et al. 2020, equation 4."""
    pull, push = [], []
    for number, proxy in enumerate(proxies):
        inside = [x[i] @ proxy for i, label in enumerate(labels) if label == number]
        outside = [x[i] @ proxy for i, label in enumerate(labels) if label != number]
        if inside:
            pull.append(torch.log(1 + sum(torch.exp(-scale * (s - margin)) for s in inside)))
        push.append(torch.log(1 + sum(torch.exp(scale * (s + margin)) for s in outside)))
    return mean(pull) + mean(push)


def arcface(
    x: torch.Tensor,
    labels: list[int],
    proxies: torch.Tensor,
    margin: float = 0.5,
    scale: float = 64.0,
) -> torch.Tensor:
    """Deng et al. 2019, equation 3."""
    terms = []
    for vector, label in zip(x, labels, strict=True):
        angles = torch.acos(proxies @ vector)
        own = torch.exp(scale * torch.cos(angles[label] + margin))
        others = sum(torch.exp(scale * torch.cos(a)) for i, a in enumerate(angles) if i != label)
        terms.append(-torch.log(own / (own + others)))
    return mean(terms)


PAIRS: dict[str, Callable[..., torch.Tensor]] = {
    "contrastive": contrastive,
    "triplet_all": triplet_all,
    "triplet_hard": triplet_hard,
    "triplet_semi_hard": triplet_semi_hard,
    "n_pair": n_pair,
    "multi_similarity": multi_similarity,
}
PROXIES: dict[str, Callable[..., torch.Tensor]] = {"proxy_anchor": proxy_anchor, "arcface": arcface}


def losses(random: np.random.RandomState) -> dict[str, np.ndarray]:
    """Vectors scattered around a centre a class; one class has a single picture, one none."""
    labels = np.append(np.arange(PICTURES - 1) % (CLASSES - 2), CLASSES - 2).astype(np.int32)
    labels = random.permutation(labels)
    centres = random.randn(CLASSES, SIZE)
    embeddings = (centres[labels] + 0.9 * random.randn(PICTURES, SIZE)).astype(np.float32)
    mask = np.ones(PICTURES, np.float32)
    mask[[3, 11]] = 0
    proxies = random.randn(CLASSES, SIZE).astype(np.float32)
    stored = {"embeddings": embeddings, "labels": labels, "mask": mask, "proxies": proxies}
    rows = np.flatnonzero(mask)
    for name, loss in {**PAIRS, **PROXIES}.items():
        inputs = [torch.tensor(embeddings, dtype=torch.float64, requires_grad=True)]
        if name in PROXIES:
            inputs.append(torch.tensor(proxies, dtype=torch.float64, requires_grad=True))
        x, *others = [torch.nn.functional.normalize(value, dim=-1) for value in inputs]
        value = loss(x[rows], labels[rows].tolist(), *others)
        value.backward()
        stored[f"{name}/loss"] = np.array(value.item())
        stored[f"{name}/embeddings"] = inputs[0].grad.numpy().astype(np.float32)
        if name in PROXIES:
            stored[f"{name}/proxies"] = inputs[1].grad.numpy().astype(np.float32)
    return stored


def agreements(random: np.random.RandomState) -> dict[str, np.ndarray]:
    """Pairs of groupings [cases, 2, 40] and their normalised mutual information."""
    first = random.randint(0, 5, (4, 40))
    second = np.where(random.rand(4, 40) < 0.6, (first * 2) % 7, random.randint(0, 7, (4, 40)))
    second[1], second[2] = first[1] + 3, 0
    values = [normalized_mutual_info_score(a, b) for a, b in zip(first, second, strict=True)]
    groups = np.stack([first, second], 1).astype(np.int32)
    return {"nmi/groups": groups, "nmi/values": np.array(values)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the file goes")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.RandomState(0)
    stored = losses(random) | agreements(random)
    save_file(stored, folder / "metric_learning.safetensors")
    for name in (*PAIRS, *PROXIES):
        print(f"{name}: {stored[f'{name}/loss']:.6f}")


if __name__ == "__main__":
    main()
