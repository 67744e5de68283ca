"""The columnar decoder against a slow one that is obviously right, on random streams, cut anywhere; and against broken bytes."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from etl_supervisor.errors import EtlError, Kind
from workers.reader.frame import Chunk
from workers.reader.pgoutput import Decoder
from workers.reader.relations import Relations

COLUMNS = ("id", "name", "big")  # int4 key, text, text that may be left out
TYPES = {"id": 23, "name": 25, "big": 25}
UNCHANGED = object()


def frame(start: int, message: bytes) -> bytes:
    return b"w" + struct.pack("!QQQ", start, start + 1, 0) + message


def values(row: dict[str, object]) -> bytes:
    parts = [struct.pack("!H", len(COLUMNS))]
    for name in COLUMNS:
        value = row.get(name)
        if value is UNCHANGED:
            parts.append(b"u")
        elif value is None:
            parts.append(b"n")
        else:
            data = str(value).encode()
            parts.append(b"t" + struct.pack("!I", len(data)) + data)
    return b"".join(parts)


def relation(oid: int) -> bytes:
    columns = b"".join(
        struct.pack("!B", name == "id") + name.encode() + b"\0" + struct.pack("!Ii", TYPES[name], -1)
        for name in COLUMNS
    )
    return b"R" + struct.pack("!I", oid) + b"public\0t%d\0d" % oid + struct.pack("!H", len(COLUMNS)) + columns


@dataclass
class Expected:
    """What must come out: table -> rows."""

    rows: dict[int, list[dict[str, object]]] = field(default_factory=dict)

    def add(
        self, oid: int, op: str, commit: int, lsn: int, index: int, row: dict[str, object], old: int | None = None
    ) -> None:
        unchanged = [name for name in COLUMNS if row.get(name) is UNCHANGED]
        self.rows.setdefault(oid, []).append(
            {
                "op": op,
                "position": (commit, lsn, index),
                "unchanged": unchanged or None,
                "old": None if old is None else {"id": str(old)},
                **{name: None if row.get(name) is UNCHANGED else row.get(name) for name in COLUMNS},
            }
        )


TEXTS = st.none() | st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), max_size=12)
ROWS = st.fixed_dictionaries({"id": st.integers(-(2**31), 2**31 - 1), "name": TEXTS, "big": TEXTS | st.just(UNCHANGED)})
CHANGES = st.lists(
    st.tuples(st.sampled_from("IIUUKDT"), st.sampled_from([1, 2]), ROWS, st.integers(-1000, 1000), st.booleans()),
    max_size=12,
)
TRANSACTIONS = st.lists(CHANGES, min_size=1, max_size=5)


def stream(transactions: list[list[tuple]]) -> tuple[list[bytes], Expected, int]:
    frames, expected, lsn, known = [], Expected(), 100, set()
    for number, changes in enumerate(transactions):
        commit, same = lsn + 1000, 0
        frames.append(frame(lsn, b"B" + struct.pack("!QqI", commit, number, 7 + number)))
        lsn += 1
        for kind, oid, row, old, repeat in changes:
            if oid not in known:
                known.add(oid)
                frames.append(frame(lsn, relation(oid)))
            same = same + 1 if repeat and same else 0
            lsn += 0 if same else 1
            same = same or 1
            index = 2 * (same - 1)
            if kind == "I" and row["big"] is UNCHANGED:
                row = {**row, "big": None}
            head = struct.pack("!I", oid)
            match kind:
                case "I":
                    frames.append(frame(lsn, b"I" + head + b"N" + values(row)))
                    expected.add(oid, "I", commit, lsn, index, row)
                case "U":
                    frames.append(frame(lsn, b"U" + head + b"N" + values(row)))
                    expected.add(oid, "U", commit, lsn, index, row)
                case "K":
                    frames.append(frame(lsn, b"U" + head + b"K" + values({"id": old}) + b"N" + values(row)))
                    if old == row["id"]:  # the key lies out of line, and did not change
                        expected.add(oid, "U", commit, lsn, index, row)
                    else:
                        expected.add(oid, "D", commit, lsn, index, {"id": old})
                        expected.add(oid, "I", commit, lsn, index + 1, row, old)
                case "D":
                    frames.append(frame(lsn, b"D" + head + b"K" + values({"id": old})))
                    expected.add(oid, "D", commit, lsn, index, {"id": old})
                case "T":
                    frames.append(frame(lsn, b"T" + struct.pack("!IB", 1, 0) + head))
                    expected.add(oid, "T", commit, lsn, index, {})
        lsn = commit + 10
        frames.append(frame(commit, b"C\0" + struct.pack("!QQq", commit, lsn, number)))
    return frames, expected, lsn


def decoded(frames: list[bytes], cuts: list[int]) -> tuple[dict[int, list[dict[str, object]]], int | None]:
    decoder, rows, end, at = Decoder(Relations(lambda oid: None)), {}, None, 0
    for cut in [*sorted({cut % (len(frames) + 1) for cut in cuts}), len(frames)]:
        result = decoder.decode([Chunk.of(frames[at:cut])])
        at, end = cut, result.end_lsn or end
        for item in result.segments:
            rows.setdefault(item.table.oid, []).extend(plain(row) for row in item.batch.to_pylist())
    assert not decoder.in_transaction
    return rows, end


def plain(row: dict[str, object]) -> dict[str, object]:
    def loads(text: object) -> object:
        return json.loads(text) if isinstance(text, str) else None

    return {
        "op": row["_etl_op"],
        "position": (row["_etl_commit_lsn"], row["_etl_lsn"], row["_etl_index"]),
        "unchanged": loads(row["_etl_unchanged"]),
        "old": loads(row["_etl_old_key"]),
        **{name: row[name] for name in COLUMNS},
    }


@settings(max_examples=200, deadline=None)
@given(TRANSACTIONS, st.lists(st.integers(0, 1000), max_size=8))
def test_any_stream_cut_anywhere_gives_the_same_rows_and_positions(transactions, cuts):
    frames, expected, end = stream(transactions)
    rows, found = decoded(frames, cuts)
    assert rows == expected.rows
    assert found == end


@settings(max_examples=300, deadline=None)
@given(TRANSACTIONS, st.data())
def test_broken_bytes_are_a_typed_error_or_nothing_at_all(transactions, data):
    frames, _, _ = stream(transactions)
    number = data.draw(st.integers(0, len(frames) - 1))
    broken = bytearray(frames[number])
    for _ in range(data.draw(st.integers(1, 3))):
        broken[data.draw(st.integers(25, len(broken) - 1))] = data.draw(st.integers(0, 255))
    frames[number] = bytes(broken[: data.draw(st.integers(1, len(broken)))])
    try:
        Decoder(Relations(lambda oid: None)).decode([Chunk.of(frames)])
    except EtlError as error:
        assert error.kind in (Kind.PROTOCOL, Kind.SCHEMA)  # noqa: PT017 - no error at all is right too
