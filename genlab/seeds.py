"""Seeded hashes: random numbers that are a function of their seed and place alone.

No generator has to be stored or replayed for a resume, and no number depends on the device, the
batch or the process that asks for it.
"""

import hashlib
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

__all__ = ["digest", "fraction_of", "mix", "permute", "random_state", "uniforms"]

ROUNDS = 6  # of the Feistel network
# Increment and multipliers of SplitMix64, as signed 64-bit integers
GOLDEN, FIRST, SECOND = (
    value - (1 << 64) for value in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)

Integers = TypeVar("Integers", np.ndarray, Tensor)


def digest(*words: int | str) -> int:
    """63 bits that are a function of `words` alone."""
    return int.from_bytes(_blake2b(*words, size=8)) >> 1


def fraction_of(text: str) -> float:
    """A number in [0, 1) that is a function of `text` alone."""
    return int.from_bytes(_blake2b(text, size=7)) / (1 << 56)


def random_state(*words: int | str) -> np.random.RandomState:
    """A generator seeded with `words`; RandomState, because NumPy has frozen its streams."""
    seed = np.frombuffer(_blake2b(*words, size=32), dtype="<u4")
    return np.random.RandomState(seed.astype(np.uint32))


def _blake2b(*words: int | str, size: int) -> bytes:
    return hashlib.blake2b(" ".join(map(str, words)).encode(), digest_size=size).digest()


def mix(z: Integers) -> Integers:
    """The finaliser of SplitMix64 on int64, of NumPy or torch.

    Steele et al. 2014, "Fast splittable pseudorandom number generators", doi
    10.1145/2660193.2660195. Products wrap around, as those of unsigned integers do.
    """
    z = (z ^ _shift_right(z, 30)) * FIRST
    z = (z ^ _shift_right(z, 27)) * SECOND
    return z ^ _shift_right(z, 31)


def _shift_right(z: Integers, bits: int) -> Integers:
    """z >> bits, with zeros moving in whatever the sign."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def uniforms(keys: Tensor, num: int, length: int) -> Tensor:
    """Uniform numbers by SplitMix64, each row a function of its key alone.

    Args:
        keys: (B,) int64.
        num: How many sequences a key gives.
        length: How many numbers a sequence has.

    Returns:
        (B, num, length) float32 in [0, 1).
    """
    place = torch.arange(1, num * length + 1, device=keys.device)
    bits = mix(keys[:, None] * FIRST + place * GOLDEN)
    return (_shift_right(bits, 40).float() / (1 << 24)).unflatten(1, (num, length))


def permute(places: np.ndarray, count: int, key: int) -> np.ndarray:
    """Where `places` go in a permutation of range(count) that `key` chooses.

    A Feistel network over the next even number of bits is applied again until the result is below
    count (Black and Rogaway 2002, "Ciphers with arbitrary finite domains"). So an epoch needs no
    table of its order.

    Args:
        places: Integers from 0 to count - 1, of any shape.
        count: The size of the permutation.
        key: 63 bits, as `digest` gives them.

    Returns:
        int64 of the shape of `places`.
    """
    half = max(1, ((count - 1).bit_length() + 1) // 2)
    low = (1 << half) - 1
    keys = [digest(key, i) for i in range(ROUNDS)]
    out = np.array(places, np.int64)
    todo = np.ones(out.shape, bool)
    while todo.any():
        left = out[todo] >> half
        right = out[todo] & low
        for word in keys:
            left, right = right, left ^ (mix(right + word) & low)
        out[todo] = left << half | right
        todo[todo] = out[todo] >= count
    return out
