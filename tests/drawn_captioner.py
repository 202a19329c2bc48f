"""A small captioner whose captions differ much, and the tokens that transformers makes of it."""

import json
from functools import cache

import numpy as np
from safetensors import safe_open
from stored import REFERENCES

from jaxtag.models import Captioner, Decoder, ViT
from jaxtag.weights import param_mapping
from jaxtag.weights.mappings import captioner

FILE = REFERENCES / "generation.safetensors"
LENGTH, EOS, PAD = 14, 2, 0
CASES = 9


def model(**decoder) -> Captioner:
    encoder = ViT(patch_size=8, width=12, depth=2, heads=2, mlp_dim=24, image_size=16)
    return Captioner(
        encoder,
        Decoder(29, LENGTH, width=16, depth=2, heads=2, mlp_dim=32, **decoder),
    )


@cache
def stored() -> tuple[dict[str, np.ndarray], dict[str, str]]:
    with safe_open(FILE, "np") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


@cache
def drawn_params(seed: int, scan: bool = False):
    """The weights of `drawn_weights` in benchmarks/make_model_references.py."""
    shapes = json.loads(stored()[1]["shapes"])
    random = np.random.RandomState(seed)
    weights = {}
    for name in sorted(shapes):
        noise = random.standard_normal(shapes[name])
        norm = "layernorm" in name or ".ln_" in name
        scale = 0.1 if norm or name.endswith("bias") else 0.45
        weights[name] = scale * noise + (1.0 if norm and name.endswith("weight") else 0.0)
    tokens, positions = (weights[f"decoder.transformer.{n}.weight"] for n in ("wte", "wpe"))
    rise = random.standard_normal(tokens.shape[1])
    rise /= np.linalg.norm(rise)
    pace = 0.15 + 0.45 * random.random_sample()
    positions += np.outer(pace * (np.arange(len(positions)) - 4), rise)
    tokens[EOS] += 2.2 * rise
    weights = {name: w.astype(np.float32) for name, w in weights.items()}
    return param_mapping.to_variables(weights, captioner.transformers(model(scan=scan)))["params"]
