"""Captions to token ids and back: a byte-level BPE vocabulary that no input can defeat."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from jaxtag.errors import UserError

PAD = -1  # what fills a row after its end: no token, so that it is none in any vocabulary
BOS, EOS, UNK = 1, 2, 3  # of a vocabulary that `Tokenizer.train` makes
SPECIAL_TOKENS = ("<pad>", "<bos>", "<eos>", "<unk>")
# Every byte has a token of its own, so that emoji and any script encode without loss.
SMALLEST_VOCABULARY = len(SPECIAL_TOKENS) + 256


class Tokenizer:
    """Byte-level BPE (Sennrich et al. 2016, arXiv:1508.07909; bytes as in GPT-2).

    What `train` makes has the ids `<pad>` 0, `<bos>` 1, `<eos>` 2, `<unk>` 3 (the first and the
    last for tools that expect them: rows are filled with `PAD`, and bytes leave nothing unknown).
    What `adopt` takes over has its own. Pickles, so that worker processes can hold it.

    Attributes:
        bos_id, eos_id: the tokens that start and end a caption; they may be the same.
        truncated: how many captions `encode` had to cut so far, in this process.
    """

    def __init__(self, backend: tokenizers.Tokenizer):
        self._backend = backend
        # The file itself says how captions start and end: what is put around an empty text.
        self.bos_id, self.eos_id = backend.encode("").ids or (BOS, EOS)
        added = backend.get_added_tokens_decoder()
        self._special = frozenset(i for i, token in added.items() if token.special)
        self.truncated = 0

    @classmethod
    def adopt(cls, backend: tokenizers.Tokenizer, bos_id: int, eos_id: int) -> "Tokenizer":
        """Takes over another model's vocabulary, whose captions start and end with these ids."""
        bos, eos = (backend.id_to_token(i) for i in (bos_id, eos_id))
        if bos is None or eos is None:
            raise UserError(
                f"the tokenizer has {backend.get_vocab_size()} ids, so that captions cannot start "
                f"with {bos_id} and end with {eos_id}"
            )
        backend.add_special_tokens([bos, eos])
        backend.no_truncation()
        backend.no_padding()
        backend.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A {eos}", special_tokens=[(bos, bos_id), (eos, eos_id)]
        )
        return cls(backend)

    @classmethod
    def train(cls, captions: Iterable[str], vocab_size: int, lowercase: bool = True) -> "Tokenizer":
        """Learns at most `vocab_size` tokens (at least 260: the special ones and the bytes).

        The same captions give the same vocabulary, in whatever order they come.
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

    def encode(self, texts: Sequence[str], length: int) -> np.ndarray:
        """int32 [N, length]: `bos_id`, the text, `eos_id`, then `PAD`.

        A text of more than `length - 2` tokens is cut there (and still ends with `eos_id`);
        `truncated` counts these.
        """
        if length < 3:
            raise ValueError(f"length is {length}: <bos>, <eos> and one token need 3")
        out = np.full((len(texts), length), PAD, np.int32)
        out[:, 0] = self.bos_id
        for row, text in zip(out, texts, strict=True):
            # A caption that spells "<eos>" is text, never the end of a sequence.
            ids = self._plain(text)
            if len(ids) > length - 2:
                ids = ids[: length - 2]
                self.truncated += 1
            row[1 : 1 + len(ids)] = ids
            row[1 + len(ids)] = self.eos_id
        return out

    def _plain(self, text: str) -> list[int]:
        ids = self._backend.encode(_utf8(text), add_special_tokens=False).ids
        return [i for i in ids if i not in self._special]

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of one sequence of ids, up to its end; other special ids are skipped.

        Half characters (a sequence cut between the bytes of one) are left out.
        """
        ids, kept = np.asarray(ids).tolist(), []
        for token in ids[1:] if ids[:1] == [self.bos_id] else ids:
            if token == self.eos_id:
                break
            if 0 <= token < self.vocab_size and token not in self._special:
                kept.append(token)
        text = self._backend.decode(kept, skip_special_tokens=True)
        return " ".join(text.replace("\ufffd", "").split())

    def decode_batch(self, ids: Sequence[Sequence[int]] | np.ndarray) -> list[str]:
        """The text of each row of ids [N, length]."""
        return [self.decode(row) for row in ids]

    def save(self, path: str | Path) -> None:
        """Writes the vocabulary as JSON in the format of the `tokenizers` library."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        partial = Path(path).with_name(Path(path).name + ".partial")
        partial.write_text(self._backend.to_str(pretty=True), encoding="utf-8")
        partial.replace(path)  # so that a killed run never leaves half a file

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """Reads what `save` wrote; UserError when it is absent, damaged, or not ours."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read the tokenizer {path}: {error}") from error
        try:
            backend = tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # the library raises nothing narrower
            raise UserError(
                f"the tokenizer {path} is damaged ({error}): restore it, or train it anew "
                "in a new work directory"
            ) from error
        found = tuple(backend.id_to_token(i) for i in range(len(SPECIAL_TOKENS)))
        adopted = len(backend.encode("").ids) == 2
        if found != SPECIAL_TOKENS and not adopted:
            raise UserError(
                f"the tokenizer {path} starts with {found}, not with {SPECIAL_TOKENS}: "
                "it was not written by jaxtag"
            )
        return cls(backend)


def _utf8(text: str) -> str:
    """`text` without lone surrogates, which JSON files may hold and UTF-8 cannot."""
    return text.encode("utf-8", "replace").decode("utf-8")
