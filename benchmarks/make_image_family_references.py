"""Makes tests/references/families_* and pillow_resize: families of timm and transformers, small.

Needs torch, timm, transformers, safetensors, numpy (nothing of jaxtag):

    python benchmarks/make_image_family_references.py tests/references

The committed files were made with torch 2.13.0, timm 1.0.31 and transformers 5.24.0 on a CPU.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import timm
import torch
import transformers
from PIL import Image
from safetensors.numpy import load_file, save_file

SIZE, PATCH, WIDTH, CLASSES = 32, 8, 16, 5
OTHER_SIZE = (45, 32)  # at which position embeddings are interpolated
SHAPE = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2}
SHAPE |= {"image_size": SIZE, "patch_size": PATCH, "num_labels": CLASSES}
TIMM = {"img_size": SIZE, "patch_size": PATCH, "embed_dim": WIDTH, "depth": 2, "num_heads": 2}
TIMM |= {"num_classes": CLASSES}
STAGES = {"depths": [1, 1, 2, 1], "hidden_sizes": [8, 12, 16, 20], "num_labels": CLASSES}
TIMM_STAGES = {"depths": [1, 1, 2, 1], "dims": [8, 12, 16, 20], "num_classes": CLASSES}


def transformers_models() -> dict[str, transformers.PreTrainedModel]:
    t = transformers
    swiglu = t.Dinov2Config(**SHAPE, mlp_ratio=4, use_swiglu_ffn=True)
    registers = t.Dinov2WithRegistersConfig(**SHAPE, mlp_ratio=2, num_register_tokens=3)
    return {
        "deit": t.DeiTForImageClassificationWithTeacher(
            t.DeiTConfig(**SHAPE, intermediate_size=24)
        ),
        "dinov2": t.Dinov2ForImageClassification(t.Dinov2Config(**SHAPE, mlp_ratio=2)),
        "dinov2_swiglu": t.Dinov2Model(swiglu),
        "dinov2_registers": t.Dinov2WithRegistersForImageClassification(registers),
        "convnext": t.ConvNextForImageClassification(t.ConvNextConfig(**STAGES)),
        "convnextv2": t.ConvNextV2ForImageClassification(t.ConvNextV2Config(**STAGES)),
    }


def timm_models() -> dict[str, tuple[str, dict]]:
    """Architecture and arguments of each."""
    tagger = {**TIMM, "class_token": False, "global_pool": "avg"}
    return {
        "deit": ("deit_tiny_distilled_patch16_224", {**TIMM, "mlp_ratio": 2}),
        "dinov2_reg": ("vit_small_patch14_reg4_dinov2", {**TIMM, "reg_tokens": 3}),
        "dinov2_giant": ("vit_giant_patch14_dinov2", {**TIMM, "mlp_ratio": 3}),
        "tagger": ("vit_base_patch16_224", {**tagger, "fc_norm": False, "act_layer": "gelu_tanh"}),
        "tagger_fc_norm": ("vit_base_patch16_224", tagger),
        "convnext": ("convnext_tiny", TIMM_STAGES),
        "convnextv2": ("convnextv2_tiny", TIMM_STAGES),
    }


def randomize(model: torch.nn.Module, seed: int) -> None:
    """Values in all parameters, also in those that start as zeros or ones."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data += 0.15 * torch.randn(parameter.shape, generator=generator)


def pixels(seed: int, height: int, width: int) -> np.ndarray:
    return np.random.RandomState(seed).randn(2, height, width, 3).astype(np.float32)


def byte_pixels(seed: int) -> np.ndarray:
    """Pixels of 8 bits, normalized with a mean and deviation of 0.5."""
    images = np.random.RandomState(seed).randint(0, 256, (2, SIZE, SIZE, 3))
    return (images / 127.5 - 1).astype(np.float32)


def to_torch(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy())


@torch.no_grad()
def make_transformers(name: str, model: transformers.PreTrainedModel, path: Path) -> None:
    model.eval()
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        weights = load_file(Path(folder) / "model.safetensors")
        config = (Path(folder) / "config.json").read_text()
    tensors = {f"weights/{key}": tensor for key, tensor in weights.items()}
    sizes = {"images": (SIZE, SIZE), "other_images": OTHER_SIZE}
    for number, (key, size) in enumerate(sizes.items()):
        tensors[key] = pixels(number, *size)
        options = {"interpolate_pos_encoding": True} if name == "deit" and number else {}
        output = model(to_torch(tensors[key]), **options)
        values = output.last_hidden_state if name == "dinov2_swiglu" else output.logits
        tensors[f"{key}/outputs"] = values.numpy()
    save_file(tensors, path, metadata={"config": config})


@torch.no_grad()
def make_timm(architecture: str, arguments: dict, seed: int, path: Path) -> None:
    model = timm.create_model(architecture, **arguments).eval()
    randomize(model, seed)
    tensors = {f"weights/{key}": tensor.numpy() for key, tensor in model.state_dict().items()}
    tensors["images"] = byte_pixels(seed)
    tensors["images/outputs"] = model(to_torch(tensors["images"])).numpy()
    config = {"architecture": architecture, "num_classes": CLASSES, "model_args": arguments}
    config["pretrained_cfg"] = {
        "input_size": [3, SIZE, SIZE], "interpolation": "bicubic", "crop_pct": 1.0,
        "mean": [0.5] * 3, "std": [0.5] * 3,
    }  # fmt: skip
    save_file(tensors, path, metadata={"config": json.dumps(config)})


def make_resizes(path: Path) -> None:
    """An image as timm's transforms for evaluation prepare it, by size, crop and mode."""
    y, x = np.mgrid[0:61, 0:83]
    noise = np.random.RandomState(0).randint(0, 64, (61, 83, 3))
    waves = np.stack([x * 2, y * 3, 90 + 90 * np.sin(x / 4) * np.cos(y / 3)], -1)
    image = np.clip(waves + noise, 0, 255).astype(np.uint8)
    tensors = {"image": image}
    for size, crop, mode in ((28, 0.875, "center"), (96, 0.9, "center"), (32, 1.0, "squash")):
        transform = timm.data.create_transform(
            (3, size, size), interpolation="bicubic", crop_pct=crop, crop_mode=mode,
            mean=(0.0,) * 3, std=(1.0,) * 3,
        )  # fmt: skip
        pixels = transform(Image.fromarray(image)).numpy().transpose(1, 2, 0) * 255
        tensors[f"{size}/{crop}/{mode}"] = np.ascontiguousarray(np.round(pixels), np.uint8)
    save_file(tensors, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the files go")
    folder = parser.parse_args().folder
    torch.manual_seed(0)
    make_resizes(folder / "pillow_resize.safetensors")
    for seed, (name, model) in enumerate(transformers_models().items()):
        randomize(model, seed)
        make_transformers(name, model, folder / f"families_transformers_{name}.safetensors")
    for seed, (name, (architecture, arguments)) in enumerate(timm_models().items()):
        path = folder / f"families_timm_{name}.safetensors"
        make_timm(architecture, arguments, seed, path)


if __name__ == "__main__":
    main()
