"""Random histories of a table, as landing rows, and what a plain model says of them: the rows, the rows with those that are gone, all versions."""

from __future__ import annotations

import datetime as dt
import json
import random
from dataclasses import dataclass, field, replace
from typing import Any

from etl_supervisor.ipc.messages import OpenTable
from etl_supervisor.model.pipeline import Destination
from etl_supervisor.model.position import Position
from etl_supervisor.model.table import Column, Table, TableName
from etl_supervisor.model.types import ValueKind, ValueType
from workers.snowflake.identifiers import objects_of

TEXT, INT = ValueType(ValueKind.TEXT), ValueType(ValueKind.INT32)
TABLE = Table(
    TableName("public", "things"),
    1,
    (
        Column("k", INT, key=True),
        Column("a", INT),
        Column("big", TEXT, toastable=True),
        Column("other", TEXT, toastable=True),
    ),
)


def opening(destination: Destination, table: Table = TABLE, **changes: Any) -> OpenTable:
    made = OpenTable(1, 1, "pipe", "sys/slot", 1, 100, "channel", destination, table, "")
    made = replace(made, **changes)
    return replace(made, since=Position(made.generation, table.version, 0, 0).token)


@dataclass
class History:
    """Makes changes as PostgreSQL would: rows for the landing table, and the table as it is after each transaction."""

    chance: random.Random
    generation: int = 100
    rows: dict[int, tuple[int, str | None, str | None]] = field(default_factory=dict)
    landed: list[tuple[Any, ...]] = field(default_factory=list)
    kept: dict[int, tuple[Any, ...]] = field(
        default_factory=dict
    )  # with the rows that are gone: k, values, commit that deleted it
    versions: list[list[Any]] = field(default_factory=list)  # k, values, from, to
    lsn: int = 1000
    number: int = 0

    def transaction(self) -> int:
        """A few changes and a commit; returns the end."""
        commit = self.lsn + 500
        for _ in range(self.chance.randint(1, 6)):
            self.lsn += 10
            self.change(commit)
        self.lsn = commit + 50
        return self.lsn

    def put(self, k: int, row: tuple[Any, ...], commit: int) -> None:
        self.end(k, commit)
        self.rows[k] = row
        self.kept[k] = (*row, None)
        self.versions.append([k, row, commit, None])

    def end(self, k: int, commit: int) -> None:
        if self.rows.pop(k, None) is not None:
            self.kept[k] = (*self.kept[k][:-1], commit)
        for version in self.versions:
            if version[0] == k and version[3] is None:
                version[3] = commit

    @property
    def seen(self) -> list[tuple[Any, ...]]:
        """The versions that a transaction left."""
        return sorted((tuple(version) for version in self.versions if version[2] != version[3]), key=repr)

    def land(
        self, commit: int, index: int, op: str, row: tuple[Any, ...], unchanged: list[str], old: int | None
    ) -> None:
        self.landed.append(
            (
                op,
                self.generation,
                commit,
                self.lsn,
                index,
                json.dumps(unchanged, separators=(",", ":")) if unchanged else None,
                None if old is None else json.dumps({"k": str(old)}),
                *row,
            )
        )

    def value(self) -> str | None:
        self.number += 1
        return self.chance.choice([None, f"v{self.number}", f"v{self.number}"])

    def change(self, commit: int) -> None:
        kind, keys = self.chance.random(), sorted(self.rows)
        if kind < 0.03:
            for k in keys:
                self.end(k, commit)
            self.land(commit, 0, "T", (None, None, None, None), [], None)
        elif kind < 0.35 or not keys:
            k = self.chance.choice([k for k in range(8) if k not in self.rows] or [None])
            if k is not None:
                self.put(k, (self.number, self.value(), self.value()), commit)
                self.land(commit, 0, "I", (k, *self.rows[k]), [], None)
        elif kind < 0.5:
            k = self.chance.choice(keys)
            self.end(k, commit)
            self.land(commit, 0, "D", (k, None, None, None), [], None)
        else:
            self.update(commit, self.chance.choice(keys), move=kind > 0.75)

    def update(self, commit: int, k: int, *, move: bool) -> None:
        a, big, other = self.rows[k]
        unchanged = [name for name in ("big", "other") if self.chance.random() < 0.5]
        new = (a + 1, big if "big" in unchanged else self.value(), other if "other" in unchanged else self.value())
        free = [n for n in range(8) if n not in self.rows and n != k]
        target = self.chance.choice(free) if move and free else k
        if target != k:
            self.end(k, commit)
        self.put(target, new, commit)
        sent = (target, new[0], None if "big" in unchanged else new[1], None if "other" in unchanged else new[2])
        if target != k:
            self.land(commit, 0, "D", (k, None, None, None), [], None)
            self.land(commit, 1, "I", sent, unchanged, k)
        else:
            self.land(commit, 0, "U", sent, unchanged, None)


def time_of(commit: int) -> str:
    """The commit time of these histories; `commit_of` is its inverse."""
    return (dt.datetime(2024, 1, 1, tzinfo=dt.UTC) + dt.timedelta(seconds=commit)).isoformat(sep=" ")


def commit_of(time: dt.datetime | None) -> int | None:
    return None if time is None else int((time - dt.datetime(2024, 1, 1, tzinfo=dt.UTC)).total_seconds())


def insert(session: Any, destination: Destination, rows: list[tuple[Any, ...]], table: Table = TABLE) -> None:
    names = (
        "_ETL_OP, _ETL_GENERATION, _ETL_COMMIT_LSN, _ETL_LSN, _ETL_INDEX, _ETL_UNCHANGED, _ETL_OLD_KEY, K, A, BIG, OTHER,"
        " _ETL_COMMIT_TS"
    )
    values = ", ".join(
        "(" + ", ".join([*map(_literal, row), f"'{time_of(row[2])}'" if row[0] != "R" else "NULL"]) + ")"
        for row in rows
    )
    with session.cursor() as cursor:
        cursor.execute(f"INSERT INTO {objects_of(destination, table).landing_sql} ({names}) VALUES {values}")


def _literal(value: Any) -> str:
    return "NULL" if value is None else str(value) if isinstance(value, int) else "'" + value.replace("'", "''") + "'"
