"""How the local Snowflake reads what the SDK has sent."""

from __future__ import annotations

from typing import Any

import duckdb
import pytest
import zstandard

from etl_supervisor.embedded.snowflake import loading
from etl_supervisor.embedded.snowflake.channels import Channel, Pending
from etl_supervisor.embedded.snowflake.loading import PART_BYTES_MAX, Loaded
from etl_supervisor.embedded.snowflake.stagefiles import unzstd

LINE = b'{"ID":%d,"F":%d.5,"S":"' + b"y" * 400 + b'"}'

KINDS = {"F": "DOUBLE", "S": "VARCHAR", "V": "JSON", "B": "BLOB"}


def load(lines: bytes) -> tuple[Loaded, Any]:
    connection = duckdb.connect()
    connection.execute('CREATE TABLE t ("ID" BIGINT NOT NULL, "F" DOUBLE, "S" VARCHAR)')
    columns = [("ID", "BIGINT", False), ("F", "DOUBLE", True), ("S", "VARCHAR", True)]
    loaded = loading.load(connection, "t", columns, lines)
    return loaded, connection.execute("SELECT count(DISTINCT ID), sum(ID), sum(F) FROM t").fetchone()


@pytest.mark.parametrize("end", [b"", b"\n", b"\n\n"])
@pytest.mark.parametrize("between", [b"\n", b"\n\n"])
def test_lines_far_larger_than_a_buffer_are_all_read_however_they_end(between: bytes, end: bytes) -> None:
    rows = 3 * PART_BYTES_MAX // len(LINE)
    lines = between.join(LINE % (number, number) for number in range(rows)) + end
    total = rows * (rows - 1) / 2
    assert load(lines) == (Loaded(rows, rows), (rows, total, total + rows / 2))


@pytest.mark.parametrize("size", [1, 7, 100, 1 << 20])
def test_parts_hold_whole_lines_and_all_of_them(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(loading, "PART_BYTES_MAX", size)
    lines = b"\n\n1\n22\n\n\n333\n" + b"4" * 50 + b"\n5"
    parts = list(loading.parts(lines))
    assert all(part.endswith(b"\n") for part in parts)
    assert b"".join(parts).split() == lines.split()


def test_a_line_that_is_too_long_is_refused_and_the_others_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "LINE_BYTES_MAX", 1000)
    monkeypatch.setattr(loading, "PART_BYTES_MAX", 900)
    lines = [LINE % (1, 1), b'{"ID":2,"S":"' + b"z" * 2000 + b'"}', LINE % (3, 3)]
    assert load(b"\n".join(lines)) == (Loaded(3, 2), (2, 4, 5.0))


@pytest.mark.parametrize("limit", [16 << 20, 30])
def test_a_text_that_is_too_long_is_refused_and_one_that_is_missing_is_not(
    monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    """The limit is looked at only where a text could be beyond it; then it says nothing of NULLs either."""
    monkeypatch.setattr(loading, "WIDTHS", {"VARCHAR": ("length", limit)})
    lines = [b'{"ID":1}', b'{"ID":2,"S":null}', b'{"ID":4,"S":"' + b"z" * 40 + b'"}', b'{"ID":8,"F":"x"}', b'{"S":"s"}']
    total = 7 if limit > 40 else 3
    rows = total.bit_count()
    assert load(b"\n".join(lines)) == (Loaded(5, rows), (rows, total, None))


LINES = [
    b'{"ID":1,"B":"aGk=","F":1e3,"S":"\\"\\u00e4\\n\xf0\x9f\x90\x98","V":{"a": [1, 2.50, null], "b":"\\u0041"}}',
    b'{"V":1234567890.123456789012345,"ID":2,"S":"null","B":null}',
    b'{"ID":3,"V":null,"S":null,"other":[{"ID":9}]}',
    b'{"ID":4,"V":"text","S":12.5}',
    b'{"ID":5,"V":[],"S":{"x":1}}',
    b'{"ID":"6","V":true,"S":true,"F":"inf"}',
    b'{"ID":7,"F":"no number"}',
    b'{"ID":null,"S":"needed"}',
    b'{"ID":9,"B":"not base64"}',
    b'{"ID":10,"V":"","S":""}',
    b"{}",
]


@pytest.mark.parametrize("line", LINES)
def test_a_line_that_is_taken_apart_is_read_as_one_that_is_not(line: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    for largest in (PART_BYTES_MAX, 0):
        monkeypatch.setattr(loading, "PART_BYTES_MAX", largest)
        connection = duckdb.connect()
        connection.execute('CREATE TABLE t ("ID" BIGINT NOT NULL, "F" DOUBLE, "S" VARCHAR, "V" JSON, "B" BLOB)')
        columns = [("ID", "BIGINT", False), *((name, kind, True) for name, kind in KINDS.items())]
        kept: list[str] = []
        loaded = loading.load(connection, "t", columns, line, keep=kept.append)
        read.append((loaded, bool(kept), connection.execute("SELECT * FROM t").fetchall()))
    assert read[0] == read[1]
    assert loaded.parsed == 1


def test_a_document_of_tens_of_megabytes_takes_a_few_times_its_size() -> None:
    connection = duckdb.connect(config={"memory_limit": f"{6 * 40}MiB", "temp_directory": "", "threads": 2})
    connection.execute('CREATE TABLE t ("ID" BIGINT NOT NULL, "V" JSON)')
    line = b'{"ID":1,"V":"' + b"d" * (40 << 20) + b'"}'
    assert loading.load(connection, "t", [("ID", "BIGINT", False), ("V", "JSON", True)], line) == Loaded(1, 1)


def test_a_long_line_that_is_no_json_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "PART_BYTES_MAX", 0)
    with pytest.raises(ValueError, match="Expecting value"):
        load(b'{"ID":,}')


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
