"""Tokenizers from the files of published models: the ids of transformers' own."""

import base64
import json
from pathlib import Path

import pytest
import tokenizers
from stored import REFERENCES

from jaxtag.data.tokenizer import PAD, Tokenizer
from jaxtag.errors import UserError
from jaxtag.weights.tokenizer_files import read_backend, special_token_id

STORED = json.loads((REFERENCES / "image_text_tokenizers.json").read_text(encoding="utf-8"))


def unpack(kind: str, folder: Path) -> Path:
    for name, text in STORED["files"][kind].items():
        is_binary = name.endswith(".model")
        (folder / name).write_bytes(base64.b64decode(text) if is_binary else text.encode())
    return folder


@pytest.mark.parametrize("kind", ["clip", "bert", "siglip"])
def test_ids_are_those_of_transformers(kind: str, tmp_path: Path) -> None:
    backend = read_backend(unpack(kind, tmp_path))
    bos, *_, eos = STORED["ids"][kind][0]
    bos = None if kind == "siglip" else bos
    tokenizer = Tokenizer.from_pretrained(backend, bos, eos)
    rows = tokenizer.encode(STORED["texts"], 100)
    assert [[i for i in row if i != PAD] for row in rows.tolist()] == STORED["ids"][kind]


def test_clip_decodes_words(tmp_path: Path) -> None:
    backend = read_backend(unpack("clip", tmp_path))
    ids = STORED["ids"]["clip"][0]
    assert backend.decode(ids[1:-1]).strip() == "a photo of a dog on the beach !"


def test_a_text_may_have_no_start_and_its_own_padding(tmp_path: Path) -> None:
    """As SigLIP wants it: the text, `</s>`, then `</s>` up to the length."""
    backend = read_backend(unpack("bert", tmp_path))
    sep, pad, dog = (backend.token_to_id(token) for token in ("[SEP]", "[PAD]", "dog"))
    tokenizer = Tokenizer.from_pretrained(backend, None, sep, pad)
    path = tmp_path / "saved" / "tokenizer.json"
    tokenizer.save(path)
    for other in (tokenizer, Tokenizer.load(path)):
        assert other.encode(["dog", "dog dog dog dog [SEP]"], 4).tolist() == [
            [dog, sep, pad, pad],
            [dog, dog, dog, sep],
        ]
        assert (other.bos_id, other.truncated) == (None, 1)
        assert other.decode([dog, sep, pad, pad]) == "dog"


def test_special_tokens_by_name(tmp_path: Path) -> None:
    backend = read_backend(unpack("bert", tmp_path))
    assert special_token_id(tmp_path, backend, "eos_token") is None
    (tmp_path / "special_tokens_map.json").write_text('{"eos_token": {"content": "[SEP]"}}')
    assert special_token_id(tmp_path, backend, "eos_token") == 3
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "[END]"}')
    with pytest.raises(UserError, match=r"eos_token is '\[END\]', which the vocabulary lacks"):
        special_token_id(tmp_path, backend, "eos_token")


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"neither tokenizer\.json, nor vocab\.json"):
        read_backend(tmp_path)
    (tmp_path / "spiece.model").write_bytes(b"\x0a\x7f")
    with pytest.raises(UserError, match=r"spiece\.model: the tokenizer cannot be used: it ends at"):
        read_backend(tmp_path)
    (tmp_path / "spiece.model").write_bytes(b"\x12\x02\x18\x02")  # model_type: BPE
    with pytest.raises(UserError, match=r"its model is no unigram model"):
        read_backend(tmp_path)
    tokenizers.Tokenizer(tokenizers.models.BPE()).save(str(tmp_path / "tokenizer.json"))
    assert read_backend(tmp_path).get_vocab_size() == 0
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match=r"tokenizer\.json: the tokenizer is damaged"):
        read_backend(tmp_path)
