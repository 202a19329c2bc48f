"""Changes of files by seed: of bytes, of numbers in them, of texts, of values in JSON."""

import copy
import json
import random
import re

_NUMBERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF)
_NUMBERS += (0x80000000, 0xFFFFFFFF)
_TOKENS = (
    *(
        "",
        " ",
        "\0",
        "\n",
        "\r",
        "\t",
        ",",
        ";",
        '"',
        '""',
        "'",
        "/",
        "../",
        "\\",
        "C:\\",
        "%s",
        "-",
    ),
    *("é", "e\u0301", "\ufeff", "\u202e", "\U0001f600", "null", "NaN", "Infinity", "1e999", "-1"),
    *("0", "9" * 30, "9" * 5000, "0x10", "true", "{}", "[]", "=1+1", "<x>", "&amp;", "x" * 3000),
    *("[" * 2000, '{"a":' * 2000, "*", "~", "$HOME", "\x1b[31m", "split", "file", "train", "val"),
)
_VALUES = (
    *(None, True, False, -1, 0, 1, 2, 1.5, 1e308, 10**30, 10**5000, float("nan"), float("inf")),
    *("", " ", "x", "\0", "\n", "\ud83d", "../x", "/", ".", [], {}, [None], [[]], {"x": 1}, [1]),
    *(["a", 1], {"": None}, "x" * 3000, 2**31, 2**63, -(2**63), [0] * 300),
)
_TOKEN = re.compile(rb"[0-9A-Za-z_.]+|[^0-9A-Za-z_.\s]")


def mutate(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """`data` after one change, often, or a few.

    Args:
        others: files of which a part may be taken.
    """
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        kinds = [_bytes, _bytes, _number, _cut, _repeat, _splice, _runs]
        if _is_text(data):
            kinds = [_token, _token, _lines, _json, _json, _json, _bytes, _cut]
        data = rng.choice(kinds)(data, others, rng)
    return data


def _is_text(data: bytes) -> bool:
    try:
        return "\0" not in data.decode()
    except UnicodeDecodeError:
        return False


def _bytes(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """Some bytes replaced, inserted, removed, or a bit of one turned."""
    position = rng.randrange(len(data) + 1)
    junk = rng.choice((rng.randbytes(rng.randint(1, 20)), b"\xff" * rng.randint(1, 9), bytes(4)))
    kind = rng.randrange(4)
    if kind == 0 and position < len(data):
        flipped = data[position] ^ 1 << rng.randrange(8)
        return data[:position] + bytes([flipped]) + data[position + 1 :]
    if kind == 1:
        return data[:position] + junk + data[position:]
    if kind == 2:
        return data[:position] + data[position + len(junk) :]
    return data[:position] + junk + data[position + len(junk) :]


def _number(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """A number of 1 to 4 bytes that is at a limit; mostly in the header."""
    size = rng.choice((1, 2, 4))
    value = rng.choice(_NUMBERS) & ((1 << 8 * size) - 1)
    limit = len(data) if rng.random() < 0.3 else min(len(data), 200)
    position = rng.randrange(limit + 1)
    return (
        data[:position]
        + value.to_bytes(size, rng.choice(("little", "big")))
        + data[position + size :]
    )


def _cut(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    position = rng.randrange(len(data) + 1)
    return data[position:] if rng.random() < 0.1 else data[:position]


def _repeat(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    start = rng.randrange(len(data) + 1)
    part = data[start : start + rng.randint(1, 64)]
    return data[:start] + part * rng.choice((2, 3, 50)) + data[start:]


def _splice(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """A part of another file in the place of one of this."""
    other = rng.choice(others)
    start, source = rng.randrange(len(data) + 1), rng.randrange(len(other) + 1)
    part = other[source : source + rng.randint(1, 200)]
    return data[:start] + part + data[start + len(part) :]


def _runs(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """A long run of one byte, in the file or at its end."""
    position = rng.choice((rng.randrange(len(data) + 1), len(data)))
    byte = rng.choice((b"\0", b"\xff", rng.randbytes(1)))
    return data[:position] + byte * rng.choice((100, 5_000, 100_000)) + data[position:]


def _token(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    tokens = list(_TOKEN.finditer(data))
    if not tokens:
        return _bytes(data, others, rng)
    start, end = rng.choice(tokens).span()
    if rng.random() < 0.3:  # that of another place
        other_start, other_end = rng.choice(tokens).span()
        return data[:start] + data[other_start:other_end] + data[end:]
    return data[:start] + rng.choice(_TOKENS).encode() + data[end:]


def _lines(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """Lines repeated, removed or exchanged."""
    lines = data.splitlines(keepends=True) or [b""]
    first, second = rng.randrange(len(lines)), rng.randrange(len(lines))
    kind = rng.randrange(3)
    if kind == 0:
        lines[first], lines[second] = lines[second], lines[first]
    elif kind == 1:
        lines.insert(first, lines[second])
    else:
        del lines[first]
    return b"".join(lines)


def _json(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """Another value, or none, at one place of a JSON value; of a line where each is one."""
    lines = [data]
    number = 0
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        lines = data.splitlines(keepends=True) or [b""]
        number = rng.randrange(len(lines))
        try:
            content = json.loads(lines[number])
        except (ValueError, RecursionError):
            return _token(data, others, rng)
    paths = list(_paths(content))
    path = rng.choice(paths)
    value = rng.choice(_VALUES)
    if rng.random() < 0.2:
        value = _at(content, rng.choice(paths))
    text = _dumps(_changed(content, path, value, rng.random() < 0.15))
    lines[number] = text + (b"\n" if lines[number].endswith(b"\n") else b"")
    return b"".join(lines)


def _dumps(value: object) -> bytes:
    digits = "9" * 5000
    text = json.dumps(_without_long_integers(value), ensure_ascii=False)
    return text.replace('"<digits>"', digits).encode("utf-8", "surrogatepass")


def _without_long_integers(value: object) -> object:
    """Python refuses to write integers of thousands of digits."""
    if isinstance(value, dict):
        return {key: _without_long_integers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_long_integers(item) for item in value]
    is_long = isinstance(value, int) and abs(value) > 10**1000
    return "<digits>" if is_long else value


def _paths(value: object, path: tuple = ()):
    """The path to each value inside of one, and to the value itself; of lists the first three."""
    yield path
    items = value.items() if isinstance(value, dict) else ()
    items = enumerate(value[:3]) if isinstance(value, list) else items
    for key, item in items:
        if len(path) < 50:
            yield from _paths(item, (*path, key))


def _at(value, path: tuple):
    for key in path:
        value = value[key]
    return copy.deepcopy(value)


def _changed(content, path: tuple, value: object, remove: bool):
    if not path:
        return value
    content = copy.deepcopy(content)
    *above, last = path
    parent = content
    for key in above:
        parent = parent[key]
    if remove:
        del parent[last]
    else:
        parent[last] = value
    return content
