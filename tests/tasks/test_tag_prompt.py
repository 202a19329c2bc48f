"""Captions after the tags of another model: what is said, what is learnt, what is written."""

import numpy as np
import pytest
from calling import call
from PIL import Image

import jaxtag
from jaxtag.config import DataConfig, EvaluationConfig, ModelConfig
from jaxtag.data.sources import as_data_source
from jaxtag.data.targets import TAG_PROMPT, CaptionTokens, TagPrompt
from jaxtag.data.tokenizer import PAD, Tokenizer
from jaxtag.decoding import generate as decoding
from jaxtag.errors import UsageError, UserError
from jaxtag.inference import tag_prompt
from jaxtag.tasks.caption.config import CaptionConfig, DecodingConfig
from jaxtag.tasks.classify.config import ClassifyConfig

pytestmark = pytest.mark.usefixtures("one_device")
COLORS = {"red": (220, 40, 40), "green": (40, 200, 40), "blue": (40, 60, 220)}
VIT = {"depth": 1, "width": 16, "heads": 2, "mlp_dim": 32}


def walls(field: str) -> list[dict]:
    return [
        {
            "image": np.full((16, 16, 3), color, np.uint8),
            field: name if field == "label" else [f"a {name} wall", f"it is {name}"],
        }
        for name, color in COLORS.items()
    ]


def config(task, **model) -> jaxtag.Config:
    return jaxtag.Config(
        task=task,
        batch_size=3,
        total_steps=2,
        data=DataConfig(image_size=16),
        model=ModelConfig(backbone="vit_tiny_patch16", kwargs=VIT, **model),
        evaluation=EvaluationConfig(batch_size=3),
    )


@pytest.fixture(scope="module")
def tagger(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("tagger")
    data = {"train": walls("label"), "validation": walls("label")}
    jaxtag.fit(config(ClassifyConfig()), workdir, data=data)
    return jaxtag.load(workdir)


@pytest.fixture(scope="module")
def captioner(tagger, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("captioner")
    task = CaptionConfig(
        vocab_size=300,
        max_length=16,
        tags_from=str(tagger.workdir),
        num_tags=2,
        decoding=DecodingConfig(method="beam", beam_size=2, num_return_sequences=2),
    )
    decoder = {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2}
    data = {"train": walls("captions"), "validation": walls("captions")}
    jaxtag.fit(config(task, **decoder), workdir, data=data)
    return jaxtag.load(workdir)


def test_records_say_the_likeliest_tags(tagger):
    source = tag_prompt.add_to(as_data_source(walls("captions")), tagger, 2)
    expected = [
        ", ".join(tag.tag for tag in prediction.tags) + ":"
        for prediction in tagger([wall["image"] for wall in walls("label")], top_k=2)
    ]
    assert [record[TAG_PROMPT] for record in source.read_range(0, 3)] == expected
    assert [record[TAG_PROMPT] for record in source.__getitems__([2, 0])] == expected[::-2]
    assert [r[TAG_PROMPT] for r in source.iter_fields([TAG_PROMPT, "captions"])] == expected


def test_tokens_begin_with_the_tags_and_stay_as_long():
    tokenizer = Tokenizer.train(["a red wall", "red, blue:"], 300)
    record = {"captions": ["a red wall", "a wall"], TAG_PROMPT: "red, blue:"}
    said = TagPrompt(tokenizer, 8)
    tokens = CaptionTokens(tokenizer, 20, 2, random=False, tag_prompt=said)(record, None)
    assert tokens.shape == (2, 20)
    assert tokenizer.decode_batch(tokens) == ["red, blue: a red wall", "red, blue: a wall"]
    row = said(record)
    assert row.shape == (8,) and tokenizer.decode(row[row != PAD]) == "red, blue:"


def test_what_is_said_is_not_learnt(captioner):
    task = captioner.task
    batch = {
        "image": np.zeros((1, 16, 16, 3), np.uint8),
        "mask": np.ones(1, np.float32),
        "tokens": np.array([[[1, 10, 11, 12, 13, 2, *[PAD] * 10], [PAD] * 16]], np.int32),
        "prompt": np.array([[10, 11, *[PAD] * 6]], np.int32),
    }
    found = task.loss(captioner.variables, batch, None)
    alone = task.loss(captioner.variables, {k: v for k, v in batch.items() if k != "prompt"}, None)
    assert float(found.weight[0]) == 3 and float(alone.weight[0]) == 5
    assert 0 < float(found.loss[0]) < float(alone.loss[0])


def test_captions_are_those_after_the_tags_and_leave_them_out(captioner, tagger):
    images = [wall["image"] for wall in walls("label")]
    rows = list(captioner.predict_rows(images))
    texts = [tag_prompt.text_of(row) for row in tagger.predict_rows(images, 2)]
    tokens = captioner.task.encode_prompts(texts)
    task = captioner.task
    settings = task.settings.generation(eos_id=task.vocabulary.eos_id, pad_id=PAD)
    batch = task.normalize(np.stack(images))
    whole = decoding.generate(
        task.captioner, captioner.variables, batch, prompts=tokens, **vars(settings)
    )
    for row, prompt, text, written in zip(rows, tokens, texts, whole["tokens"], strict=True):
        length = int((prompt != PAD).sum())
        assert task.vocabulary.decode(written[0]).startswith(text)
        assert row["caption"] == task.vocabulary.decode(np.asarray(written[0])[1 + length :])
        assert len(row["captions"]) == 2 and row["captions"][0]["score"] == row["score"]


def test_evaluation_and_the_command(captioner, tmp_path):
    results = jaxtag.evaluate(captioner.workdir, data={"validation": walls("captions")})
    assert results["examples"] == 3 and np.isfinite(results["cross_entropy"])
    Image.fromarray(walls("label")[0]["image"]).save(tmp_path / "red.png")
    done = call(
        "annotate",
        f"--workdir={captioner.workdir}",
        f"--tags_from={captioner.task.settings.tags_from}",
        f"--output={tmp_path}/captions.jsonl",
        str(tmp_path / "red.png"),
    )
    assert done.status == 0, done.err


def test_wrong_use(tagger):
    task = CaptionConfig(tags_from=str(tagger.workdir), self_critical_samples=2)
    with pytest.raises(UserError, match=r"config\.task\.tags_from: nowhere is no work directory"):
        tag_prompt.load_tagger("nowhere")
    with pytest.raises(UsageError, match="do not go together"):
        task.check(config(task))
