"""Which of a table's channels a row takes: a hash of its key, so that all changes of a row travel one behind the other.

The hash is over the key's canonical text (as Arrow casts the value), which is the same for text and binary transfer. It is a polynomial over the
bytes of each text, modulo 2^64, computed for all rows at once from running sums. Rows without a key (a TRUNCATE, a table without one) take channel 0.
Nothing depends on the hash but speed and order of arrival: what a crash leaves is told by the landing table (see `shards`).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from etl_supervisor.ipc.arrow import key_fields

_BASE = np.uint64(0x100000001B3)  # of the polynomial: odd, so that no byte is lost
_MIX = np.uint64(0x9E3779B97F4A7C15)
_HALF, _UPPER = np.uint64(32), np.uint64(33)

Hashes = npt.NDArray[np.uint64]


def shards_of(rows: pa.RecordBatch, count: int) -> npt.NDArray[np.int64]:
    """The number of each row's channel, below `count`."""
    hashes = np.zeros(rows.num_rows, np.uint64)
    for name in key_fields(rows.schema):
        hashes = hashes * _MIX + _hashed(rows.column(name))
    hashes ^= hashes >> _HALF
    hashes *= _MIX
    return ((hashes >> _UPPER) % np.uint64(count)).astype(np.int64)


def _hashed(values: pa.Array) -> Hashes:
    """A hash of each value's text; 0 for NULL."""
    texts = values if pa.types.is_binary(values.type) else pc.cast(values, pa.string())
    texts = pc.fill_null(texts, pa.scalar(b"" if pa.types.is_binary(texts.type) else "", texts.type))
    _, offsets, data = texts.buffers()
    ends = np.frombuffer(offsets, np.int32)[texts.offset : texts.offset + len(texts) + 1].astype(np.int64)
    octets = np.frombuffer(data, np.uint8)[ends[0] : ends[-1]] if data is not None else np.zeros(0, np.uint8)
    lengths, starts = np.diff(ends), ends[:-1] - ends[0]
    powers = np.full(int(lengths.max(initial=0)) + 1, _BASE, np.uint64).cumprod(dtype=np.uint64)
    places = np.arange(len(octets)) - np.repeat(starts, lengths)
    sums = np.concatenate(
        ([np.uint64(0)], np.cumsum((octets.astype(np.uint64) + np.uint64(1)) * powers[places], dtype=np.uint64))
    )
    found: Hashes = sums[starts + lengths] - sums[starts]
    return found
