"""Which segments go together in one append."""

from __future__ import annotations

import pyarrow as pa

from etl_supervisor.ipc.messages import Segment
from workers.snowflake.loading import APPEND_BYTES_MAX, coalesced

NARROW = pa.RecordBatch.from_pydict({"a": [1]})
WIDE = pa.RecordBatch.from_pydict({"a": [1], "b": [2]})


def segment(seq: int, length: int = 100) -> Segment:
    return Segment(1, seq, seq, 1, length, 1, f"{seq}", f"{seq}", 0)


def groups(*parts: tuple[Segment, pa.RecordBatch]) -> list[list[int]]:
    return [[item.seq for item, _ in group] for group in coalesced(list(parts))]


def test_small_segments_of_one_shape_go_together() -> None:
    assert groups() == []
    assert groups((segment(1), NARROW), (segment(2), NARROW), (segment(3), NARROW)) == [[1, 2, 3]]


def test_another_shape_begins_another_append() -> None:
    assert groups((segment(1), NARROW), (segment(2), WIDE), (segment(3), WIDE)) == [[1], [2, 3]]


def test_a_large_segment_goes_alone() -> None:
    large = segment(2, APPEND_BYTES_MAX)
    assert groups((segment(1), NARROW), (large, NARROW), (segment(3), NARROW)) == [[1], [2], [3]]
