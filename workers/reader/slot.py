"""What PostgreSQL says of a slot, and what that means for us (pure, but for one query).

`pg_replication_slots` has more columns in each version; the row is read as JSON, so that what an older server does not know is simply not there:

    14  wal_status, safe_wal_size        16  conflicting        17  invalidation_reason, inactive_since, failover, synced

A slot is lost when the server says so (an invalidated slot never becomes valid again); the words name the cause and its cure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg

from etl_supervisor.model import lsn

REASONS = {  # invalidation_reason -> what happened, and what keeps it from happening again
    "wal_removed": "the WAL it needs was removed (raise max_slot_wal_keep_size)",
    "rows_removed": "catalog rows it needs were vacuumed away on the primary (set hot_standby_feedback = on on the standby)",
    "wal_level_insufficient": "wal_level of the primary was below logical",
    "idle_timeout": "nobody read it for idle_replication_slot_timeout",
}
CONFLICT = (
    "it conflicted with replay on the standby: catalog rows were vacuumed away, or the primary's wal_level was lowered"
)


@dataclass(frozen=True, slots=True)
class SlotFacts:
    """A slot. `wal_status` is reserved, extended, unreserved or lost; `safe_wal_bytes` is how much may be written until it is
    lost (None: no limit is set); `inactive_since` is a text, empty while it is read or unknown."""

    confirmed: int
    wal_status: str = "reserved"
    safe_wal_bytes: int | None = None
    lost: str | None = None
    inactive_since: str = ""
    failover: bool = False
    synced: bool = False

    @property
    def warning(self) -> str | None:
        """What an operator should read before the slot is lost."""
        if self.wal_status != "unreserved":
            return None
        return "the slot needs WAL that the next checkpoint may remove (raise max_slot_wal_keep_size, or find out why it lags)"


def read_slot(connection: psycopg.Connection[Any], name: str) -> SlotFacts | None:
    """The slot of this name; None when there is none."""
    row = connection.execute(
        "SELECT to_jsonb(s) FROM pg_replication_slots s WHERE slot_name = %s AND slot_type = 'logical'", [name]
    ).fetchone()
    return None if row is None else facts_of(row[0])


def facts_of(row: dict[str, Any]) -> SlotFacts:
    """A row of pg_replication_slots, of any version."""
    confirmed = row["confirmed_flush_lsn"]
    return SlotFacts(
        confirmed=lsn.parse(confirmed) if confirmed else 0,
        wal_status=row["wal_status"] or "reserved",
        safe_wal_bytes=row["safe_wal_size"],
        lost=_lost(row),
        inactive_since=row.get("inactive_since") or "",
        failover=bool(row.get("failover")),
        synced=bool(row.get("synced")),
    )


def _lost(row: dict[str, Any]) -> str | None:
    reason = row.get("invalidation_reason")
    if reason:
        return REASONS.get(reason, str(reason))
    if row.get("conflicting"):
        return CONFLICT
    if row["wal_status"] == "lost":
        return REASONS["wal_removed"]
    return None if row["confirmed_flush_lsn"] else "its creation was never finished"
