"""Small models of CLIP's and SigLIP's form, of transformers, as published ones are stored."""

import json
from pathlib import Path

import tokenizers
from safetensors.numpy import load_file, save_file
from stored import REFERENCES

CONFIGS = json.loads((REFERENCES / "image_text_configs.json").read_text())
WORDS = ("dog", "cat", "beach", "hund")
IDS = {"[UNK]": 0, "</s>": 1, **{word: 2 + i for i, word in enumerate(WORDS)}}
IDS |= {"<|startoftext|>": 38, "<|endoftext|>": 39}


def unpack(kind: str, folder: Path) -> Path:
    """A folder as published: weights, configurations, and a tokenizer of a few words."""
    name = f"transformers_{kind}"
    stored = load_file(REFERENCES / f"image_text_{name}.safetensors")
    tensors = {n.removeprefix("weights/"): t for n, t in stored.items() if "weights/" in n}
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIGS[name]))
    text = json.dumps(CONFIGS["processors"][name])
    (folder / "preprocessor_config.json").write_text(text)
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(IDS, unk_token="[UNK]"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    backend.save(str(folder / "tokenizer.json"))
    return folder
