"""Small captioners of BLIP's and GIT's form, and what transformers makes of images with them."""

import json
from functools import cache
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file
from stored import REFERENCES

FAMILIES = ("blip", "git")


@cache
def stored(name: str) -> tuple[dict[str, np.ndarray], dict[str, str], dict[str, list[str]]]:
    """Tensors, the files of the captioner's folder, and the prompts of each kind."""
    with safe_open(REFERENCES / f"captions_{name}.safetensors", "np") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        notes = file.metadata()
    return tensors, json.loads(notes["files"]), json.loads(notes["prompts"])


def unpack(name: str, folder: Path, **changes) -> Path:
    """The captioner's folder; `changes` are of config.json."""
    tensors, files, _ = stored(name)
    folder.mkdir()
    for file, text in files.items():
        if file == "config.json":
            text = json.dumps({**json.loads(text), **changes})
        (folder / file).write_text(text)
    named = {k.removeprefix("weights/"): t for k, t in tensors.items() if k.startswith("weights/")}
    save_file(named, folder / "model.safetensors")
    return folder
