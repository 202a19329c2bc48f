"""Makes tests/references/image_text*: CLIP and SigLIP of other libraries, with what they compute.

Needs torch, torchvision, timm, transformers, open_clip_torch, tokenizers, sentencepiece,
safetensors, numpy (nothing of jaxtag):

    python benchmarks/make_image_text_references.py tests/references

The committed files were made with torch 2.13.0, torchvision 0.28, timm 1.0.31, transformers 5.24.0
and open_clip_torch 3.3.0 on a CPU.
"""

import argparse
import base64
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import sentencepiece
import timm
import tokenizers
import torch
import transformers
from safetensors.numpy import save_file
from tokenizers import models, normalizers, pre_tokenizers, trainers

SIZE, PATCH, DEPTH, HEADS = 16, 8, 2, 2
IMAGE_WIDTH, TEXT_WIDTH, MLP, EMBED = 24, 16, 32, 12
POSITIONS, VOCABULARY = 8, 40
CORPUS = [
    "a photo of a dog on the beach!",
    "two dogs' toys; it's a cat, isn't it?",
    "the red bus in 2024 near an old café",
    "Ein Hund läuft am Strand.",
]
TEXTS = [
    *CORPUS,
    "A  PHOTO\tof 3 cats!!",
    "ﬁne (really) dogs",
    "naïve 東京 \U0001f436",
    "",
    "we're they'll I'd",
]


def randomise(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Values in all parameters, also in those that start as zeros or ones."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.eval().parameters():
        parameter.data += 0.15 * torch.randn(parameter.shape, generator=generator)
    return model


def inputs(max_length: int) -> tuple[np.ndarray, np.ndarray]:
    """Images [2, H, W, C] and tokens [3, L], the texts ended by the last id of the vocabulary."""
    random = np.random.RandomState(0)
    images = random.randn(2, SIZE, SIZE, 3).astype(np.float32)
    tokens = random.randint(0, VOCABULARY - 2, (3, max_length))
    for row, end in zip(tokens, (3, 5, max_length - 1), strict=True):
        row[end:] = VOCABULARY - 1
    return images, tokens


def transformers_clip() -> transformers.CLIPModel:
    shared = {"num_hidden_layers": DEPTH, "num_attention_heads": HEADS, "intermediate_size": MLP}
    text = {"hidden_size": TEXT_WIDTH, "vocab_size": VOCABULARY, "eos_token_id": VOCABULARY - 1}
    text |= {"max_position_embeddings": POSITIONS, "bos_token_id": VOCABULARY - 2}
    vision = {"hidden_size": IMAGE_WIDTH, "image_size": SIZE, "patch_size": PATCH}
    config = transformers.CLIPConfig(
        text_config=text | shared, vision_config=vision | shared, projection_dim=EMBED
    )
    return transformers.CLIPModel(config)


def transformers_siglip() -> transformers.SiglipModel:
    shared = {"num_hidden_layers": DEPTH, "num_attention_heads": HEADS, "intermediate_size": MLP}
    text = {"hidden_size": TEXT_WIDTH, "vocab_size": VOCABULARY, "projection_size": IMAGE_WIDTH}
    text |= {"max_position_embeddings": POSITIONS}
    vision = {"hidden_size": IMAGE_WIDTH, "image_size": SIZE, "patch_size": PATCH}
    config = transformers.SiglipConfig(text_config=text | shared, vision_config=vision | shared)
    return transformers.SiglipModel(config)


OPEN_CLIP: dict[str, Any] = {
    "embed_dim": EMBED,
    "quick_gelu": True,
    "vision_cfg": {
        "image_size": SIZE,
        "layers": DEPTH,
        "width": IMAGE_WIDTH,
        "patch_size": PATCH,
        "head_width": IMAGE_WIDTH // HEADS,
        "mlp_ratio": 4.0,
    },
    "text_cfg": {
        "context_length": POSITIONS,
        "vocab_size": VOCABULARY,
        "width": TEXT_WIDTH,
        "heads": HEADS,
        "layers": DEPTH,
    },
}
OPEN_CLIP_SIGLIP: dict[str, Any] = {
    "embed_dim": IMAGE_WIDTH,
    "init_logit_bias": -10,
    "custom_text": True,
    "vision_cfg": {
        "image_size": SIZE,
        "timm_model_name": "vit_base_patch16_siglip_224",
        "timm_model_pretrained": False,
        "timm_pool": "map",
        "timm_proj": "none",
    },
    "text_cfg": {
        "context_length": POSITIONS,
        "vocab_size": VOCABULARY,
        "hf_tokenizer_name": "timm/ViT-B-16-SigLIP",
        "tokenizer_kwargs": {"clean": "canonicalize"},
        "width": TEXT_WIDTH,
        "heads": HEADS,
        "layers": DEPTH,
        "no_causal_mask": True,
        "proj_bias": True,
        "pool_type": "last",
        "norm_kwargs": {"eps": 1e-6},
    },
}


def open_clip_siglip() -> torch.nn.Module:
    """As `open_clip.create_model("ViT-B-16-SigLIP")`, with a small trunk."""
    config = {k: v for k, v in OPEN_CLIP_SIGLIP.items() if k != "custom_text"}
    trunk = timm.models.vision_transformer.VisionTransformer(
        img_size=SIZE, patch_size=PATCH, embed_dim=IMAGE_WIDTH, depth=DEPTH, num_heads=HEADS,
        mlp_ratio=4.0, class_token=False, global_pool="map", num_classes=0,
    )  # fmt: skip
    create = timm.create_model
    timm.create_model = lambda *_, **__: trunk
    try:
        return open_clip.model.CustomTextCLIP(**config)
    finally:
        timm.create_model = create


def compute(model: torch.nn.Module, max_length: int) -> dict[str, np.ndarray]:
    """Weights, inputs, unit vectors of images and texts, and the logits of all pairs."""
    images, tokens = inputs(max_length)
    pixels, ids = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), torch.from_numpy(tokens)
    with torch.no_grad():
        if isinstance(model, transformers.PreTrainedModel):
            output = model(pixel_values=pixels, input_ids=ids)
            image, text, logits = output.image_embeds, output.text_embeds, output.logits_per_image
        else:
            image, text = (f(x, normalize=True) for f, x in (
                (model.encode_image, pixels), (model.encode_text, ids)
            ))  # fmt: skip
            logits = model.logit_scale.exp() * image @ text.T + (model.logit_bias or 0)
    weights = {f"weights/{n}": t.numpy().copy() for n, t in model.state_dict().items()}
    weights = {n: t for n, t in weights.items() if not n.endswith(("attn_mask", "position_ids"))}
    outputs = {"image": image, "text": text, "logits": logits}
    return weights | {
        "images": images,
        "tokens": tokens.astype(np.int32),
        **{name: tensor.numpy().copy() for name, tensor in outputs.items()},
    }


def make_models(folder: Path) -> None:
    configs: dict[str, Any] = {}
    torch.manual_seed(0)
    clip, siglip = transformers_clip(), transformers_siglip()
    for seed, (name, model) in enumerate({
        "transformers_clip": clip,
        "transformers_siglip": siglip,
        "open_clip": open_clip.model.CLIP(**OPEN_CLIP),
        "open_clip_siglip": open_clip_siglip(),
    }.items()):  # fmt: skip
        tensors = compute(randomise(model, seed), POSITIONS)
        save_file(tensors, folder / f"image_text_{name}.safetensors")
    for name, model in {"transformers_clip": clip, "transformers_siglip": siglip}.items():
        with tempfile.TemporaryDirectory() as target:
            model.save_pretrained(target)
            configs[name] = json.loads((Path(target) / "config.json").read_text())
    clip_images = {"mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD}
    siglip_images = {"mean": [0.5] * 3, "std": [0.5] * 3}
    for name, config, images in (
        ("open_clip", OPEN_CLIP, clip_images | {"interpolation": "bicubic"}),
        ("open_clip_siglip", OPEN_CLIP_SIGLIP, siglip_images | {"resize_mode": "squash"}),
    ):
        configs[name] = {"model_cfg": config, "preprocess_cfg": images}
    processors = {
        "transformers_clip": transformers.CLIPImageProcessorPil(
            size={"shortest_edge": SIZE}, crop_size=SIZE
        ),
        "transformers_siglip": transformers.SiglipImageProcessorPil(
            size={"height": SIZE, "width": SIZE}
        ),
    }
    configs["processors"] = {name: json.loads(p.to_json_string()) for name, p in processors.items()}
    write_json(folder / "image_text_configs.json", configs)


def make_tokenizers(folder: Path) -> None:
    """Vocabularies as CLIP's, BERT's and GPT-2's files, and the ids of transformers' tokenizers."""
    files: dict[str, dict[str, str]] = {}
    ids: dict[str, list[list[int]]] = {}
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())

    def train(trainer: trainers.Trainer, **fields: Any) -> tokenizers.Tokenizer:
        backend = tokenizers.Tokenizer(models.BPE(**fields))
        backend.normalizer = normalizers.Lowercase()
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
        backend.train_from_iterator(CORPUS, trainer)
        return backend

    with tempfile.TemporaryDirectory() as target:
        specials = ["<|startoftext|>", "<|endoftext|>"]
        alphabet_at_end = [f"{token}</w>" for token in alphabet]
        trainer = trainers.BpeTrainer(
            vocab_size=600, initial_alphabet=alphabet, end_of_word_suffix="</w>",
            special_tokens=alphabet_at_end,
        )  # fmt: skip
        backend = train(trainer, end_of_word_suffix="</w>")
        backend.model.save(target)
        vocabulary = json.loads((Path(target) / "vocab.json").read_text(encoding="utf-8"))
        vocabulary |= {token: len(vocabulary) + i for i, token in enumerate(specials)}
        files["clip"] = {
            "vocab.json": json.dumps(vocabulary, ensure_ascii=False),
            "merges.txt": (Path(target) / "merges.txt").read_text(encoding="utf-8"),
        }
        merges = [tuple(m.split(" ")) for m in files["clip"]["merges.txt"].splitlines()[1:]]
        clip = transformers.CLIPTokenizer(vocab=vocabulary, merges=merges)
        ids["clip"] = clip(TEXTS)["input_ids"]
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "a",
        "photo",
        "dog",
        "##s",
        "the",
        "cafe",
    ]
    words += ["!", "'", "beach", "on", "of", "##le", "東", "i", "hund", "b", "##us", "3"]
    files["bert"] = {"vocab.txt": "\n".join(words) + "\n"}
    bert = transformers.BertTokenizer(vocab={word: i for i, word in enumerate(words)})
    ids["bert"] = bert(TEXTS)["input_ids"]
    files["siglip"], ids["siglip"] = make_siglip_tokenizer()
    write_json(folder / "image_text_tokenizers.json", {"texts": TEXTS, "files": files, "ids": ids})


def make_siglip_tokenizer() -> tuple[dict[str, str], list[list[int]]]:
    """A small SentencePiece model (base64) that normalizes one ligature, and the ids by it."""
    with tempfile.TemporaryDirectory() as target:
        rules = Path(target) / "rules.tsv"
        rules.write_text("FB01\t66 69\n")  # a ligature becomes f, i
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([text.lower() for text in CORPUS] * 9),
            model_prefix=f"{target}/spiece", vocab_size=70, hard_vocab_limit=False,
            pad_id=0, eos_id=1, unk_id=2, bos_id=-1, normalization_rule_tsv=str(rules),
        )  # fmt: skip
        tokenizer = transformers.SiglipTokenizer(f"{target}/spiece.model")
        model = (Path(target) / "spiece.model").read_bytes()
    return {"spiece.model": base64.b64encode(model).decode()}, tokenizer(TEXTS)["input_ids"]


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    make_tokenizers(folder)
    make_models(folder)


if __name__ == "__main__":
    main()
