"""Tokenizers of published models, from the files beside their weights."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from jaxtag.errors import UserError
from jaxtag.weights import safetensors_io, sentencepiece_file

# Radford et al. 2021, arXiv:2103.00020: words, single digits, runs of anything else.
_CLIP_WORDS = r"""'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""
_SUFFIX = "</w>"  # CLIP's mark of a word's last token


def read_backend(folder: Path) -> tokenizers.Tokenizer:
    """The tokenizer of a folder, without the special tokens that a model wants around a text.

    It is read from `tokenizer.json`; else made from `vocab.json` and `merges.txt` (CLIP's BPE where
    tokens end in `</w>`, GPT-2's otherwise), from `vocab.txt` (BERT's WordPiece, in the case that
    tokenizer_config.json names), or from `spiece.model` (SigLIP's).

    Raises:
        UserError: there is none of these, or they are damaged.
    """
    for names, read in _READERS.items():
        if all((folder / name).is_file() for name in names):
            try:
                return read(folder)
            except UserError:
                raise
            except Exception as error:  # the library raises nothing narrower
                files = " and ".join(str(folder / name) for name in names)
                raise UserError(f"{files}: the tokenizer is damaged: {error}") from error
    raise UserError(
        f"{folder} has no tokenizer: neither tokenizer.json, nor vocab.json and merges.txt, nor "
        "vocab.txt, nor spiece.model"
    )


def special_token_id(
    folder: Path, backend: tokenizers.Tokenizer, name: str, usual: Sequence[str] = ()
) -> int | None:
    """The id of the special token `name` ("bos_token", "eos_token", "pad_token" …).

    By tokenizer_config.json or special_tokens_map.json. Where they do not name it, that of the
    first of the `usual` tokens which the vocabulary has; None where it has none.

    Raises:
        UserError: they name a token that the vocabulary lacks.
    """
    for file in (folder / "tokenizer_config.json", folder / "special_tokens_map.json"):
        token = safetensors_io.read_json(file).get(name)
        text = token.get("content") if isinstance(token, dict) else token
        if isinstance(text, str):
            token_id = backend.token_to_id(text)
            if token_id is None:
                raise UserError(f"{file}: {name} is {text!r}, which the vocabulary lacks")
            return token_id
    ids = (backend.token_to_id(token) for token in usual)
    return next((token_id for token_id in ids if token_id is not None), None)


def _read_json(folder: Path) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))


def _read_bpe(folder: Path) -> tokenizers.Tokenizer:
    vocabulary = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    is_clip = any(token.endswith(_SUFFIX) for token in vocabulary)
    files = (str(folder / "vocab.json"), str(folder / "merges.txt"))
    bytes_of_words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not is_clip)
    if not is_clip:
        backend = tokenizers.Tokenizer(models.BPE.from_file(*files))
        backend.pre_tokenizer = bytes_of_words
        backend.decoder = decoders.ByteLevel()
        return backend
    unknown = {"unk_token": "<|endoftext|>"} if "<|endoftext|>" in vocabulary else {}
    backend = tokenizers.Tokenizer(
        models.BPE.from_file(*files, end_of_word_suffix=_SUFFIX, **unknown)
    )
    backend.normalizer = normalizers.Sequence(
        [
            normalizers.NFC(),
            normalizers.Replace(tokenizers.Regex(r"\s+"), " "),
            normalizers.Lowercase(),
        ]
    )
    words = pre_tokenizers.Split(tokenizers.Regex(_CLIP_WORDS), "removed", invert=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence([words, bytes_of_words])
    backend.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Replace(_SUFFIX, " ")])
    return backend


def _read_word_piece(folder: Path) -> tokenizers.Tokenizer:
    config = safetensors_io.read_json(folder / "tokenizer_config.json")
    tokens = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
    vocabulary = {token: number for number, token in enumerate(tokens)}
    backend = tokenizers.Tokenizer(
        models.WordPiece(vocabulary, unk_token=_text(config.get("unk_token", "[UNK]")))
    )
    backend.normalizer = normalizers.BertNormalizer(
        handle_chinese_chars=config.get("tokenize_chinese_chars", True),
        strip_accents=config.get("strip_accents"),
        lowercase=config.get("do_lower_case", True),
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    return backend


def _text(token: str | dict[str, str]) -> str:
    """The text of a token as tokenizer_config.json writes it."""
    return token["content"] if isinstance(token, dict) else token


_READERS: dict[tuple[str, ...], Callable[[Path], tokenizers.Tokenizer]] = {
    ("tokenizer.json",): _read_json,
    ("vocab.json", "merges.txt"): _read_bpe,
    ("vocab.txt",): _read_word_piece,
    ("spiece.model",): lambda folder: sentencepiece_file.read_siglip(folder / "spiece.model"),
}
