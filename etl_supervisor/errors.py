"""What can go wrong, in words an operator can act on.

Every failure that a person may have to read is an `EtlError`: a kind (one of `Kind`), a place (the object it concerns),
a reason and a remedy. Its text is one line. It never holds a secret or the value of a cell.

`policy.py` maps each kind to what the system does about it; `exits.py` maps it to a process's exit code.
"""

from __future__ import annotations

from enum import StrEnum


class Kind(StrEnum):
    """The kinds of failure. Their meaning and remedies are listed in docs/errors.md (checked by a test)."""

    CONFIG = "config"  # a setting, a row of the config database or a file is wrong
    CONFIG_DATABASE = "config_database"  # the config database can't be reached or read
    SOURCE_UNREACHABLE = "source_unreachable"  # PostgreSQL does not answer
    SOURCE_AUTH = "source_auth"  # PostgreSQL refuses the user or password
    SOURCE_SETUP = "source_setup"  # wal_level, publication, privileges, slots
    SLOT_LOST = "slot_lost"  # the slot is gone, invalidated or ahead of our recorded position
    STREAM = "stream"  # the replication stream broke off
    SPOOL = "spool"  # no room for the transactions in progress that PostgreSQL streams
    WALSENDER = (
        "walsender"  # the walsender itself fails while it decodes one place of the WAL, each time it comes there
    )
    PROTOCOL = "protocol"  # bytes that the protocol does not allow
    STATE_STORE = "state_store"  # Redis or the PostgreSQL state store does not answer
    DESTINATION_UNREACHABLE = "destination_unreachable"  # Snowflake does not answer
    DESTINATION_AUTH = "destination_auth"  # Snowflake refuses the key, user or role
    DESTINATION_SETUP = "destination_setup"  # database, schema, privileges, a name that two tables claim
    SCHEMA = "schema"  # a table's shape can't be followed
    ROWS_REJECTED = "rows_rejected"  # rows that Snowflake does not take: they are in the dead letter
    CHANNEL = "channel"  # a streaming channel became invalid
    APPLY = "apply"  # the apply block failed
    COPY = "copy"  # a first copy failed
    EMBEDDED = "embedded"  # an embedded part (PostgreSQL, Valkey, local Snowflake) could not start
    INTERNAL = "internal"  # an invariant of our own did not hold


class EtlError(Exception):
    """One failure: kind, place, reason and remedy.

    `transient` says whether trying again without a person can help.
    """

    def __init__(self, kind: Kind, place: str, reason: str, remedy: str = "", *, transient: bool = False) -> None:
        self.kind = kind
        self.place = place
        self.reason = " ".join(reason.split())
        self.remedy = " ".join(remedy.split())
        self.transient = transient
        super().__init__(self.line)

    @property
    def line(self) -> str:
        """The one line an operator reads: `kind at place: reason (remedy)`."""
        text = f"{self.kind} at {self.place}: {self.reason}"
        return f"{text} ({self.remedy})" if self.remedy else text
