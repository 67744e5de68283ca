"""Which channel a row takes, and what is committed when channels are at different places."""

from __future__ import annotations

import datetime
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest

from workers.snowflake.sharding import shards_of
from workers.snowflake.shards import Progress

KEY = {b"key": b"1"}


def rows(**columns: pa.Array) -> pa.RecordBatch:
    """All columns but `v` are of the key."""
    fields = [pa.field(name, array.type, metadata=None if name == "v" else KEY) for name, array in columns.items()]
    return pa.RecordBatch.from_arrays(list(columns.values()), schema=pa.schema(fields))


def test_a_key_takes_the_same_channel_wherever_it_stands_and_whatever_stands_beside_it() -> None:
    ids = list(range(1000)) * 2
    batch = rows(id=pa.array(ids), v=pa.array(range(2000)))
    found = shards_of(batch, 5)
    assert (found[:1000] == found[1000:]).all()
    assert (shards_of(batch.slice(700, 900), 5) == found[700:1600]).all()
    assert [int(shards_of(batch.slice(number, 1), 5)[0]) for number in range(50)] == found[:50].tolist()


@pytest.mark.parametrize("count", [2, 3, 8])
@pytest.mark.parametrize(
    "keys",
    [
        pa.array(range(8000)),
        pa.array(range(0, 8000 * 64, 64)),
        pa.array([f"customer-{number:09d}" for number in range(8000)]),
        pa.array([number.to_bytes(8, "big") for number in range(8000)]),
        pa.array([Decimal(number) / 100 for number in range(8000)], pa.decimal128(12, 2)),
        pa.array(
            [
                datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(minutes=number)
                for number in range(8000)
            ]
        ),
    ],
    ids=["numbers", "strides", "texts", "bytes", "decimals", "moments"],
)
def test_keys_are_spread_evenly(keys: pa.Array, count: int) -> None:
    shares = np.bincount(shards_of(rows(id=keys), count), minlength=count) / len(keys) * count
    assert shares.min() > 0.9
    assert shares.max() < 1.1


def test_columns_of_a_key_count_in_their_order_and_nulls_are_a_value() -> None:
    batch = rows(a=pa.array(["x", "y", "x", None, ""] * 200), b=pa.array(["y", "x", "y", "x", None] * 200))
    found = shards_of(batch, 8)
    assert found[0] == found[2]
    assert len(set(found[:5].tolist())) > 1


def test_rows_without_a_key_and_empty_texts_take_a_channel_too() -> None:
    assert not shards_of(rows(v=pa.array([1, 2, 3])), 4).any()
    assert len(set(shards_of(rows(id=pa.array(["", "", ""])), 4).tolist())) == 1
    assert len(shards_of(rows(id=pa.array([], pa.string())), 4)) == 0


def test_committed_is_what_every_channel_has_committed() -> None:
    progress = Progress("01")
    progress.whole.extend(["05", "09", "12"])
    assert progress.advance("02") == "01"
    assert progress.advance("06") == "05", "a channel still has rows from 06 on, of the append up to 09"
    assert progress.advance("13") == "12", "rows from 13 on are not with every channel yet"
    assert progress.advance(None) == "12"
