"""The heartbeat of a quiet source: a small record in its WAL, by `pg_logical_emit_message`. No table is needed, nothing is published.

A slot holds back WAL until its confirmed position moves. Usually the walsender's keepalives move it: they tell how far it has read, whoever
wrote that. The heartbeat makes sure of it where they do not come by themselves, and shows that decoding is alive: its record has a position
that the walsender must pass. A cluster that is wholly idle gets one record per beat, some hundred bytes with the page around it.

A standby can't write: its heartbeat goes to the primary (`primary_url`), from where the record comes back by replication. The same connection
gives a slot that is being created on a standby what it waits for: `pg_log_standby_snapshot()`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import psycopg
import structlog
from psycopg import conninfo

from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.model.pipeline import Source
from workers.reader.aside import LIMITS, Aside
from workers.reader.stream import APPLICATION_NAME, CONNECT_SECONDS_MAX, connection_trouble

PREFIX = "etl-stream"  # names us in pg_waldump and to other readers of messages
DEFAULT_PORT = 5432

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Access:
    """How to reach a source, and its primary when it is a standby. `system` is the identifier of the cluster that both are of."""

    source: Source
    password: str | None = field(repr=False)
    primary_url: str | None = field(repr=False)
    system: str


class Pulse:
    """When to beat (pure): every `seconds` while no row comes. Times are seconds of the monotonic clock."""

    def __init__(self, seconds: float, now: float) -> None:
        self._seconds = seconds
        self._rows = 0
        self._due = now + seconds

    def beats(self, now: float, rows: int) -> bool:
        """True when a beat is due; `rows` is how many have come in all."""
        if rows != self._rows:
            self._rows, self._due = rows, now + self._seconds
        if self._seconds == 0 or now < self._due:
            return False
        self._due = now + self._seconds
        return True


def emit(connection: psycopg.Connection[Any]) -> None:
    """One beat."""
    connection.execute("SELECT pg_logical_emit_message(false, %s, '')", [PREFIX])


def connect_primary(source: Source, url: str, system: str) -> psycopg.Connection[Any]:
    """The primary of a standby source. EtlError when it can't be reached, or when it is not the primary of this cluster."""
    primary = _named(source, url)
    limits: dict[str, Any] = {"connect_timeout": CONNECT_SECONDS_MAX, "application_name": APPLICATION_NAME, **LIMITS}
    try:
        connection = psycopg.connect(_with_tls(source, url), autocommit=True, **limits)
    except psycopg.Error as error:
        raise connection_trouble(error, primary) from None
    row = connection.execute("SELECT pg_is_in_recovery(), system_identifier::text FROM pg_control_system()").fetchone()
    assert row is not None
    if row[0] or row[1] != system:
        connection.close()
        reason = "it is a standby itself" if row[0] else "it is another database cluster"
        raise EtlError(Kind.SOURCE_SETUP, f"source {primary.name}", reason, "correct primary_url of the source")
    return connection


@contextlib.contextmanager
def nudging(access: Access, beat: Callable[[], None], *, standby: bool) -> Iterator[Callable[[], None]]:
    """What to call while a slot is being created: it beats, and on a standby lets the primary log its running transactions, which
    the creation waits for. Without a primary's URL it waits until the primary does so by itself (it does when it writes)."""
    url = access.primary_url
    if not standby or url is None:
        yield beat
        return

    def log_snapshot(connection: psycopg.Connection[Any]) -> None:
        connection.execute("SELECT pg_log_standby_snapshot()")

    aside = Aside("standby-snapshot", lambda: connect_primary(access.source, url, access.system), log_snapshot)

    def tick() -> None:
        beat()
        aside.ask()

    try:
        yield tick
    finally:
        if aside.trouble:
            log.warning("primary_not_reached", source=access.source.name, reason=aside.trouble)
        aside.close()


def _with_tls(source: Source, url: str) -> str:
    """The URL, with the source's TLS where it says nothing of it."""
    named = conninfo.conninfo_to_dict(url)
    return conninfo.make_conninfo(url, **{key: value for key, value in source.tls.items() if key not in named})


def _named(source: Source, url: str) -> Source:
    """The primary as a source, for what errors say of it."""
    try:
        parts = conninfo.conninfo_to_dict(url)
    except psycopg.Error:
        remedy = "write it as postgresql://user:password@host:port/database"
        raise EtlError(Kind.SOURCE_SETUP, f"source {source.name}", "primary_url can't be read", remedy) from None
    port = str(parts.get("port") or DEFAULT_PORT).split(",")[0]
    return replace(
        source,
        name=f"{source.name}, primary",
        pg_host=str(parts.get("host") or "localhost"),
        pg_port=int(port),
        pg_username=str(parts.get("user") or source.pg_username),
        pg_database=str(parts.get("dbname") or source.pg_database),
        pg_tls_mode=str(parts.get("sslmode") or source.pg_tls_mode),
        pg_tls_ca=str(parts["sslrootcert"]) if parts.get("sslrootcert") else source.pg_tls_ca,
    )
