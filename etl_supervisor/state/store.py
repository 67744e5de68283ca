"""The promise of a state store, and the form of its values.

A method that returns has made its change durable as far as the server lets it. A crash before it leaves the old value, a crash after it the
new one; no value is ever half written. Readers are ordered by epochs: each takes the next one, and a write of an older epoch is refused, so a reader
that was thought dead can't move anything.

Losing the store loses no row: a reader that runs writes everything again, one that starts asks Snowflake (`workers/reader/recall.py`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from typing import Any, NamedTuple, Protocol

import orjson

from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.model.copy_state import CopiedRange, CopyState
from etl_supervisor.model.progress import Progress, SourceReport, Visible
from etl_supervisor.model.table import TableName
from etl_supervisor.model.table_state import Phase, TableState
from etl_supervisor.model.verified import Verified

FORMAT = 1

Observe = Callable[[str, float, bool], None]  # operation, seconds, whether it went well


def unobserved(_operation: str, _seconds: float, _good: bool) -> None:
    """Nobody wants to know."""


class Writer(NamedTuple):
    """Who writes: the reader of a stream, or a copy worker for it, with its epoch."""

    stream: str
    epoch: int


class StateStore(Protocol):
    """Keeps the state of sources. Errors of the server are EtlError(STATE_STORE), transient."""

    def progress(self, source: str) -> Progress | None:
        """Where a source stands; None when nothing is known of it."""

    def save_progress(self, source: str, progress: Progress, epoch: int) -> None:
        """Write it. A writer with an epoch older than the newest is refused."""

    def next_epoch(self, source: str) -> int:
        """More than any epoch given before, also by a store that was lost since: epochs are not below the Unix second in which they are given."""

    def restore_epoch(self, source: str, epoch: int) -> None:
        """Give a store that was emptied the epoch back that its reader has; nothing happens where there is one."""

    def epoch(self, source: str) -> int:
        """The newest epoch; 0 when none was given, or the store was emptied since."""

    def tables(self, source: str, pipeline: str) -> dict[TableName, TableState]:
        """The states of all tables of a pipeline."""

    def save_table(self, source: str, pipeline: str, state: TableState, writer: Writer | None = None) -> None:
        """Write one table's state. A `writer` with an epoch older than the newest is refused."""

    def save_tables(
        self, source: str, pipeline: str, states: Collection[TableState], writer: Writer | None = None
    ) -> None:
        """Write the states of several tables, each at most once, in about the time of one; all or none of them."""

    def drop_table(self, source: str, pipeline: str, table: TableName) -> None:
        """Forget one table, how far its copy was, and that it was verified."""

    def copies(self, source: str, pipeline: str) -> dict[TableName, CopyState]:
        """How far the copies of all tables of a pipeline are, or were at their end."""

    def copy(self, source: str, pipeline: str, table: TableName) -> CopyState | None:
        """The same of one table; None when no copy of it has written anything."""

    def save_copy(self, source: str, pipeline: str, state: CopyState, writer: Writer | None = None) -> None:
        """Write how far one copy is; `writer` as above."""

    def save_copies(
        self, source: str, pipeline: str, states: Collection[CopyState], writer: Writer | None = None
    ) -> None:
        """The same of several tables, each at most once."""

    def ask_resync(self, source: str, pipeline: str, table: TableName | None) -> None:
        """Ask for a table to be copied again, or (None) for every table of the pipeline. Asked for twice it is one request."""

    def resyncs(self, source: str, pipeline: str) -> list[TableName | None]:
        """What was asked for, in no order."""

    def end_resync(self, source: str, pipeline: str, table: TableName | None) -> None:
        """The request has been carried out, or can't be."""

    def save_verified(self, source: str, pipeline: str, found: Verified) -> None:
        """Note up to where a target was seen to be equal to its source."""

    def verified(self, source: str, pipeline: str) -> dict[TableName, Verified]:
        """The newest of each table."""

    def save_report(self, source: str, report: SourceReport) -> None:
        """Write what `status` shows; may be lost."""

    def report(self, source: str) -> SourceReport | None:
        """What `status` shows."""

    def risk(self) -> str:
        """What a crash of the server may lose of what was written; empty when nothing."""

    def forget(self, source: str) -> None:
        """Everything of a source but its epoch."""

    def close(self) -> None:
        """Give up the connection."""


def stale(source: str, epoch: int) -> EtlError:
    """A newer reader has taken the source over."""
    reason = f"epoch {epoch} is not the newest: another reader has taken the source over"
    return EtlError(Kind.STATE_STORE, f"source {source}", reason, "this one ends; nothing is to be done")


def dump(value: Progress | SourceReport | TableState | CopyState | Verified) -> bytes:
    """A value as JSON with the number of its form."""
    plain = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return orjson.dumps({"format": FORMAT, **plain})


def load_progress(data: bytes | str) -> Progress:
    """What `dump` wrote."""
    return Progress(**_plain(data))


def load_report(data: bytes | str) -> SourceReport:
    """What `dump` wrote."""
    plain = _plain(data)
    plain["together"] = tuple(Visible(**item) for item in plain.get("together", ()))
    return SourceReport(**plain)


def load_table(data: bytes | str) -> TableState:
    """What `dump` wrote."""
    plain = _plain(data)
    plain["table"] = TableName(**plain["table"])
    plain["phase"], plain["resume"] = Phase(plain["phase"]), Phase(plain["resume"])
    return TableState(**plain)


def load_copy(data: bytes | str) -> CopyState:
    """What `dump` wrote."""
    plain = _plain(data)
    plain["table"] = TableName(**plain["table"])
    plain["ranges"] = tuple(CopiedRange(**item) for item in plain["ranges"])
    return CopyState(**plain)


def load_verified(data: bytes | str) -> Verified:
    """What `dump` wrote."""
    plain = _plain(data)
    plain["table"] = TableName(**plain["table"])
    return Verified(**plain)


def _plain(data: bytes | str) -> dict[str, Any]:
    plain: dict[str, Any] = orjson.loads(data)
    form = plain.pop("format", None)
    if form != FORMAT:
        remedy = "use the version of this program that wrote it, or a newer one"
        raise EtlError(Kind.STATE_STORE, "state", f"a value has form {form}, this program writes {FORMAT}", remedy)
    return plain
