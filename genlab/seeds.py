"""The order of an epoch without a table of it: a keyed permutation of 0 .. count - 1, computed
where it is asked for.
"""

import hashlib

import numpy as np

__all__ = ["digest", "shuffled"]

ROUNDS = 6


def digest(*words: int | str) -> int:
    """63 bits that are a function of the words alone."""
    return (
        int.from_bytes(hashlib.blake2b(" ".join(map(str, words)).encode(), digest_size=8).digest())
        >> 1
    )


def mixed(z: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele et al. 2014, doi 10.1145/2660193.2660195) on uint64."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def shuffled(places: np.ndarray, count: int, key: int) -> np.ndarray:
    """int64: where each of `places` goes in a permutation of range(count) that `key` chooses.

    A Feistel network over the next even number of bits, walked until it is below count (Black and
    Rogaway 2002, "Ciphers with arbitrary finite domains").
    """
    half = np.uint64(max(1, ((count - 1).bit_length() + 1) // 2))
    low = (np.uint64(1) << half) - np.uint64(1)
    keys = [np.uint64(digest(key, i)) for i in range(ROUNDS)]
    out = np.asarray(places, np.int64).astype(np.uint64)
    todo = np.ones(out.shape, bool)
    while todo.any():
        left, right = out[todo] >> half, out[todo] & low
        for word in keys:
            left, right = right, left ^ (mixed(right + word) & low)
        out[todo] = left << half | right
        todo[todo] = out[todo] >= np.uint64(count)
    return out.astype(np.int64)
