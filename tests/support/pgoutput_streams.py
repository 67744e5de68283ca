"""Hypothesis strategies for whole histories: sessions at the same time, savepoints, tables whose shape changes, every kind of change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from hypothesis import strategies as st

from tests.support.pgoutput_frames import NULL, UNCHANGED, ColumnOf, TableOf, Value, text
from tests.support.pgoutput_history import History

SESSIONS = 2
ID = ColumnOf("id", 23, key=True)
NAME, BIG = ColumnOf("name"), ColumnOf("big")
PRICE = ColumnOf("price", 1700, typmod=(10 << 16 | 2) + 4)
TYPED = (
    ColumnOf("flag", 16),
    ColumnOf("day", 1082),
    ColumnOf("at", 1184),
    ColumnOf("doc", 3802),
    ColumnOf("bytes", 17),
    ColumnOf("real", 701),
)
SHAPES: dict[int, tuple[TableOf, ...]] = {  # by relation: the shapes that it takes
    1: tuple(
        TableOf(1, "plain", columns)
        for columns in ((ID, NAME, BIG), (ID, NAME, BIG, PRICE), (ID, ColumnOf("name", 23), BIG))
    ),
    2: tuple(
        TableOf(2, "whole", tuple(replace(column, key=True) for column in columns), "f")
        for columns in ((NAME, ID, BIG), (NAME, ID, BIG, PRICE))
    ),
    3: (TableOf(3, "typed é", (*TYPED, ID, replace(NAME, key=True)), "i"), TableOf(3, "renamed", (ID, *TYPED), "i")),
    4: (TableOf(4, "no key", (replace(NAME, key=True),), "f", "pg_catalog"), TableOf(4, "empty", (), "n")),
}
PRIMARY_KEYS = {2: frozenset({"id", "name"})}  # what the catalog knows of those whose messages flag every column

_TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=9)
_BY_TYPE: dict[int, st.SearchStrategy[str]] = {
    23: st.integers(-3, 3).map(str) | st.sampled_from(["2147483647", "-2147483648"]),
    25: st.sampled_from(["", "a", 'q"\\', "\\N"]) | _TEXTS,
    1700: st.sampled_from(["0.00", "-12.50", "99999999.99", "NaN"]),
    16: st.sampled_from(["t", "f"]),
    1082: st.sampled_from(["2024-02-29", "infinity", "0044-03-15 BC", "10000-01-01"]),
    1184: st.sampled_from(["2024-01-31 10:00:00.123456+00", "-infinity", "1999-12-31 23:59:59+00"]),
    3802: st.sampled_from(['{"a": 1}', "null", "[]"]),
    17: st.sampled_from(["\\x", "\\x00ff"]),
    701: st.sampled_from(["0.1", "NaN", "-Infinity", "1e-300"]),
}


def _value(draw: st.DrawFn, column: ColumnOf) -> Value:
    return NULL if draw(st.integers(0, 5)) == 0 else text(draw(_BY_TYPE[column.type_oid]))


def _row(draw: st.DrawFn, table: TableOf, *, toast: bool = False) -> list[Value]:
    """Values of a row; with `toast`, big texts may be left out."""
    left_out = [toast and column.name == "big" and draw(st.booleans()) for column in table.columns]
    return [UNCHANGED if left else _value(draw, column) for left, column in zip(left_out, table.columns, strict=True)]


def _key(draw: st.DrawFn, table: TableOf) -> list[Value]:
    return [_value(draw, column) if column.key else NULL for column in table.columns]


def _change(draw: st.DrawFn, history: History, session: int, tables: dict[int, TableOf], oid: int = 0) -> None:
    """A change of this table, or of any."""
    table = tables[oid or draw(st.sampled_from(sorted(tables)))]
    match draw(st.sampled_from("IIIMUUKOODT")):
        case "I":
            history.change(session, "I", [table], _row(draw, table))
        case "M":
            history.inserts(session, table, [_row(draw, table) for _ in range(draw(st.integers(2, 4)))])
        case "U":
            history.change(session, "U", [table], _row(draw, table, toast=True))
        case "K":
            history.change(session, "U", [table], _row(draw, table, toast=True), _key(draw, table))
        case "O":
            old, new = _row(draw, table), _row(draw, table, toast=True)
            if draw(st.booleans()):  # the same key: only now it is an update
                known = PRIMARY_KEYS.get(table.oid, frozenset())
                new = [b if c.name in known else a for a, b, c in zip(new, old, table.columns, strict=True)]
            history.change(session, "U", [table], new, old, "O")
        case "D" if draw(st.booleans()):
            history.change(session, "D", [table], old=_key(draw, table), mark="K")
        case "D":
            history.change(session, "D", [table], old=_row(draw, table), mark="O")
        case _:
            some = draw(st.lists(st.sampled_from(sorted(tables)), min_size=1, max_size=3, unique=True))
            history.change(session, "T", [tables[oid] for oid in some])


def _nested(draw: st.DrawFn, history: History, session: int, tables: dict[int, TableOf]) -> None:
    """A subtransaction, begun and ended, that may be streamed in between."""
    history.savepoint(session)
    _change(draw, history, session, tables)
    if draw(st.booleans()):
        history.stream(session)
    draw(st.sampled_from([History.release, History.roll_back_to_savepoint]))(history, session)


_ENDS: list[Callable[[History, int], None]] = [
    History.commit,
    History.commit,
    History.roll_back,
    History.savepoint,
    History.release,
    History.roll_back_to_savepoint,
]


@st.composite
def histories(draw: st.DrawFn, steps_max: int = 20) -> History:
    """A history in which every transaction has ended."""
    history = History()
    tables = {oid: shapes[0] for oid, shapes in SHAPES.items()}
    for _ in range(draw(st.integers(1, steps_max))):
        session = draw(st.integers(0, SESSIONS - 1))
        match draw(st.sampled_from("CCCCXXSSNA")):
            case "C":
                _change(draw, history, session, tables)
            case "X" if session in history.open_sessions():
                draw(st.sampled_from(_ENDS))(history, session)
            case "S":
                history.stream(session)
            case "N":
                _nested(draw, history, session, tables)
            case "A":
                oid = draw(st.sampled_from(sorted(SHAPES)))
                _change(draw, history, session, tables, oid)
                tables[oid] = draw(st.sampled_from(SHAPES[oid]))
                _change(draw, history, session, tables, oid)
    for session in history.open_sessions():
        history.commit(session)
    return history
