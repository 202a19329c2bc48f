"""The tokenizer: any text goes in, clean text comes out, the same captions give the same ids."""

import json
import pickle
import random

import numpy as np
import pytest
import tokenizers

from jaxtag.data.tokenizer import BOS, EOS, PAD, UNK, Tokenizer
from jaxtag.errors import UserError

CAPTIONS = [
    "A black dog runs through the snow .",
    "Two children play on the beach with a red ball.",
    "A man in a blue shirt rides a bicycle; it's raining.",
    "The dog and the man are on the beach.",
] * 3


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(CAPTIONS, 320)


def test_special_ids(tokenizer):
    assert (PAD, BOS, EOS, UNK) == (-1, 1, 2, 3)
    assert (tokenizer.bos_id, tokenizer.eos_id) == (BOS, EOS)
    ids = tokenizer.encode(["the dog"], 8)
    assert ids.dtype == np.int32
    assert ids.shape == (1, 8)
    row = ids[0].tolist()
    end = row.index(EOS)
    assert row[0] == BOS
    assert all(4 <= i < tokenizer.vocab_size for i in row[1:end])
    assert set(row[end + 1 :]) == {PAD}


@pytest.mark.parametrize(
    "text",
    [
        "a dog 🐶 and a 👩‍👩‍👧 family",
        "狗在雪地里奔跑",
        "étude für élise, ñandú",
        "5$ for 3.5% — “quoted” #tag @you",
        "",
        "zzzzqqqqxxxx",
        "\x00 control \x7f",
    ],
)
def test_any_text_survives_a_round_trip(tokenizer, text):
    ids = tokenizer.encode([text], 256)
    assert UNK not in ids
    assert tokenizer.decode(ids[0]) == " ".join(text.split())


def test_lower_case_and_white_space_are_made_one(tokenizer):
    a, b = tokenizer.encode(["  The DOG\n\truns ", "the dog runs"], 16)
    np.testing.assert_array_equal(a, b)
    keeps = Tokenizer.train(CAPTIONS, 320, lowercase=False)
    assert keeps.decode(keeps.encode(["The DOG"], 16)[0]) == "The DOG"


def test_truncation_is_counted_and_keeps_the_form():
    tokenizer = Tokenizer.train(CAPTIONS, 320)
    ids = tokenizer.encode(["dog", "word " * 50], 8)
    assert tokenizer.truncated == 1
    assert ids[1, 0] == BOS
    assert ids[1, -1] == EOS


def test_names_of_special_tokens_in_a_text_do_not_end_it(tokenizer):
    ids = tokenizer.encode(["dog <eos> beach <pad>"], 64)[0].tolist()
    assert ids.index(EOS) > 2
    assert ids.count(EOS) == 1
    assert "beach" in tokenizer.decode(ids)


def test_lone_surrogates_do_not_fail(tokenizer):
    assert tokenizer.decode(tokenizer.encode(["dog \ud83d"], 16)[0]).startswith("dog")


def test_decode_stops_at_the_end_and_drops_half_characters(tokenizer):
    ids = tokenizer.encode(["dog 🐶"], 32)[0]
    end = ids.tolist().index(EOS)
    assert tokenizer.decode([*ids[: end - 1], EOS, *ids[1:end]]) == "dog"
    assert tokenizer.decode([]) == ""
    assert tokenizer.decode([BOS, 10**6, PAD]) == ""
    assert tokenizer.decode_batch(tokenizer.encode(["the dog", "beach"], 8)) == ["the dog", "beach"]


def test_the_same_captions_in_any_order_give_the_same_vocabulary(tmp_path):
    shuffled = list(CAPTIONS)
    random.Random(0).shuffle(shuffled)
    for name, captions in (("a", CAPTIONS), ("b", shuffled)):
        Tokenizer.train(captions, 320).save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_saved_loaded_and_pickled_it_is_the_same(tokenizer, tmp_path):
    path = tmp_path / "new folder" / "tokenizer.json"
    tokenizer.save(path)
    expected = tokenizer.encode(CAPTIONS, 40)
    for other in (Tokenizer.load(path), pickle.loads(pickle.dumps(tokenizer))):
        np.testing.assert_array_equal(other.encode(CAPTIONS, 40), expected)
        assert other.vocab_size == tokenizer.vocab_size
        assert other.decode(expected[0]) == tokenizer.decode(expected[0])
    assert list(path.parent.iterdir()) == [path]


def test_a_larger_vocabulary_makes_shorter_captions():
    small, large = (Tokenizer.train(CAPTIONS, size) for size in (261, 400))
    assert large.vocab_size <= 400
    count = [(t.encode(CAPTIONS, 100) > UNK).sum() for t in (small, large)]
    assert count[1] < count[0] / 2


def test_damaged_files_are_named(tokenizer, tmp_path):
    path = tmp_path / "tokenizer.json"
    with pytest.raises(UserError, match="cannot read the tokenizer"):
        Tokenizer.load(path)
    tokenizer.save(path)
    text = path.read_text(encoding="utf-8")
    path.write_text(text[: len(text) // 2], encoding="utf-8")
    with pytest.raises(UserError, match="damaged"):
        Tokenizer.load(path)
    other = json.loads(text)
    other["added_tokens"] = []
    other["model"]["vocab"] = {"a": 0, "b": 1, "c": 2, "d": 3}
    other["model"]["merges"] = []
    path.write_text(json.dumps(other), encoding="utf-8")
    with pytest.raises(UserError, match="not written by jaxtag"):
        Tokenizer.load(path)


def test_anothers_vocabulary_with_one_token_for_start_and_end(tmp_path):
    """As GPT-2's: no token is kept for padding, and id 0 is a letter."""
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    backend.train_from_iterator(
        CAPTIONS, tokenizers.trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet)
    )
    backend.add_special_tokens(["<|endoftext|>"])
    mark = backend.token_to_id("<|endoftext|>")
    with pytest.raises(UserError, match="cannot start with 9999"):
        Tokenizer.from_pretrained(backend, 9999, mark)
    Tokenizer.from_pretrained(backend, mark, mark).save(tmp_path / "t.json")
    adopted = Tokenizer.load(tmp_path / "t.json")
    text = "! the dog <|endoftext|> runs!"
    row = adopted.encode([text], 32)[0].tolist()
    end = row.index(mark, 1)
    assert (row[0], row[1], row.count(mark)) == (mark, 0, 2)
    assert set(row[end + 1 :]) == {PAD}
    assert adopted.decode(row) == "! the dog runs!"
    assert adopted.decode([mark, mark, *row[1:]]) == ""


def test_wrong_use():
    with pytest.raises(UserError, match="at least 260"):
        Tokenizer.train(CAPTIONS, 100)
    with pytest.raises(UserError, match="no caption"):
        Tokenizer.train([], 400)
    with pytest.raises(ValueError, match="length"):
        Tokenizer.train(CAPTIONS, 300).encode(["dog"], 2)


def test_words_and_the_positions_of_their_tokens():
    tokenizer = Tokenizer.train(["a red house", "a red house"], 268)
    (row,) = tokenizer.encode(["a rédd house"], 30)
    words = tokenizer.words(row)
    assert [word for word, _ in words] == ["a", "rédd", "house"]
    places = [place for _, places in words for place in places]
    assert places == list(range(1, 1 + len(places)))
    assert int(row[places[-1] + 1]) == tokenizer.eos_id
