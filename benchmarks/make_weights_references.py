"""Makes tests/references/weights*: files of other libraries, with what they compute.

Needs torch, torchvision, timm, transformers, tokenizers, safetensors, numpy (nothing of jaxtag):

    python benchmarks/make_weights_references.py tests/references

The committed files were made with torch 2.13.0, torchvision 0.28, timm 1.0.31 and transformers
5.24.0 on a CPU.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import timm
import tokenizers
import torch
import torchvision
import transformers
from safetensors.numpy import load_file, save_file

SIZE, PATCH, WIDTH, DEPTH, HEADS, MLP, CLASSES = 32, 8, 24, 2, 2, 48, 5
PICTURES, LENGTH = 8, 14
MARK = "<|endoftext|>"
SENTENCES = [
    "a red circle above a blue square!",
    "two green triangles left of a yellow circle",
    "the small square is below the large triangle",
    "there is one blue star; it's on a white field",
]


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


def make_tokenizer(folder: Path) -> transformers.PreTrainedTokenizerFast:
    """A small byte-level BPE as GPT-2's: one last token starts, ends and pads."""
    backend = tokenizers.ByteLevelBPETokenizer()
    backend.train_from_iterator(SENTENCES, vocab_size=299, min_frequency=1)
    backend.add_special_tokens([MARK])
    backend.save_model(str(folder))
    vocabulary = json.loads((folder / "vocab.json").read_text())
    vocabulary[MARK] = backend.token_to_id(MARK)  # as GPT-2's own file has it
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend._tokenizer, bos_token=MARK, eos_token=MARK, pad_token=MARK
    )
    fast.save_pretrained(folder)
    return fast


def make_captioner(folder: Path, mark: int) -> transformers.VisionEncoderDecoderModel:
    """A random captioner, whose captions end: the end's logit rises along the caption."""
    torch.manual_seed(0)
    vit = transformers.ViTConfig(
        image_size=SIZE, patch_size=PATCH, hidden_size=12, num_hidden_layers=2,
        num_attention_heads=2, intermediate_size=24,
    )  # fmt: skip
    gpt2 = transformers.GPT2Config(
        vocab_size=mark + 1, n_positions=24, n_embd=16, n_layer=2, n_head=2,
        bos_token_id=mark, eos_token_id=mark, add_cross_attention=True, is_decoder=True,
    )  # fmt: skip
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(vit, gpt2)
    config.decoder_start_token_id = config.pad_token_id = config.eos_token_id = mark
    model = transformers.VisionEncoderDecoderModel(config).eval()
    random = np.random.RandomState(6)
    for name, parameter in model.named_parameters():
        norm = "norm" in name or ".ln_" in name
        noise = random.standard_normal(tuple(parameter.shape)).astype(np.float32)
        small = norm or name.endswith("bias")
        scale = 0.1 if small else 0.22 if "c_proj" in name else 0.45
        parameter.data = torch.from_numpy(scale * noise + float(norm and "weight" in name))
    rise = random.standard_normal(16)
    rise = torch.from_numpy((rise / np.linalg.norm(rise)).astype(np.float32))
    embeddings = model.decoder.transformer
    pace = 3.0 * (torch.arange(24) - 6)
    embeddings.wpe.weight.data += pace[:, None] * rise
    embeddings.wte.weight.data[mark] = 4.0 * rise
    model.generation_config = transformers.GenerationConfig(
        decoder_start_token_id=mark, bos_token_id=mark, eos_token_id=mark, pad_token_id=mark,
        max_length=LENGTH, num_beams=3, length_penalty=1.0,
    )  # fmt: skip
    model.save_pretrained(folder)
    transformers.ViTImageProcessor(
        size={"height": SIZE, "width": SIZE}, image_mean=[0.5] * 3, image_std=[0.25] * 3
    ).save_pretrained(folder)
    return model


def make_captions(path: Path) -> None:
    """A captioner's folder, packed in one file, and the tokens and texts it generates."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokenizer = make_tokenizer(folder)
        model = make_captioner(folder, tokenizer.convert_tokens_to_ids(MARK))
        pictures = np.random.RandomState(7).randint(0, 256, (PICTURES, SIZE, SIZE, 3), np.uint8)
        images = (pictures.astype(np.float32) / 255 - 0.5) / 0.25
        pixels = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
        tensors, texts = {"pictures": pictures}, {}
        for beams in (1, 3):
            tokens = model.generate(pixels, do_sample=False, num_beams=beams)
            twin = model.double().generate(pixels.double(), do_sample=False, num_beams=beams)
            model.float()
            assert torch.equal(tokens, twin)  # none hangs on rounding
            tensors[f"tokens/{beams}"] = tokens.numpy().astype(np.int32)
            assert (tokens[:, 1:] == tokens[0, 0]).any(1).sum() > PICTURES // 2  # most end
            texts[str(beams)] = tokenizer.batch_decode(tokens, skip_special_tokens=True)
        weights = load_file(folder / "model.safetensors")
        tensors |= {f"weights/{name}": tensor for name, tensor in weights.items()}
        patterns = ("*.json", "*.txt")
        files = {file.name: file.read_text() for kind in patterns for file in folder.glob(kind)}
        notes = {"files": json.dumps(files), "texts": json.dumps(texts)}
        save_file(tensors, path, metadata=notes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the files go")
    folder = parser.parse_args().folder
    make_vits(folder)
    make_configs(folder / "weights_configs.json")
    make_captions(folder / "weights_captioner.safetensors")


if __name__ == "__main__":
    main()
