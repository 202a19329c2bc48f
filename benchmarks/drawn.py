"""What reference files need not hold: weights and pictures drawn from seeds, by name and shape.

The scripts that make references and the tests that read them both draw from here.
"""

from collections.abc import Mapping, Sequence

import numpy as np

SAMPLE = 2048  # elements of a large tensor that a file holds


def weights(
    shapes: Mapping[str, Sequence[int]], *, spread_norms: bool = False
) -> dict[str, np.ndarray]:
    """Float32 weights of the given names and shapes, in torch's layout, of usual sizes.

    spread_norms: biases of norms near 2 and -2, so that few values lie near 0, where rounding
    turns a ReLU and a gradient jumps.
    """
    random = np.random.RandomState(0)
    drawn = {}
    for name in sorted(shapes):
        noise = random.standard_normal(shapes[name])
        if name.endswith("running_var"):
            values = 1.0 + 0.3 * np.abs(noise)
        elif noise.ndim > 1:
            values = noise * np.sqrt(2.0 / np.prod(noise.shape[1:]))
        elif not spread_norms:
            values = 0.15 * noise + name.endswith("weight")
        else:
            values = 0.15 * noise
            if ("norm" in name or "bn" in name) and "shortcut" not in name:
                kind = name.rpartition(".")[2]
                values += {"weight": 1.0, "bias": 2.0 * np.sign(noise)}.get(kind, 0.0)
        drawn[name] = values.astype(np.float32)
    return drawn


def images(seed: int, size: tuple[int, int], deviation: float = 1.0) -> np.ndarray:
    """Float32 `[4, height, width, 3]`."""
    noise = np.random.RandomState(seed).standard_normal((4, *size, 3))
    return (deviation * noise).astype(np.float32)


def sampled(tensor: np.ndarray) -> np.ndarray:
    """All elements of a small tensor, `[SAMPLE]` of a large one."""
    flat = np.asarray(tensor).ravel()
    if flat.size <= SAMPLE:
        return flat
    return flat[np.random.RandomState(flat.size).randint(0, flat.size, SAMPLE)]
