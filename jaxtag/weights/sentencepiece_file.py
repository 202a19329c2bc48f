"""SentencePiece's `spiece.model` as SigLIP's tokenizer, read without its library.

The file is a message of Protocol Buffers, `ModelProto` of sentencepiece_model.proto. Its unigram
model (Kudo 2018, arXiv:1804.10959) is one of the `tokenizers` library too.
"""

import re
import string
import struct
from collections.abc import Iterator
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from jaxtag.errors import UserError

_UNIGRAM = 1  # TrainerSpec.model_type
# Fields of the messages, by their numbers.
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_PIECE, _SCORE = 1, 2
_MODEL_TYPE, _BYTE_FALLBACK, _UNK_ID = 3, 35, 40
_CHARSMAP = 2


def read_siglip(path: Path) -> tokenizers.Tokenizer:
    """The tokenizer of SigLIP: without punctuation, in lower case, blanks as one.

    Raises:
        UserError: the file is damaged, or of another kind of model.
    """
    try:
        message = path.read_bytes()
        pieces, unk_id, is_unigram, byte_fallback = [], 0, True, False
        charsmap = b""
        for field, value in _fields(message):
            if field == _PIECES:
                pieces.append(_read_piece(value))
            elif field == _TRAINER:
                trainer = dict(_fields(value))
                unk_id = _integer(trainer.get(_UNK_ID, b"\0"))
                is_unigram = _integer(trainer.get(_MODEL_TYPE, b"\1")) == _UNIGRAM
                byte_fallback = bool(_integer(trainer.get(_BYTE_FALLBACK, b"\0")))
            elif field == _NORMALIZER:
                charsmap = dict(_fields(value)).get(_CHARSMAP, b"")
        if not is_unigram:
            raise ValueError("its model is no unigram model, as SigLIP's is")
        backend = tokenizers.Tokenizer(models.Unigram(pieces, unk_id, byte_fallback))
        steps = [
            normalizers.Lowercase(),
            normalizers.Replace(tokenizers.Regex(f"[{re.escape(string.punctuation)}]"), ""),
            normalizers.Replace(tokenizers.Regex(r"\s+"), " "),
            normalizers.Strip(),
            *([normalizers.Precompiled(charsmap)] if charsmap else []),
        ]
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # the library raises nothing narrower
        raise UserError(f"{path}: the tokenizer cannot be used: {error}") from error
    backend.normalizer = normalizers.Sequence(steps)
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    backend.decoder = decoders.Metaspace(prepend_scheme="always")
    return backend


def _read_piece(message: bytes) -> tuple[str, float]:
    """A piece and its score."""
    fields = dict(_fields(message))
    return fields[_PIECE].decode(), struct.unpack("<f", fields.get(_SCORE, bytes(4)))[0]


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """The fields of a message: number, and the bytes of the value (of an integer, its varint).

    Raises:
        ValueError: the message is damaged.
    """
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        field, kind = tag >> 3, tag & 7
        if kind == 0:
            _, end = _varint(message, position)
        elif kind == 1:
            end = position + 8
        elif kind == 2:
            length, position = _varint(message, position)
            end = position + length
        elif kind == 5:
            end = position + 4
        else:
            raise ValueError(f"damaged at byte {position}")
        if end > len(message):
            raise ValueError(f"it ends at byte {len(message)}, in the middle of a field")
        yield field, message[position:end]
        position = end


def _integer(varint: bytes) -> int:
    return _varint(varint, 0)[0]


def _varint(message: bytes, position: int) -> tuple[int, int]:
    """An integer of seven bits a byte, and the position after it."""
    value = 0
    for number in range(10):
        if position >= len(message):
            break
        byte = message[position]
        value |= (byte & 0x7F) << (7 * number)
        position += 1
        if byte < 0x80:
            return value, position
    raise ValueError(f"damaged at byte {position}")
