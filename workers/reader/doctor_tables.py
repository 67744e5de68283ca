"""What `doctor` looks at in the tables of a source, one by one, and in what the publications publish of them.

publication         kinds of changes that are not published; no table at all
schema, select      rights that the user lacks
row_security        rows that a policy hides from the user, and so from the copy
replica_identity    PostgreSQL refuses UPDATE and DELETE of a published table without one
no_key, toast, large, mask
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import psycopg

from etl_supervisor.config.settings import Settings
from etl_supervisor.errors import EtlError
from etl_supervisor.model.finding import Finding, Weight
from etl_supervisor.model.pipeline import SourceSpec
from etl_supervisor.model.table import Table
from workers.reader.masks import resolve
from workers.reader.sight import Sight

LARGE_BYTES = 100 << 30  # a first copy of hours

_KINDS = """
SELECT bool_or(pubinsert), bool_or(pubupdate), bool_or(pubdelete), bool_or(pubtruncate) FROM pg_publication WHERE pubname = ANY(%s)
"""
_FACTS = """
SELECT c.oid::bigint, has_schema_privilege(c.relnamespace, 'USAGE'), has_table_privilege(c.oid, 'SELECT'), row_security_active(c.oid),
       c.relreplident = 'f', pg_table_size(c.oid), c.reltoastrelid <> 0
FROM pg_class c WHERE c.oid = ANY(%s)
"""


@dataclass(frozen=True, slots=True)
class _Facts:
    """What the catalog and the user's rights say of a table."""

    oid: int
    may_enter: bool
    may_read: bool
    hidden_rows: bool
    full: bool
    size: int
    toasts: bool


def examine(connection: psycopg.Connection[Any], settings: Settings, spec: SourceSpec) -> Iterator[Finding]:
    """Everything that is found in the published tables."""
    sight = Sight(connection, spec.source, lambda: None)
    kinds = _kinds(connection, sight)
    shapes = {table.oid: table for _, table in sight.published()}
    yield from _published(kinds, sight, shapes)
    user = connection.info.user
    for row in connection.execute(_FACTS, [list(shapes)]).fetchall():
        facts, table = _Facts(*row), shapes[row[0]]
        place = f"source {spec.source.name}, table {table.name}"
        yield from _rights(facts, table, place, user)
        yield from _identity(facts, table, place, changes=kinds["update"] or kinds["delete"])
        yield from _sizes(facts, table, place)
    yield from _masks(settings, spec, shapes.values())


def _kinds(connection: psycopg.Connection[Any], sight: Sight) -> dict[str, bool]:
    """Which kinds of changes any of the publications publishes."""
    (row,) = connection.execute(_KINDS, [sight.publications]).fetchall()
    return dict(zip(("insert", "update", "delete", "truncate"), row, strict=True))


def _published(kinds: dict[str, bool], sight: Sight, shapes: dict[int, Table]) -> Iterator[Finding]:
    names = ", ".join(sight.publications)
    if missing := [kind for kind, there in kinds.items() if not there]:
        reason = f"{names} does not publish {', '.join(missing)}: targets will differ from the source by that"
        remedy = f"ALTER PUBLICATION {sight.publications[0]} SET (publish = 'insert, update, delete, truncate')"
        yield Finding(Weight.RISK, "publication", sight.place, reason, remedy)
    if not shapes:
        remedy = f"ALTER PUBLICATION {sight.publications[0]} ADD TABLE ..."
        yield Finding(Weight.RISK, "publication", sight.place, f"{names} publishes no table", remedy)


def _rights(facts: _Facts, table: Table, place: str, user: str) -> Iterator[Finding]:
    if not facts.may_enter:
        remedy = f'GRANT USAGE ON SCHEMA "{table.name.schema}" TO {user}'
        yield Finding(Weight.WRONG, "schema", place, f"user {user} may not use its schema", remedy)
    if not facts.may_read:
        remedy = f"GRANT SELECT ON {table.name} TO {user}"
        yield Finding(Weight.WRONG, "select", place, "it may not be read, so it can't be copied", remedy)
    if facts.hidden_rows:
        reason = f"row security hides rows from user {user}: the copy fails, or lacks them"
        yield Finding(Weight.WRONG, "row_security", place, reason, f"ALTER ROLE {user} BYPASSRLS")


def _identity(facts: _Facts, table: Table, place: str, *, changes: bool) -> Iterator[Finding]:
    if table.key:
        return
    if changes and not facts.full:
        reason = "it is published and has no replica identity: PostgreSQL refuses every UPDATE and DELETE of it"
        remedy = f"add a primary key, or ALTER TABLE {table.name} REPLICA IDENTITY FULL (or USING INDEX)"
        yield Finding(Weight.RISK, "replica_identity", place, reason, remedy)
    reason = (
        "it has no key that its changes bring: rows are told apart by all their values, and its copy can't be resumed"
    )
    remedy = "add a primary key, or REPLICA IDENTITY USING INDEX"
    yield Finding(Weight.ADVICE, "no_key", place, reason, remedy)


def _sizes(facts: _Facts, table: Table, place: str) -> Iterator[Finding]:
    if facts.toasts and not facts.full and any(column.toastable for column in table.columns):
        reason = "large values that an update leaves alone are not sent; they are taken from earlier changes and the target: nothing is lost"
        remedy = "REPLICA IDENTITY FULL costs WAL and is worth it only where rows move into a row filter by updates"
        yield Finding(Weight.ADVICE, "toast", place, reason, remedy)
    if facts.size > LARGE_BYTES:
        reason = f"it has {facts.size >> 30:,} GiB: its first copy takes long and holds back vacuum meanwhile"
        remedy = "raise COPY_CONNECTIONS, and run ANALYZE so that progress can be told"
        yield Finding(Weight.ADVICE, "large", place, reason, remedy)


def _masks(settings: Settings, spec: SourceSpec, tables: Iterable[Table]) -> Iterator[Finding]:
    by_name = {table.name: table for table in tables}
    for pipeline in spec.pipelines:
        for name in sorted({mask.table for mask in pipeline.selection.masks}):
            if name not in by_name:
                place = f"pipeline {pipeline.name}, table {name}"
                reason = "its columns are to be masked, and it is not published"
                yield Finding(Weight.RISK, "mask", place, reason, "correct its name in columns, or publish it")
                continue
            try:
                resolve(pipeline, by_name[name], "", settings.masking())
            except EtlError as error:
                yield Finding(Weight.WRONG, "mask", error.place, error.reason, error.remedy)
