"""One verification of a pipeline: its tables against their source, all at one LSN, while everything goes on.

    freeze     every table's target at its watermark (`frozen`)
    snapshot   a temporary slot's, with its consistent point S: it shows exactly what committed before S (an ordinary snapshot has no LSN)
    wait       until every row before S is durable: the source is confirmed up to S, or the table's own watermark has passed it
    each       catch the clone up to S, read both sides (`comparing`); equal: S is noted in the state store
    repair     if it is wanted: a table that differs in few ranges is put right (`repair`) and looked at once more in the next round

The slot ends as soon as the snapshot is there. Until the end the source has one transaction (it keeps dead rows, as for a pg_dump) and an
ACCESS SHARE lock on each table (an ALTER waits). A table that changes its shape or generation meanwhile is left for another round.
Columns that only one side has after ROUNDS_MAX rounds (one was added, and no row has told the stream of it yet) are named and not compared.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import psycopg
import structlog

from etl_supervisor.config.settings import Settings
from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.model import lsn, names
from etl_supervisor.model.pipeline import Pipeline, SourceSpec
from etl_supervisor.model.table import Table, TableName
from etl_supervisor.model.table_state import Phase, TableState
from etl_supervisor.model.verified import Keys, Verdict, Verified
from etl_supervisor.monitor import logs
from etl_supervisor.state.store import StateStore
from workers.reader.heartbeat import Access
from workers.reader.masks import Masks, resolve
from workers.reader.snapshot import Found, Snapshot
from workers.reader.stream import broken_off
from workers.snowflake.connection import connect
from workers.verify.comparing import Difference, Odd, compare
from workers.verify.fingerprints import taken_apart
from workers.verify.frozen import Frozen, MovedError
from workers.verify.repair import Repair, may_mend
from workers.verify.sides import Pair, SourceSide, TargetSide, ranged

ROUNDS_MAX = 3
WAIT_SECONDS_MAX = 300.0  # a batch is seconds; the walsender of a busy source may be minutes behind
LOOK_SECONDS = 0.5

log = structlog.get_logger()

Tell = Callable[[Verdict], None]


def verify(
    settings: Settings,
    store: StateStore,
    spec: SourceSpec,
    pipeline: str,
    tables: Sequence[TableName],
    tell: Tell,
    *,
    repair: bool = False,
) -> None:
    """Compare these tables of a started pipeline, and `tell` the verdict of each. EtlError when nothing can be compared.

    With `repair` what can be put right by ranges is; a verdict that differs and was not `repaired` asks for another copy, by the caller.
    """
    chosen = next(found for found in spec.pipelines if found.name == pipeline)
    try:
        Verification(settings, store, spec, chosen, tell, repair=repair).run(tables)
    except psycopg.Error as error:
        raise broken_off(error, spec.source) from None


class Verification:
    """Rounds over some tables, until each has its verdict."""

    def __init__(
        self,
        settings: Settings,
        store: StateStore,
        spec: SourceSpec,
        pipeline: Pipeline,
        tell: Tell,
        *,
        repair: bool = False,
    ) -> None:
        self._settings, self._store, self._source = settings, store, spec.source
        self._pipeline, self._tell, self._repair = pipeline, tell, repair
        self._states: dict[TableName, TableState] = {}

    def run(self, tables: Sequence[TableName]) -> None:
        """Verdicts for all of them."""
        left = list(tables)
        with contextlib.closing(self._connect()) as session:
            for number in range(1, ROUNDS_MAX + 1):
                left = self._round(session, left, last=number == ROUNDS_MAX)
                if not left:
                    return
        for name in left:
            self._tell(Verdict(name, trouble="it changes all the time: its shape, its files or its generation"))

    # -- inside

    def _round(self, session: Any, tables: Sequence[TableName], *, last: bool) -> list[TableName]:
        """The tables that must be looked at again."""
        self._states = self._store.tables(self._source.name, self._pipeline.name)
        again = []
        with contextlib.ExitStack() as resources:
            frozen = dict(self._frozen(session, tables, resources))
            if not frozen:
                return []
            snapshot = resources.enter_context(contextlib.closing(self._snapshot()))
            found = {name: self._find(snapshot, name) for name in frozen}
            snapshot.release()
            for name, clone in frozen.items():
                try:
                    self._table(snapshot, found[name], clone, last=last)
                except MovedError:
                    again.append(name)
                except EtlError as error:
                    self._tell(Verdict(name, trouble=error.line))
        return again

    def _frozen(
        self, session: Any, tables: Sequence[TableName], resources: contextlib.ExitStack
    ) -> Iterator[tuple[TableName, Frozen]]:
        for name in tables:
            state = self._states.get(name)
            if state is None or state.phase is not Phase.READY:
                reason = f"it is {state.phase}" if state is not None else "it is gone"
                self._tell(Verdict(name, trouble=f"not compared: {reason}"))
                continue
            try:
                clone = Frozen(session, self._pipeline, name, state.copied_from)
            except EtlError as error:
                self._tell(Verdict(name, trouble=error.line))
                continue
            resources.callback(clone.close)
            yield name, clone

    def _table(self, snapshot: Snapshot, found: Found | EtlError | None, clone: Frozen, *, last: bool) -> None:
        if isinstance(found, EtlError):
            raise found
        if found is None:
            raise MovedError
        name, point = found.table.name, snapshot.consistent_point
        self._wait(clone, point)
        dead = clone.catch_up(point)
        masks = self._masks(found.table)
        pairs, alone = _pairs(found.table, masks, clone.table)
        if alone and not last:
            raise MovedError
        by = ranged(pairs, masks)
        source = SourceSide(snapshot.first, found, masks, pairs, by)
        soft = clone.policy.soft and bool(clone.table.key)
        target = TargetSide(clone.connection, clone.table_sql, pairs, clone.place, soft, by)
        difference = compare(source, target, source.ranges())
        verdict = _verdict(name, point, difference, alone, dead)
        if verdict.differs and self._repair and not (last or alone) and by is not None:
            rows = self._mended(Repair(clone, found, masks, point, pairs[by]), snapshot, difference, dead)
            if rows is not None:
                self._tell(replace(verdict, repaired=rows))
                raise MovedError  # by us
        if verdict.equal:
            noted = Verified(name, point, time.time(), difference.source_rows)
            self._store.save_verified(self._source.name, self._pipeline.name, noted)
        self._tell(verdict)

    def _mended(self, repair: Repair, snapshot: Snapshot, difference: Difference, dead: int) -> int | None:
        """How many rows were put right; None where ranges will not do, or could not be put right."""
        if not may_mend(repair.clone, difference, dead):
            return None
        try:
            return repair.mend(snapshot.first, difference.spans)
        except EtlError as error:
            logs.error_line(log, "repair_failed", error)
            return None

    def _find(self, snapshot: Snapshot, name: TableName) -> Found | EtlError | None:
        try:
            return snapshot.find(name, f"pipeline {self._pipeline.name}, table {name}")
        except EtlError as error:
            return error

    def _wait(self, clone: Frozen, point: int) -> None:
        """Until every row of the table before `point` is durable."""
        deadline = time.monotonic() + WAIT_SECONDS_MAX
        while True:
            progress = self._store.progress(self._source.stream)
            if (progress is not None and progress.confirmed >= point) or clone.is_whole(point):
                return
            if time.monotonic() >= deadline:
                reason = f"its rows up to {lsn.text(point)} are not all durable after {WAIT_SECONDS_MAX:.0f} s"
                remedy = "see `status`: is the supervisor running, is a table of this source held?"
                raise EtlError(Kind.STREAM, clone.place, reason, remedy)
            time.sleep(LOOK_SECONDS)

    def _masks(self, table: Table) -> Masks:
        state = self._states[table.name]
        return resolve(self._pipeline, table, state.masks, self._settings.masking())

    def _connect(self) -> Any:
        destination = self._pipeline.destination
        return connect(destination, self._settings.keyring().decrypt, self._settings.directory, purpose="verify")

    def _snapshot(self) -> Snapshot:
        source, keyring = self._source, self._settings.keyring()
        progress = self._store.progress(source.stream)
        if progress is None:
            raise EtlError(Kind.STREAM, f"source {source.stream}", "it was never read", "start the supervisor")
        password = keyring.decrypt(source.pg_password) if source.pg_password is not None else None
        primary_url = keyring.decrypt(source.primary_url) if source.primary_url is not None else None
        access = Access(source, password, primary_url, progress.system_identifier)
        return Snapshot(access, names.verify_slot(source.replication_id, os.getpid()), lambda: None)


def _pairs(source: Table, masks: Masks, target: Table) -> tuple[list[Pair], tuple[str, ...]]:
    """The columns that both sides have with the same type, and the names of all others. MovedError when the sides differ in their key."""
    theirs = {column.name: column for column in target.columns}
    pairs, alone = [], set(theirs)
    for column in source.columns:
        for shown in masks.shown(Table(source.name, source.oid, (column,))).columns:
            other = theirs.get(shown.name)
            if other is None or other.type != shown.type:
                alone.add(shown.name)
                continue
            alone.discard(shown.name)
            pairs.append(Pair(column, other))
            if other.key != shown.key:
                raise MovedError
    if any(column.key and column.name in alone for column in target.columns):
        raise MovedError
    return pairs, tuple(sorted(alone))


def _verdict(name: TableName, point: int, found: Difference, alone: tuple[str, ...], dead: int) -> Verdict:
    return Verdict(
        name,
        point,
        found.source_rows,
        found.target_rows,
        missing=found.missing.count,
        extra=found.extra.count,
        different=found.different.count,
        missing_keys=_keys(found.missing),
        extra_keys=_keys(found.extra),
        different_keys=_keys(found.different),
        whole=found.whole,
        not_compared=alone,
        dead=dead,
    )


def _keys(odd: Odd) -> Keys:
    return tuple(tuple(taken_apart(text)) for text in odd.keys)
