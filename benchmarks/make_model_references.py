"""Makes the reference files of tests/models: what PyTorch and transformers compute.

Needs torch, transformers, safetensors, numpy (nothing of jaxtag):

    python benchmarks/make_model_references.py tests/references

The committed files were made with torch 2.13.0 and transformers 5.24.0 on a CPU.
"""

import argparse
import copy
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from transformers import (
    GPT2Config,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
    ViTModel,
)

VIT = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 40,
    "image_size": 32,
    "patch_size": 8,
    "layer_norm_eps": 1e-6,
}
IMAGE_SIZES = ((32, 32), (40, 24), (37, 51))
BOS, EOS, PAD = 1, 2, 0
LENGTH = 14  # of generated captions
MODELS = 24
PICTURES = 6
SETTINGS = [
    {"num_beams": 1},
    {"num_beams": 4, "length_penalty": 1.0, "early_stopping": False},
    {"num_beams": 4, "length_penalty": 1.0, "early_stopping": True},
    {"num_beams": 4, "length_penalty": 0.0, "early_stopping": False},
    {"num_beams": 4, "length_penalty": 0.0, "early_stopping": "never"},
    {"num_beams": 4, "length_penalty": 2.0, "early_stopping": False},
    {"num_beams": 4, "length_penalty": 2.0, "early_stopping": "never"},
    {"num_beams": 4, "length_penalty": -1.0, "early_stopping": False},
    {"num_beams": 3, "length_penalty": 0.6, "early_stopping": True},
]


def file_tensors(model) -> dict[str, np.ndarray]:
    """The tensors as `save_pretrained` writes them."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return load_file(Path(folder) / "model.safetensors")


def gradients(model) -> dict[str, np.ndarray]:
    """The gradients under the names of `save_pretrained` (zero where there is none)."""
    twin = copy.deepcopy(model)
    for mine, theirs in zip(twin.parameters(), model.parameters(), strict=True):
        mine.data = torch.zeros_like(theirs) if theirs.grad is None else theirs.grad
    return file_tensors(twin)


def randomise(model, seed: int) -> None:
    """Values in all parameters, also in those that start as zeros or ones."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data += 0.15 * noise


def prefixed(prefix: str, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {f"{prefix}/{name}": np.ascontiguousarray(t) for name, t in tensors.items()}


def captioner(vit: dict, **decoder) -> VisionEncoderDecoderModel:
    gpt2 = GPT2Config(
        n_layer=2, n_head=2, bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD,
        add_cross_attention=True, is_decoder=True, **decoder,
    )  # fmt: skip
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(ViTConfig(**vit), gpt2)
    config.decoder_start_token_id, config.pad_token_id = BOS, PAD
    return VisionEncoderDecoderModel(config).eval()


def make_vit(path: Path) -> None:
    torch.manual_seed(0)
    model = ViTModel(ViTConfig(**VIT), add_pooling_layer=False).eval()
    randomise(model, 1)
    tensors = prefixed("weights", file_tensors(model))
    random = np.random.RandomState(2)
    for height, width in IMAGE_SIZES:
        images = random.randn(2, height, width, 3).astype(np.float32)
        pixels = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
        model.zero_grad()
        features = model(pixels, interpolate_pos_encoding=True).last_hidden_state
        factors = random.randn(*features.shape).astype(np.float32)
        (features * torch.from_numpy(factors)).mean().backward()
        name = f"{height}x{width}"
        tensors |= {
            f"images/{name}": images,
            f"features/{name}": features.detach().numpy(),
            f"factors/{name}": factors,
        }
        tensors |= prefixed(f"gradients/{name}", gradients(model))
    save_file(tensors, path)


def make_captioner(path: Path, width: int) -> None:
    torch.manual_seed(width)
    model = captioner(VIT, vocab_size=37, n_positions=12, n_embd=width, n_inner=3 * width)
    randomise(model, 3)
    random = np.random.RandomState(4)
    images = random.randn(2, 32, 32, 3).astype(np.float32)
    tokens = random.randint(3, 37, (2, 3, 10))
    tokens[..., 0] = BOS
    for row, end in zip(tokens.reshape(6, 10), (9, 5, 7, 3, 9, 8), strict=True):
        row[end], row[end + 1 :] = EOS, PAD
    pixels = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).repeat_interleave(3, 0)
    inputs = torch.from_numpy(tokens[..., :-1].reshape(6, -1).copy())
    labels = torch.from_numpy(tokens[..., 1:].reshape(6, -1).copy())
    labels = labels.masked_fill(labels == PAD, -100)
    output = model(pixel_values=pixels, decoder_input_ids=inputs, labels=labels)
    output.loss.backward()
    tensors = prefixed("weights", file_tensors(model)) | prefixed("gradients", gradients(model))
    tensors |= {
        "images": images,
        "tokens": tokens.astype(np.int32),
        "logits": output.logits.detach().numpy().reshape(2, 3, 9, 37),
        "loss": output.loss.detach().numpy(),
    }
    save_file(tensors, path)


def drawn_weights(shapes: dict[str, list[int]], seed: int) -> dict[str, np.ndarray]:
    """Weights from a seed alone, so that the file needs to hold none (the test repeats this).

    The end token's logit rises along the caption, at a pace that differs between the models.
    """
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
    return {name: w.astype(np.float32) for name, w in weights.items()}


def generated(model, weights, pixels, settings, noise: float, dtype) -> tuple:
    """Tokens `[B, LENGTH]`, padded after their end, and scores `[B]` (beam search)."""
    random = np.random.RandomState(99)
    shaken = {n: torch.from_numpy(w * (1 + noise * random.randn(*w.shape))).to(dtype)
              for n, w in weights.items()}  # fmt: skip
    model = model.to(dtype)
    with tempfile.TemporaryDirectory() as folder:
        save_file({n: w.numpy() for n, w in shaken.items()}, Path(folder) / "model.safetensors",
                  metadata={"format": "pt"})  # fmt: skip
        model.config.save_pretrained(folder)
        model = VisionEncoderDecoderModel.from_pretrained(folder, dtype=dtype).eval()
    output = model.generate(
        pixels.to(dtype), max_length=LENGTH, do_sample=False, decoder_start_token_id=BOS,
        bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD, use_cache=True,
        return_dict_in_generate=True, output_scores=True, **settings,
    )  # fmt: skip
    rows = np.full((len(pixels), LENGTH), PAD, np.int32)
    for row, sequence in zip(rows, output.sequences.numpy(), strict=True):
        ends = np.flatnonzero(sequence[1:] == EOS)
        length = ends[0] + 2 if len(ends) else len(sequence)
        row[:length] = sequence[:length]
    scores = getattr(output, "sequences_scores", None)
    return rows, np.zeros(len(pixels), np.float32) if scores is None else scores.float().numpy()


def make_generation(path: Path) -> None:
    vit = VIT | {"hidden_size": 12, "intermediate_size": 24, "image_size": 16}
    model = captioner(vit, vocab_size=29, n_positions=LENGTH, n_embd=16, n_inner=32)
    shapes = {n: list(t.shape) for n, t in file_tensors(model).items() if "pooler" not in n}
    images = np.random.RandomState(5).standard_normal((PICTURES, 16, 16, 3)).astype(np.float32)
    pixels = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    tokens = np.zeros((len(SETTINGS), MODELS, PICTURES, LENGTH), np.int32)
    scores = np.zeros(tokens.shape[:3], np.float32)
    certain = np.ones(tokens.shape[:3], np.uint8)
    for m in range(MODELS):
        weights = drawn_weights(shapes, m)
        for s, settings in enumerate(SETTINGS):
            tokens[s, m], scores[s, m] = generated(
                model, weights, pixels, settings, 0, torch.float32
            )
            # A choice that rounding can turn is no evidence: leave such captions out.
            for noise in (0.0, 1e-5, 1e-4):
                other, _ = generated(model, weights, pixels, settings, noise, torch.float64)
                certain[s, m] &= (other == tokens[s, m]).all(-1)
    lengths = (tokens != PAD).sum(-1)
    print("certain:", certain.mean(), "lengths:", np.bincount(lengths.ravel()))
    notes = {"shapes": json.dumps(shapes), "settings": json.dumps(SETTINGS)}
    tensors = {"images": images, "tokens": tokens, "scores": scores, "certain": certain}
    save_file(tensors, path, metadata=notes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the files go")
    folder = parser.parse_args().folder
    make_vit(folder / "vit.safetensors")
    make_captioner(folder / "captioner_16.safetensors", 16)
    make_captioner(folder / "captioner_24.safetensors", 24)
    make_generation(folder / "generation.safetensors")


if __name__ == "__main__":
    main()
