"""Small CLIP and SigLIP of other libraries, with what they compute, as folders of files."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file
from stored import REFERENCES

CONFIGS = json.loads((REFERENCES / "image_text_configs.json").read_text())
NAMES = ("transformers_clip", "transformers_siglip", "open_clip", "open_clip_siglip")


def unpack(name: str, folder: Path) -> dict[str, np.ndarray]:
    """Writes weights and configuration as published; returns the inputs and outputs."""
    stored = load_file(REFERENCES / f"image_text_{name}.safetensors")
    tensors = {n.removeprefix("weights/"): t for n, t in stored.items() if "weights/" in n}
    is_theirs = name.startswith("transformers")
    folder.mkdir(exist_ok=True)
    save_file(
        tensors, folder / ("model.safetensors" if is_theirs else "open_clip_model.safetensors")
    )
    file = folder / ("config.json" if is_theirs else "open_clip_config.json")
    file.write_text(json.dumps(CONFIGS[name]))
    return {**stored, "tensors": tensors}
