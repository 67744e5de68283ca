"""How much WAL a source keeps for our slots: the shared one and those of parked pipelines. One connection, one statement, a time limit for both.

A server that accepts and then says nothing is not waited for: at the limit the socket is shut, and the statement fails.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import psycopg

from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.model import lsn, names
from etl_supervisor.model.pipeline import Source
from etl_supervisor.model.wal import SlotMeasure
from workers.reader.slot import facts_of
from workers.reader.stream import broken_off, connect

CONNECT_SECONDS_MIN = 2.0  # libpq takes less for this
_SELECT = """
SELECT to_jsonb(s), w.here::text, coalesce(pg_wal_lsn_diff(w.here, s.restart_lsn), 0)::bigint
FROM pg_replication_slots s, (SELECT CASE WHEN pg_is_in_recovery()
    THEN coalesce(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) ELSE pg_current_wal_lsn() END AS here) w
WHERE slot_type = 'logical' AND confirmed_flush_lsn IS NOT NULL
ORDER BY slot_name
"""


def measure(source: Source, password: str | None, seconds_max: float) -> list[SlotMeasure]:
    """Our slots on the source; none when there are none. EtlError when it can't be told in time."""
    deadline = time.monotonic() + seconds_max
    limit = str(round(max(CONNECT_SECONDS_MIN, seconds_max)))
    with contextlib.closing(connect(source, password, connect_timeout=limit)) as connection:
        try:
            with _until(connection, deadline):
                rows = connection.execute(_SELECT).fetchall()
        except psycopg.Error as error:
            if time.monotonic() >= deadline:
                reason = f"the WAL could not be measured within {seconds_max:.0f} s"
                remedy = "see what the server is waiting for, or raise WAL_MONITOR_TIMEOUT_SECONDS"
                place = f"source {source.name}"
                raise EtlError(Kind.SOURCE_UNREACHABLE, place, reason, remedy, transient=True) from None
            raise broken_off(error, source) from None
    return [_measured(*row) for row in rows if names.shared_slot(row[0]["slot_name"]) == source.slot]


def _measured(row: dict[str, Any], here: str, retained_bytes: int) -> SlotMeasure:
    facts = facts_of(row)
    return SlotMeasure(
        slot=row["slot_name"],
        current=lsn.parse(here),
        confirmed=facts.confirmed,
        retained_bytes=max(0, retained_bytes),
        wal_status=facts.wal_status,
        safe_wal_bytes=facts.safe_wal_bytes,
        lost=facts.lost,
    )


@contextlib.contextmanager
def _until(connection: psycopg.Connection[Any], deadline: float) -> Iterator[None]:
    """Shut the connection's socket at the deadline."""
    ours = socket.socket(fileno=os.dup(connection.fileno()))
    timer = threading.Timer(max(0.0, deadline - time.monotonic()), _shut, [ours])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        ours.close()


def _shut(ours: socket.socket) -> None:
    with contextlib.suppress(OSError):
        ours.shutdown(socket.SHUT_RDWR)
