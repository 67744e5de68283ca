"""How the local Snowflake reads what the SDK has sent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pytest
import zstandard

from etl_supervisor.embedded.snowflake import loading
from etl_supervisor.embedded.snowflake.channels import Channel, Pending
from etl_supervisor.embedded.snowflake.loading import PART_BYTES_MAX, Loaded
from etl_supervisor.embedded.snowflake.stagefiles import unzstd

LINE = b'{"ID":%d,"F":%d.5,"S":"' + b"y" * 400 + b'"}'


def load(lines: bytes, directory: Path) -> tuple[Loaded, Any]:
    connection = duckdb.connect()
    connection.execute('CREATE TABLE t ("ID" BIGINT NOT NULL, "F" DOUBLE, "S" VARCHAR)')
    columns = [("ID", "BIGINT", False), ("F", "DOUBLE", True), ("S", "VARCHAR", True)]
    loaded = loading.load(connection, "t", columns, lines, directory)
    return loaded, connection.execute("SELECT count(DISTINCT ID), sum(ID), sum(F) FROM t").fetchone()


@pytest.mark.parametrize("end", [b"", b"\n", b"\n\n"])
@pytest.mark.parametrize("between", [b"\n", b"\n\n"])
def test_lines_far_larger_than_a_buffer_are_all_read_however_they_end(
    tmp_path: Path, between: bytes, end: bytes
) -> None:
    rows = 3 * PART_BYTES_MAX // len(LINE)
    lines = between.join(LINE % (number, number) for number in range(rows)) + end
    total = rows * (rows - 1) / 2
    assert load(lines, tmp_path) == (Loaded(rows, rows), (rows, total, total + rows / 2))


@pytest.mark.parametrize("size", [1, 7, 100, 1 << 20])
def test_parts_hold_whole_lines_and_all_of_them(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(loading, "PART_BYTES_MAX", size)
    lines = b"\n\n1\n22\n\n\n333\n" + b"4" * 50 + b"\n5"
    parts = list(loading.parts(lines))
    assert all(part.endswith(b"\n") for part in parts)
    assert b"".join(parts).split() == lines.split()


def test_a_line_that_is_too_long_is_refused_and_the_others_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "LINE_BYTES_MAX", 1000)
    monkeypatch.setattr(loading, "PART_BYTES_MAX", 900)
    lines = [LINE % (1, 1), b'{"ID":2,"S":"' + b"z" * 2000 + b'"}', LINE % (3, 3)]
    assert load(b"\n".join(lines), tmp_path) == (Loaded(3, 2), (2, 4, 5.0))


@pytest.mark.parametrize("limit", [16 << 20, 30])
def test_a_text_that_is_too_long_is_refused_and_one_that_is_missing_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    """The limit is looked at only where a text could be beyond it; then it says nothing of NULLs either."""
    monkeypatch.setattr(loading, "WIDTHS", {"VARCHAR": ("length", limit)})
    lines = [b'{"ID":1}', b'{"ID":2,"S":null}', b'{"ID":4,"S":"' + b"z" * 40 + b'"}', b'{"ID":8,"F":"x"}', b'{"S":"s"}']
    total = 7 if limit > 40 else 3
    rows = total.bit_count()
    assert load(b"\n".join(lines), tmp_path) == (Loaded(5, rows), (rows, total, None))


def test_all_frames_of_a_body_are_read_and_half_a_one_is_an_error() -> None:
    frames = b"".join(zstandard.ZstdCompressor().compress(text) for text in (b"one\n", b"two\n"))
    assert unzstd(frames) == b"one\ntwo\n"
    with pytest.raises(ValueError, match="within a frame"):
        unzstd(frames[:-3])


def test_what_a_channel_will_be_changes_nothing_of_what_it_is() -> None:
    channel = Channel(("D", "S", "P", "C"), 1, committed="T1")
    channel.append([Pending(b"a", "T2", 0.0), Pending(b"b", "T3", 0.0)], "r")
    later = channel.after(channel.due(1.0)[:1], 5, 4)
    assert (later.committed, later.rows_inserted, later.rows_error, list(later.pending)) == ("T2", 4, 1, [])
    assert (channel.committed, channel.rows_inserted, channel.rows_error, len(channel.pending)) == ("T1", 0, 0, 2)
