"""Makes tests/models/references/weights*: files of other libraries, with what they compute.

Needs torch, torchvision, timm, transformers, tokenizers, safetensors, numpy (nothing of jaxtag):

    python benchmarks/make_weights_references.py tests/models/references

The committed files were made with torch 2.13.0, torchvision 0.28, timm 1.0.31 and transformers
5.24.0 on a CPU.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import timm
import torch
import torchvision
import transformers
from safetensors.numpy import load_file, save_file

SIZE, PATCH, WIDTH, DEPTH, HEADS, MLP, CLASSES = 32, 8, 24, 2, 2, 48, 5


def vits() -> dict[str, torch.nn.Module]:
    """The same small ViT in each library, weights of its own."""
    config = transformers.ViTConfig(
        image_size=SIZE, patch_size=PATCH, hidden_size=WIDTH, num_hidden_layers=DEPTH,
        num_attention_heads=HEADS, intermediate_size=MLP, num_labels=CLASSES, layer_norm_eps=1e-6,
    )  # fmt: skip
    return {
        "torchvision": torchvision.models.VisionTransformer(
            image_size=SIZE, patch_size=PATCH, num_layers=DEPTH, num_heads=HEADS,
            hidden_dim=WIDTH, mlp_dim=MLP, num_classes=CLASSES,
        ),
        "timm": timm.models.vision_transformer.VisionTransformer(
            img_size=SIZE, patch_size=PATCH, embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS,
            mlp_ratio=MLP / WIDTH, num_classes=CLASSES,
        ),
        "transformers": transformers.ViTForImageClassification(config),
    }  # fmt: skip


def randomise(model: torch.nn.Module, seed: int) -> None:
    """Values in all parameters, also in those that start as zeros or ones."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data += 0.15 * torch.randn(parameter.shape, generator=generator)


def file_tensors(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """The tensors as the library writes them."""
    if not isinstance(model, transformers.PreTrainedModel):
        return {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return load_file(Path(folder) / "model.safetensors")


def make_vits(folder: Path) -> None:
    images = np.random.RandomState(0).randn(2, SIZE, SIZE, 3).astype(np.float32)
    pixels = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    for seed, (library, model) in enumerate(vits().items()):
        randomise(model.eval(), seed)
        with torch.no_grad():
            output = model(pixels)
        logits = output.logits if library == "transformers" else output
        tensors = {f"weights/{name}": t for name, t in file_tensors(model).items()}
        tensors |= {"images": images, "logits": logits.numpy()}
        save_file(tensors, folder / f"weights_vit_{library}.safetensors")


def make_configs(path: Path) -> None:
    """transformers' own configurations, which ours must agree with."""
    configs = {
        "resnet50": transformers.ResNetConfig(num_labels=3),
        "resnet18": transformers.ResNetConfig(
            depths=[2, 2, 2, 2], hidden_sizes=[64, 128, 256, 512], layer_type="basic", num_labels=3
        ),
        "vit_base_patch16": transformers.ViTConfig(num_labels=3),
        "efficientnet_b7": transformers.EfficientNetConfig(num_labels=3),
        "mobilenet_v1": transformers.MobileNetV1Config(num_labels=3),
        "mobilenet_v2": transformers.MobileNetV2Config(num_labels=3),
    }
    text = json.dumps({name: config.to_dict() for name, config in configs.items()}, indent=1)
    path.write_text(text + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the files go")
    folder = parser.parse_args().folder
    make_vits(folder)
    make_configs(folder / "weights_configs.json")


if __name__ == "__main__":
    main()
