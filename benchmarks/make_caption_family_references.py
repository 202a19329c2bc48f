"""Makes tests/references/captions_{blip,git}.safetensors: small captioners of transformers.

Needs torch, transformers, tokenizers, safetensors, numpy (nothing of jaxtag):

    python benchmarks/make_caption_family_references.py tests/references

The committed files were made with torch 2.13.0 and transformers 5.24.0 on a CPU. A file holds what
`save_pretrained` writes, with tokenizer and preprocessing as these families are published, and the
logits and captions of random images.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.numpy import load_file, save_file

SIZE, PATCH, IMAGES, LENGTH = 32, 8, 8, 14
WORDS = "a an the photo of red blue green circle square star dog cat on in and two small large ##s"
TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS.split()]
CLS, SEP = TOKENS.index("[CLS]"), TOKENS.index("[SEP]")
# One for all images, or one for each, of different lengths.
PROMPTS = {"": [""] * IMAGES, "shared": ["a photo of"] * IMAGES}
PROMPTS["own"] = ["a photo of", "two small dogs", "", "the cat", "red", "a", "blue star on", "in"]
MEAN, STD = [0.48, 0.45, 0.4], [0.27, 0.26, 0.28]
VISION = {"hidden_size": 12, "intermediate_size": 24, "num_hidden_layers": 2}
VISION |= {"num_attention_heads": 2, "image_size": SIZE, "patch_size": PATCH}
TEXT = {"hidden_size": 16, "intermediate_size": 64, "num_hidden_layers": 2}
TEXT |= {"num_attention_heads": 2, "max_position_embeddings": 24}


def blip() -> transformers.PreTrainedModel:
    """Its tokenizer has no token for the start, whose id follows the last."""
    text = {**TEXT, "vocab_size": len(TOKENS) + 2, "bos_token_id": len(TOKENS), "sep_token_id": SEP}
    config = transformers.BlipConfig(text_config=text, vision_config=VISION)
    return transformers.BlipForConditionalGeneration(config)


def git() -> transformers.PreTrainedModel:
    ids = {"vocab_size": len(TOKENS), "bos_token_id": CLS, "eos_token_id": SEP}
    return transformers.GitForCausalLM(transformers.GitConfig(**TEXT, **ids, vision_config=VISION))


PREPROCESSORS = {
    "blip": {"image_processor_type": "BlipImageProcessor", "size": {"height": SIZE, "width": SIZE}},
    "git": {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": SIZE},
        "do_center_crop": True,
        "crop_size": {"height": SIZE, "width": SIZE},
    },
}


def randomize(model: transformers.PreTrainedModel, seed: int) -> None:
    """Random weights, with which captions differ and end."""
    random = np.random.RandomState(seed)
    for name, parameter in model.named_parameters():
        norm = "norm" in name.lower() or name.endswith("visual_projection.1.weight")
        noise = random.standard_normal(tuple(parameter.shape)).astype(np.float32)
        scale = 0.1 if norm or name.endswith("bias") else 0.5
        parameter.data = torch.from_numpy(scale * noise + float(norm and "weight" in name))
    head = model.text_decoder.cls.predictions if hasattr(model, "text_decoder") else model.output
    head.bias.data[SEP] += 2.0 if hasattr(model, "text_decoder") else 5.0


def write_folder(folder: Path, name: str, model: transformers.PreTrainedModel) -> None:
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(TOKENS) + "\n")
    vocabulary = {token: number for number, token in enumerate(TOKENS)}
    transformers.BertTokenizerFast(vocab=vocabulary).save_pretrained(folder)
    common = {"do_resize": True, "resample": 3, "do_normalize": True}
    processor = {**common, **PREPROCESSORS[name], "image_mean": MEAN, "image_std": STD}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))


def prompt_ids(tokenizer: transformers.PreTrainedTokenizerFast, name: str, text: str):
    """As the processors of the families encode prompts."""
    if name == "blip":
        return tokenizer([text], return_tensors="pt")["input_ids"]  # [CLS] … [SEP]
    return torch.tensor([[CLS, *tokenizer(text, add_special_tokens=False)["input_ids"]]])


@torch.no_grad()
def captions(model, tokenizer, name: str, pixels: torch.Tensor, texts: list[str], beams: int):
    """Tokens [N, LENGTH] of each image alone, filled with -1 after the end."""
    rows = np.full((len(texts), LENGTH), -1, np.int32)
    for row, image, text in zip(rows, pixels, texts, strict=True):
        ids = prompt_ids(tokenizer, name, text)
        settings = {"do_sample": False, "num_beams": beams, "max_length": LENGTH}
        tokens = model.generate(pixel_values=image[None], input_ids=ids, **settings)[0].tolist()
        end = tokens.index(SEP, 1) + 1 if SEP in tokens[1:] else len(tokens)
        row[:end] = tokens[:end]
    return rows


def make(name: str, model: transformers.PreTrainedModel, path: Path) -> None:
    randomize(model.eval(), 3)
    images = np.random.RandomState(7).randint(0, 256, (IMAGES, SIZE, SIZE, 3), np.uint8)
    normalized = (images.astype(np.float32) / 255 - np.float32(MEAN)) / np.float32(STD)
    pixels = torch.from_numpy(normalized.transpose(0, 3, 1, 2).copy())
    with tempfile.TemporaryDirectory() as folder_name:
        folder = Path(folder_name)
        write_folder(folder, name, model)
        files = {file.name: file.read_text() for file in folder.glob("*.json")}
        files |= {file.name: file.read_text() for file in folder.glob("*.txt")}
        weights = load_file(folder / "model.safetensors")
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tensors = {f"weights/{key}": tensor for key, tensor in weights.items()}
    tensors["images"] = images
    for kind, texts in PROMPTS.items():
        for beams in (1, 3):
            rows = captions(model, tokenizer, name, pixels, texts, beams)
            twin = captions(model.double(), tokenizer, name, pixels.double(), texts, beams)
            model.float()
            assert (rows == twin).all()  # none hangs on rounding
            tensors[f"tokens/{kind}/{beams}"] = rows
            lengths = (rows >= 0).sum(1)
            print(name, kind, beams, "lengths", lengths, "distinct", len(np.unique(rows, axis=0)))
    given = np.maximum(tensors["tokens//1"][:, :-1], 0)
    ids = torch.from_numpy(given.astype(np.int64))
    with torch.no_grad():
        if name == "blip":
            features = model.vision_model(pixels).last_hidden_state
            logits = model.text_decoder(ids, encoder_hidden_states=features).logits
        else:
            logits = model(input_ids=ids, pixel_values=pixels).logits[:, -given.shape[1] :]
    tensors |= {"given": given, "logits": logits.numpy().copy()}
    save_file(tensors, path, metadata={"files": json.dumps(files), "prompts": json.dumps(PROMPTS)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the files go")
    folder = parser.parse_args().folder
    torch.manual_seed(0)
    for name, model in (("blip", blip()), ("git", git())):
        make(name, model, folder / f"captions_{name}.safetensors")


if __name__ == "__main__":
    main()
