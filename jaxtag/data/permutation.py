"""Keyed permutations of 0 … n - 1, computed position by position: nothing is kept."""

import numpy as np
from jaxtyping import UInt64

_ROUNDS = 16  # half-rounds, each of which changes one digit; 8 favor some orders of 5
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # of splitmix64 (Steele, Lea and Flood 2014)
_FACTOR = np.uint64(0xBF58476D1CE4E5B9)  # likewise
_HALF_BITS = np.uint64(32)

Words = UInt64[np.ndarray, "*shape"]


@np.errstate(over="ignore")  # numpy warns of scalars alone
def make_key(*parts: int | np.ndarray) -> np.ndarray:
    """A key of numbers, uint64; where some are arrays, an array of keys in their common shape."""
    key = np.zeros((), np.uint64)
    for part in parts:
        key = _mix((key + _GOLDEN) ^ np.asarray(part).astype(np.uint64))
    return key


@np.errstate(over="ignore")
def permute(
    positions: np.ndarray, sizes: int | np.ndarray, keys: np.ndarray
) -> UInt64[np.ndarray, "*shape"]:
    """Where each position goes in the permutation of 0 … size - 1 that a key selects.

    A Feistel network over two digits, each about as large as the root of the size, whose few
    results beyond the size are permuted again until they are below it (Black and Rogaway 2002,
    Ciphers with Arbitrary Finite Domains). Each key gives a bijection; positions of different
    permutations may be computed in one call.

    Args:
        positions: int [...], each in 0 … size - 1.
        sizes: below 2^63, in a shape that broadcasts to that of the positions.
        keys: from `make_key`, likewise.
    """
    values = np.asarray(positions).astype(np.uint64)
    sizes, keys = np.asarray(sizes).astype(np.uint64), np.asarray(keys)
    network = _Network(sizes, keys)
    values = network(values)
    beyond = values >= sizes
    if beyond.any():
        sizes, keys = np.broadcast_to(sizes, values.shape), np.broadcast_to(keys, values.shape)
    while beyond.any():
        values[beyond] = _Network(sizes[beyond], keys[beyond])(values[beyond])
        beyond = values >= sizes
    return values


class _Network:
    """Feistel networks over a x b numbers, a b at least a size and below it plus a."""

    def __init__(self, sizes: Words, keys: Words):
        self._a = np.ceil(np.sqrt(sizes.astype(np.float64))).astype(np.uint64)
        self._b = (sizes + self._a - np.uint64(1)) // self._a
        self._keys = [keys + np.uint64(number) * _GOLDEN for number in range(_ROUNDS)]

    def __call__(self, values: Words) -> Words:
        left = values // self._b
        right = values - left * self._b
        for first, second in zip(self._keys[::2], self._keys[1::2], strict=True):
            left = _add(left, _hash(right, first, self._a), self._a)
            right = _add(right, _hash(left, second, self._b), self._b)
        return left * self._b + right


def _hash(half: Words, keys: Words, modulus: Words) -> Words:
    """A pseudorandom number below the modulus, which is below 2^32."""
    hashed = np.asarray((half + keys) * _GOLDEN)
    hashed ^= hashed >> _HALF_BITS
    hashed *= _FACTOR
    hashed >>= _HALF_BITS
    hashed *= modulus
    hashed >>= _HALF_BITS
    return hashed


def _add(value: Words, other: Words, modulus: Words) -> Words:
    """value + other modulo the modulus, both below it."""
    total = value + other
    return np.minimum(total, total - modulus)  # which wraps around where total < modulus


def _mix(values: np.ndarray) -> np.ndarray:
    """The finalizer of splitmix64: each bit of its input changes half the bits of its output."""
    values = (values ^ (values >> np.uint64(30))) * _FACTOR
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
