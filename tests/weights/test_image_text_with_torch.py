"""CLIP and SigLIP from transformers to jaxtag and back, on the same images and texts."""

import json
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from calling import call
from PIL import Image
from stored import REFERENCES

import jaxtag
from jaxtag import weights
from jaxtag.config.schema import Config, DataConfig, ModelConfig
from jaxtag.inference import predictor, zero_shot
from jaxtag.tasks.match.config import MatchConfig
from jaxtag.weights import image_towers

pytestmark = pytest.mark.slow
CONFIGS = json.loads((REFERENCES / "image_text_configs.json").read_text())
WORDS = ["a", "photo", "of", "dog", "cat", "beach"]


def save_theirs(kind: str, folder: Path) -> None:
    """A random model of transformers with its processor and tokenizer, as on the Hub."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    values = CONFIGS[f"transformers_{kind}"]
    make_config, make_model, make_images = {
        "clip": ("CLIPConfig", "CLIPModel", "CLIPImageProcessorPil"),
        "siglip": ("SiglipConfig", "SiglipModel", "SiglipImageProcessorPil"),
    }[kind]
    config = getattr(transformers, make_config).from_dict(values)
    model = getattr(transformers, make_model)(config)
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape)
    model.save_pretrained(folder)
    settings = CONFIGS["processors"][f"transformers_{kind}"]
    getattr(transformers, make_images).from_dict(settings).save_pretrained(folder)
    ids = {"[UNK]": 0, "</s>": 1, **{word: 2 + i for i, word in enumerate(WORDS)}}
    ids |= {"<|startoftext|>": 38, "<|endoftext|>": 39}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(ids, unk_token="[UNK]"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    backend.save(str(folder / "tokenizer.json"))


def compute_theirs(folder: Path, images: list[Image.Image], tokens: np.ndarray) -> np.ndarray:
    """Logits of transformers."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    model = transformers.AutoModel.from_pretrained(folder).eval()
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    kind = "CLIPImageProcessorPil" if "crop_size" in settings else "SiglipImageProcessorPil"
    process = getattr(transformers, kind).from_dict(settings)
    with torch.no_grad():
        pixels = process(images, return_tensors="pt")["pixel_values"]
        output = model(pixel_values=pixels, input_ids=torch.from_numpy(tokens).long())
    return output.logits_per_image.numpy()


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_from_transformers_and_back(kind: str, tmp_path: Path) -> None:
    save_theirs(kind, tmp_path)
    generator = np.random.default_rng(0)
    shapes = ((40, 60, 3), (33, 21, 3), (16, 16, 3))
    arrays = [generator.integers(0, 256, shape).astype(np.uint8) for shape in shapes]
    images = [Image.fromarray(array).resize(array.shape[1::-1]) for array in arrays]
    model = predictor.load(tmp_path)
    texts = ["a photo of dog", "a cat", "beach"]
    tokens = np.maximum(model.task.tokenize(texts), 0)
    logits = compute_theirs(tmp_path, images, tokens)

    ours = model.features(arrays) @ zero_shot.embed_texts(model, texts).T
    params = model.variables["params"]
    ours = ours * np.exp(params["logit_scale"]) + params.get("logit_bias", 0)
    np.testing.assert_allclose(ours, logits, atol=1e-4)

    target = tmp_path / "exported"
    weights.save(
        target,
        model.task.model,
        model.variables,
        library="transformers",
        preprocessing=weights.load_preprocessing(tmp_path),
    )
    np.testing.assert_allclose(compute_theirs(target, images, tokens), logits, atol=1e-6)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_a_fine_tuned_run_is_one_of_theirs(kind: str, tmp_path: Path, one_device) -> None:
    """Its exported folder gives their tokens, and their logits of its images."""
    transformers = pytest.importorskip("transformers")
    source, run, target = (tmp_path / name for name in ("source", "run", "exported"))
    save_theirs(kind, source)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), np.uint8)
    records = [{"image": image, "captions": ["a photo of dog", "beach"]} for image in pixels]
    config = Config(
        task=MatchConfig(pretrained=str(source)),
        batch_size=4,
        total_steps=2,
        data=DataConfig(num_threads=1),
        model=ModelConfig(dropout=0.0),
        metric_writers=("jsonl",),
    )
    jaxtag.fit(config, run, {"train": records, "validation": records})
    output = (f"--workdir={run}", "--library=transformers", f"--output={target}")
    done = call("weights", "export", *output)
    assert done.status == 0, done.err

    model, texts = predictor.load(run), ["a photo of dog", "a cat", "beach " * 9]
    tokenizer = transformers.AutoTokenizer.from_pretrained(target)
    padded = tokenizer(texts, padding="max_length", truncation=True, return_tensors="np")
    tokens = model.task.tokenize(texts)
    theirs = padded["input_ids"]
    np.testing.assert_array_equal(theirs, np.where(tokens < 0, tokenizer.pad_token_id, tokens))
    logits = compute_theirs(target, [Image.fromarray(image) for image in pixels], theirs)
    ours = model.features(pixels) @ zero_shot.embed_texts(model, texts).T
    params = model.variables["params"]
    ours = ours * np.exp(params["logit_scale"]) + params.get("logit_bias", 0)
    np.testing.assert_allclose(ours, logits, atol=1e-4)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
@pytest.mark.parametrize("size", [16, 32])
def test_the_image_tower_at_any_size(kind: str, size: int, tmp_path: Path) -> None:
    """The pooled output of transformers' vision model, whose positions are interpolated."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    save_theirs(kind, tmp_path)
    model = transformers.AutoModel.from_pretrained(tmp_path).eval()
    images = np.random.default_rng(0).standard_normal((2, size, size, 3), np.float32)
    pixels = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    with torch.no_grad():
        outputs = model.vision_model(pixel_values=pixels, interpolate_pos_encoding=True)

    tower = image_towers.read(tmp_path).clone(image_size=size)
    variables = weights.load(tmp_path, tower, adapt=("image_size",))
    pooled = tower.apply(variables, images)["pooled"]
    np.testing.assert_allclose(pooled, outputs.pooler_output.numpy(), atol=2e-5)
