"""Published families at full size: an image file to tags or a caption, beside transformers itself.

Needs PyTorch and transformers in the same environment. Random weights; nothing is downloaded.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from calling import call
from PIL import Image

from jaxtag.inference import features

pytestmark = pytest.mark.slow

TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *map(str, range(995))]
CLASSIFIERS = {
    "deit": ("DeiTForImageClassificationWithTeacher", "DeiTConfig", {}),
    "dinov2": ("Dinov2ForImageClassification", "Dinov2Config", {"image_size": 518}),
    "dinov2_registers": (
        "Dinov2WithRegistersForImageClassification",
        "Dinov2WithRegistersConfig",
        {"image_size": 518, "hidden_size": 384, "num_attention_heads": 6, "patch_size": 14},
    ),
    "convnext": ("ConvNextForImageClassification", "ConvNextConfig", {}),
    "convnextv2": ("ConvNextV2ForImageClassification", "ConvNextV2Config", {}),
}
PROCESSORS = {
    "classifier": {
        "image_processor_type": "BitImageProcessor",
        "size": {"shortest_edge": 256},
        "do_center_crop": True,
        "crop_size": {"height": 224, "width": 224},
    },
    "blip": {"image_processor_type": "BlipImageProcessor", "size": {"height": 384, "width": 384}},
    "git": {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": 224},
        "do_center_crop": True,
        "crop_size": {"height": 224, "width": 224},
    },
}
MEAN, STD = [0.48, 0.45, 0.4], [0.27, 0.26, 0.28]


@pytest.fixture
def transformers():
    pytest.importorskip("torch")
    return pytest.importorskip("transformers")


def randomize(model) -> None:
    import torch

    generator = torch.Generator().manual_seed(0)
    for parameter in model.eval().parameters():
        parameter.data += 0.02 * torch.randn(parameter.shape, generator=generator)


def write(folder: Path, model, kind: str) -> np.ndarray:
    """The folder as it is published, and an image; returns the pixels that the model takes."""
    model.save_pretrained(folder)
    processor = {"do_resize": True, "resample": 3, "do_normalize": True, **PROCESSORS[kind]}
    processor |= {"image_mean": MEAN, "image_std": STD}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    y, x = np.mgrid[0:300, 0:420]
    waves = [128 + 100 * np.sin(x / 9 + c) * np.cos(y / 7 - c) for c in range(3)]
    image = Image.fromarray(np.stack(waves, -1).astype(np.uint8))
    image.save(folder / "a.png")
    if kind == "blip":
        image = image.resize((384, 384), Image.Resampling.BICUBIC)
    else:
        shorter = processor["size"]["shortest_edge"]
        image = image.resize((420 * shorter // 300, shorter), Image.Resampling.BICUBIC)
        left, top = round((image.width - 224) / 2), round((image.height - 224) / 2)
        image = image.crop((left, top, left + 224, top + 224))
    pixels = np.asarray(image, np.float32) / 255
    return (pixels - np.float32(MEAN)) / np.float32(STD)


def annotated(folder: Path, *flags: str) -> dict:
    output = folder / "o.jsonl"
    done = call("annotate", f"--model={folder}", f"--output={output}", *flags, folder / "a.png")
    assert done.status == 0, done.err
    return json.loads(output.read_text())


def to_torch(pixels: np.ndarray):
    import torch

    return torch.from_numpy(pixels.transpose(2, 0, 1)[None].copy())


@pytest.mark.parametrize("family", CLASSIFIERS)
def test_tags_have_the_librarys_probabilities(transformers, tmp_path, family: str) -> None:
    import torch

    name, config_name, fields = CLASSIFIERS[family]
    config = getattr(transformers, config_name)(
        **fields, num_labels=50, id2label={i: f"class {i}" for i in range(50)}
    )
    model = getattr(transformers, name)(config)
    randomize(model)
    pixels = write(tmp_path, model, "classifier")
    with torch.no_grad():
        expected = model(to_torch(pixels)).logits[0].softmax(-1).numpy()
    tags = annotated(tmp_path, "--all_scores")["tags"]
    scores = {tag["tag"]: tag["score"] for tag in tags}
    assert len(scores) == 50 and max(scores.values()) > 0.03
    for number, probability in enumerate(expected):
        assert scores[f"class {number}"] == pytest.approx(probability, abs=1e-4)


@pytest.mark.parametrize("prompt", ["", "7 8 9"])
@pytest.mark.parametrize("family", ["blip", "git"])
def test_captions_are_the_librarys(transformers, tmp_path, family: str, prompt: str) -> None:
    import torch

    size = {"vocab_size": 1002}
    if family == "blip":
        text = {**size, "bos_token_id": 1000, "sep_token_id": 3, "num_attention_heads": 12}
        config = transformers.BlipConfig(text_config=text)
        model = transformers.BlipForConditionalGeneration(config)
        start = [1000]
    else:
        config = transformers.GitConfig(**size, bos_token_id=2, eos_token_id=3)
        model = transformers.GitForCausalLM(config)
        start = [2]
    randomize(model)
    pixels = write(tmp_path, model, family)
    (tmp_path / "vocab.txt").write_text("\n".join(TOKENS) + "\n")
    ids = [*start, *(TOKENS.index(word) for word in prompt.split())]
    if family == "blip":
        ids.append(3)  # which it takes off
    with torch.no_grad():
        tokens = model.generate(
            pixel_values=to_torch(pixels), input_ids=torch.tensor([ids]), num_beams=1,
            do_sample=False, max_length=20,
        )[0].tolist()  # fmt: skip
    end = tokens.index(3) if 3 in tokens else len(tokens)
    words = [TOKENS[token] for token in tokens[1:end] if 4 < token < 1000]
    flags = [f"--prompt={prompt}"] if prompt else []
    assert annotated(tmp_path, *flags)["caption"] == " ".join(words)


@pytest.mark.parametrize("family", ["dino", "dinov2"])
def test_features_are_the_librarys(transformers, tmp_path, family: str) -> None:
    """A DINOv2 at another size than that of its position embeddings."""
    import torch

    size = {"hidden_size": 384, "num_attention_heads": 6}
    if family == "dino":
        config = transformers.ViTConfig(**size, intermediate_size=1536, patch_size=8)
        model, name = transformers.ViTModel(config), "vit_small_patch8"
    else:
        config = transformers.Dinov2Config(**size, image_size=518, patch_size=14)
        model, name = transformers.Dinov2Model(config), "vit_small_patch14_dinov2"
    randomize(model)
    pixels = write(tmp_path, model, "classifier")
    with torch.no_grad():
        expected = model(to_torch(pixels)).last_hidden_state[:, 0].numpy()
    extractor = features.from_model(name, str(tmp_path))
    np.testing.assert_allclose(extractor.of_inputs([str(tmp_path / "a.png")]), expected, atol=1e-4)
