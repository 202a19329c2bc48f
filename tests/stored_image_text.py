"""Small CLIP and SigLIP of other libraries, with what they compute, as folders of files."""

import json
from pathlib import Path

import numpy as np
import tokenizers
from safetensors.numpy import load_file, save_file
from stored import REFERENCES

CONFIGS = json.loads((REFERENCES / "image_text_configs.json").read_text())
NAMES = ("transformers_clip", "transformers_siglip", "open_clip", "open_clip_siglip")
WORDS = ("dog", "cat", "beach", "hund")
IDS = {"[UNK]": 0, "</s>": 1, **{word: 2 + i for i, word in enumerate((*WORDS, "red"))}}
IDS |= {"<|startoftext|>": 38, "<|endoftext|>": 39}


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


def unpack_whole(kind: str, folder: Path) -> Path:
    """A folder of transformers as published: also preprocessing, and a tokenizer of a few words."""
    name = f"transformers_{kind}"
    unpack(name, folder)
    text = json.dumps(CONFIGS["processors"][name])
    (folder / "preprocessor_config.json").write_text(text)
    write_tokenizer(folder)
    return folder


def write_tokenizer(folder: Path) -> None:
    """Writes a tokenizer of a few words, `IDS`, in the form of transformers."""
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(IDS, unk_token="[UNK]"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    backend.save(str(folder / "tokenizer.json"))
