"""Rows as texts, and their 64-bit fingerprints (pure; numpy and Arrow kernels).

A row's cells are joined by two characters that begin with NUL, which no text of PostgreSQL holds, so different rows are different texts.

The fingerprint of a short text is a sum of its bytes, each times a random odd weight of its place, mixed by splitmix64: the mixing matters, because
fingerprints are summed, and sums of sums would not notice a byte that two rows have exchanged. That of a long text is BLAKE2b, one call each: there
the bytes cost more than the call. Both depend on the text alone, not on the rows that come with it.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Prints = npt.NDArray[np.uint64]

BETWEEN, NULL = "\0,", "\0N"
SHORT_BYTES_MAX = 4096  # the weights of so many places are a table of 32 kB
AT_ONCE_BYTES_MAX = 1 << 20  # each byte becomes some forty meanwhile
_SEED = 20_240_229  # any; both sides use the same


def joined(cells: Sequence[pa.Array], rows: int) -> pa.Array:
    """One text per row; for no cells at all, empty ones."""
    if not cells:
        return pa.repeat(pa.scalar("", pa.large_string()), rows)
    wide = [cell.cast(pa.large_string()) for cell in cells]
    between = pa.scalar(BETWEEN, pa.large_string())
    return pc.binary_join_element_wise(*wide, between, null_handling="replace", null_replacement=NULL)


def taken_apart(text: str) -> list[str | None]:
    """The cells of one joined text."""
    return [None if cell == NULL else cell for cell in text.split(BETWEEN)]


def fingerprints(texts: pa.Array) -> Prints:
    """Of texts without NULLs."""
    long = pc.greater(pc.binary_length(texts), SHORT_BYTES_MAX)
    if not pc.any(long).as_py():
        return _short(texts)
    found = np.empty(len(texts), np.uint64)
    where = long.to_numpy(zero_copy_only=False)
    found[~where] = _short(texts.filter(pc.invert(long)))
    digests = [hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts.filter(long).to_pylist()]
    found[where] = np.frombuffer(b"".join(digests), np.uint64)
    return found


def _short(texts: pa.Array) -> Prints:
    if len(texts) == 0:
        return np.empty(0, np.uint64)
    _, offsets, data = texts.buffers()
    ends = np.frombuffer(offsets, np.int64)[texts.offset : texts.offset + len(texts) + 1]
    lengths = np.diff(ends)
    size = int(ends[-1] - ends[0])
    if size > AT_ONCE_BYTES_MAX:
        middle = len(texts) // 2
        return np.concatenate([_short(texts[:middle]), _short(texts[middle:])])
    octets = np.frombuffer(data, np.uint8)[ends[0] : ends[-1]] if size else np.empty(0, np.uint8)
    places = np.arange(size) - np.repeat(ends[:-1] - ends[0], lengths)
    running = np.zeros(size + 1, np.uint64)
    np.cumsum((octets.astype(np.uint64) + np.uint64(1)) * _weights()[places], out=running[1:])
    return _mixed(running[ends[1:] - ends[0]] - running[ends[:-1] - ends[0]])


@functools.cache
def _weights() -> Prints:
    found = np.random.default_rng(_SEED).integers(0, 1 << 64, SHORT_BYTES_MAX, np.uint64, endpoint=False)
    return found | np.uint64(1)


def _mixed(value: Prints) -> Prints:
    """splitmix64."""
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
