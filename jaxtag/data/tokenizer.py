"""Captions to token ids and back: byte-level BPE, which encodes any input without loss."""

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from jaxtag.errors import UserError
from jaxtag.storage.atomic_file import write_text
from jaxtag.storage.paths import make_path

PAD = -1  # fills a row after its end: an id of no vocabulary
BOS, EOS, UNK = 1, 2, 3  # in a vocabulary from `Tokenizer.train`
SPECIAL_TOKENS = ("<pad>", "<bos>", "<eos>", "<unk>")
# Every byte has a token of its own, so that emoji and any script encode without loss.
SMALLEST_VOCABULARY = len(SPECIAL_TOKENS) + 256


class Tokenizer:
    """Byte-level BPE (Sennrich et al. 2016, arXiv:1508.07909; bytes as in GPT-2).

    A vocabulary from `train` has the ids `<pad>` 0, `<bos>` 1, `<eos>` 2, `<unk>` 3 (the first and
    the last for tools that expect them: rows are filled with `PAD`, and bytes leave nothing
    unknown). A tokenizer from `from_pretrained` has ids of its own. Pickles, so that worker
    processes can hold it.

    Attributes:
        bos_id: The token that starts a text; None where nothing does (SigLIP).
        eos_id: The token that ends one; it may be the same.
        pad_id: What fills a row after its end: `PAD`, or the id that a published model wants.
        truncated: Number of captions that `encode` has cut so far, in this process.
    """

    def __init__(self, backend: tokenizers.Tokenizer):
        self._backend = backend
        # The ids around an empty text are those that start and end one.
        around = backend.encode("").ids or [BOS, EOS]
        self.bos_id: int | None = around[0] if len(around) == 2 else None
        self.eos_id: int = around[-1]
        self.pad_id: int = (backend.padding or {"pad_id": PAD})["pad_id"]
        added = backend.get_added_tokens_decoder()
        self._special = frozenset(i for i, token in added.items() if token.special)
        self.truncated = 0

    @classmethod
    def from_pretrained(
        cls, backend: tokenizers.Tokenizer, bos_id: int | None, eos_id: int, pad_id: int = PAD
    ) -> "Tokenizer":
        """Wraps the tokenizer of a published model.

        Args:
            backend: As `weights.tokenizer_files.read_backend` returns it; changed.
            bos_id: The id that starts a text; None for nothing.
            eos_id: The id that ends one.
            pad_id: The id that fills a row; by default `PAD`, which models read as "nothing here".

        Raises:
            UserError: The tokenizer has no such ids.
        """
        around = [i for i in (bos_id, eos_id) if i is not None]
        ids = around if pad_id == PAD else [*around, pad_id]
        tokens = {i: backend.id_to_token(i) or "" for i in ids}
        if "" in tokens.values():
            raise UserError(
                f"the tokenizer has {backend.get_vocab_size()} ids, so that texts cannot start "
                f"with {bos_id}, end with {eos_id} and be filled with {pad_id}"
            )
        backend.add_special_tokens(list(tokens.values()))
        backend.no_truncation()
        backend.no_padding()
        if pad_id != PAD:
            backend.enable_padding(pad_id=pad_id, pad_token=tokens[pad_id])
        before = [tokens[i] for i in around[:-1]]
        backend.post_processor = processors.TemplateProcessing(
            single=" ".join([*before, "$A", tokens[eos_id]]),
            special_tokens=[(tokens[i], i) for i in set(around)],
        )
        return cls(backend)

    @classmethod
    def train(cls, captions: Iterable[str], vocab_size: int, lowercase: bool = True) -> "Tokenizer":
        """Learns at most `vocab_size` tokens (at least 260: the special ones and the bytes).

        The same captions give the same vocabulary, in whatever order they come.

        Raises:
            UserError: `vocab_size` is too small, or there are no captions.
        """
        if vocab_size < SMALLEST_VOCABULARY:
            raise UserError(
                f"vocab_size is {vocab_size}: it must be at least {SMALLEST_VOCABULARY} "
                "(4 special tokens and 256 bytes)"
            )
        backend = tokenizers.Tokenizer(models.BPE())
        steps = [normalizers.NFC(), normalizers.Replace(tokenizers.Regex(r"\s+"), " ")]
        steps += [normalizers.Lowercase()] if lowercase else []
        backend.normalizer = normalizers.Sequence([*steps, normalizers.Strip()])
        # With a space before the first word, a word is the same token wherever it stands.
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=list(SPECIAL_TOKENS),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        backend.train_from_iterator(captions, trainer)
        if backend.get_vocab_size() == SMALLEST_VOCABULARY:
            raise UserError("no caption to learn a vocabulary from: the training split has none")
        return cls(backend)

    def __len__(self) -> int:
        return self.vocab_size

    @property
    def vocab_size(self) -> int:
        """Number of ids, special tokens included; may be below what `train` was asked for."""
        return self._backend.get_vocab_size()

    def encode(self, texts: Sequence[str], max_length: int) -> np.ndarray:
        """Encodes texts as int32 [N, max_length]: `bos_id`, the text, `eos_id`, then `pad_id`.

        A text that does not fit is cut (and still ends with `eos_id`); `truncated` counts these.
        """
        if max_length < 3:
            raise ValueError(f"max_length is {max_length}: <bos>, <eos> and one token need 3")
        out = np.full((len(texts), max_length), self.pad_id, np.int32)
        start = [] if self.bos_id is None else [self.bos_id]
        room = max_length - len(start) - 1
        for row, text in zip(out, texts, strict=True):
            # A caption that spells "<eos>" is text, never the end of a sequence.
            ids = self._plain(text)
            self.truncated += len(ids) > room
            ids = [*start, *ids[:room], self.eos_id]
            row[: len(ids)] = ids
        return out

    def encode_prompts(self, texts: Sequence[str]) -> np.ndarray:
        """Encodes texts without what starts and ends a caption, int32 [N, P], filled with `PAD`."""
        rows = [self._plain(text) for text in texts]
        out = np.full((len(rows), max(map(len, rows), default=0)), PAD, np.int32)
        for row, ids in zip(out, rows, strict=True):
            row[: len(ids)] = ids
        return out

    def _plain(self, text: str) -> list[int]:
        ids = self._backend.encode(_utf8(text), add_special_tokens=False).ids
        return [i for i in ids if i not in self._special]

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Decodes one sequence of ids up to its end; other special ids are skipped.

        Half characters (a sequence cut between the bytes of one) are left out.
        """
        sequence, text_ids = np.asarray(ids).tolist(), []
        for token in sequence[1:] if sequence[:1] == [self.bos_id] else sequence:
            if token == self.eos_id:
                break
            if 0 <= token < self.vocab_size and token not in self._special:
                text_ids.append(token)
        text = self._backend.decode(text_ids, skip_special_tokens=True)
        return " ".join(text.replace("\ufffd", "").split())

    def decode_batch(self, ids: Sequence[Sequence[int]] | np.ndarray) -> list[str]:
        """Decodes each row of ids [N, max_length]."""
        return [self.decode(row) for row in ids]

    def words(self, ids: Sequence[int] | np.ndarray) -> list[tuple[str, list[int]]]:
        """The words of one sequence, and the positions of their tokens in it.

        A word begins where a token begins with a space.
        """
        words: list[tuple[bytes, list[int]]] = []
        for position, token in enumerate(np.asarray(ids).tolist()):
            if token == self.eos_id and position > 0:
                break
            added = self._token_bytes[token] if 0 <= token < self.vocab_size else b""
            if added[:1].isspace() or (added and not words):
                words.append((added, [position]))
            elif added:
                words[-1] = (words[-1][0] + added, [*words[-1][1], position])
        texts = [(word.decode("utf-8", "ignore").strip(), places) for word, places in words]
        return [(text, places) for text, places in texts if text]

    def token(self, token_id: int) -> str:
        """The text of an id of the vocabulary."""
        return self._backend.id_to_token(token_id) or ""

    def to_json(self) -> str:
        """The vocabulary in the format of the `tokenizers` library."""
        return self._backend.to_str(pretty=True)

    @cached_property
    def _token_bytes(self) -> list[bytes]:
        return self.token_bytes()

    def token_bytes(self) -> list[bytes]:
        """The bytes that each id adds to a text, in order; special ids add none."""
        is_wordpiece = isinstance(self._backend.decoder, decoders.WordPiece)
        as_bytes = _wordpiece_bytes if is_wordpiece else _byte_level_bytes
        ids = range(self.vocab_size)
        return [b"" if i in self._special else as_bytes(self.token(i)) for i in ids]

    def save(self, path: str | Path) -> None:
        """Writes `to_json`."""
        write_text(path, self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """Reads what `save` wrote.

        Raises:
            UserError: The file is absent, damaged, or was not written by jaxtag.
        """
        try:
            text = make_path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read the tokenizer {path}: {error}") from error
        try:
            backend = tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # the library raises nothing narrower
            raise UserError(
                f"the tokenizer {path} is damaged ({error}): restore it, or train it anew "
                "in a new work directory"
            ) from error
        first_tokens = tuple(backend.id_to_token(i) for i in range(len(SPECIAL_TOKENS)))
        has_template = len(backend.encode("").ids) in (1, 2)  # made by `from_pretrained`
        if first_tokens != SPECIAL_TOKENS and not has_template:
            raise UserError(
                f"the tokenizer {path} starts with {first_tokens}, not with {SPECIAL_TOKENS}: "
                "it was not written by jaxtag"
            )
        return cls(backend)


def _byte_alphabet() -> dict[str, bytes]:
    """The character by which GPT-2's alphabet writes a byte -> the byte."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in visible]
    characters = {chr(byte): byte for byte in visible}
    characters |= {chr(256 + n): byte for n, byte in enumerate(hidden)}
    return {character: bytes([byte]) for character, byte in characters.items()}


_BYTES = _byte_alphabet()


def _byte_level_bytes(token: str) -> bytes:
    return b"".join(_BYTES.get(character, character.encode()) for character in token)


def _wordpiece_bytes(token: str) -> bytes:
    return (token[2:] if token.startswith("##") else f" {token}").encode()


def _utf8(text: str) -> str:
    """`text` without lone surrogates, which JSON files may hold and UTF-8 cannot."""
    return text.encode("utf-8", "replace").decode("utf-8")
