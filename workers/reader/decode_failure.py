"""Errors of the walsender itself, while it decodes (pure).

The server reads its WAL, builds each transaction and hands it to pgoutput. What fails there fails again each time the stream comes to that
place: the slot never gets past it, and the row can't be named, because it was never seen. Known cases:

    a publication that was dropped and made again   changes from before are decoded with the catalog of then, in which it does not exist
                                                    (until PostgreSQL 17; newer ones leave those changes out)
    a value whose text is longer than 1 GiB         "invalid memory alloc request size": bytea of more than 512 MiB; its binary form passes

It is a kind of its own: the source is held, tried again at the breaker's pace, and says where and what can be done. An ERROR is such a
failure unless its class says that it may pass (a cancelled statement, a full disk); a FATAL one ended the connection, for reasons of its own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.model import lsn
from workers.reader.copyboth import ServerError

# Classes of SQLSTATE that say nothing of the place in the WAL: connection, rollback, resources, state of an object, operator, system.
PASSING_CLASSES = frozenset({"08", "40", "53", "55", "57", "58"})
RESYNC = "forget the source's state and its slot, so that its tables are copied again"
_PLACE_IN_CONTEXT = re.compile(r"associated LSN ([0-9A-F]+/[0-9A-F]+)")


@dataclass(frozen=True, slots=True)
class Failure:
    """An error as the server told it. `at` is the place in the WAL, when it was told too."""

    severity: str
    sqlstate: str
    text: str
    at: int | None

    @property
    def of_decoding(self) -> bool:
        """True when the stream will fail again at the same place."""
        return self.severity == "ERROR" and self.sqlstate[:2] not in PASSING_CLASSES

    def error(self, place: str, wal_end: int) -> EtlError:
        """The line for it; `wal_end` is the newest position that the walsender has told before."""
        where = f"at {lsn.text(self.at)}" if self.at is not None else f"after {lsn.text(wal_end)}"
        return EtlError(Kind.WALSENDER, place, f"PostgreSQL can't decode its WAL {where}: {self.text}", self._remedy())

    def _remedy(self) -> str:
        if "publication" in self.text:
            return f"the publication was made after that change; to move past it, {RESYNC}"
        if "invalid memory alloc" in self.text or "string buffer" in self.text:
            return f"a value is too large for its text form: set transfer = 'binary' of the source; to move past it, {RESYNC}"
        return f"see the server's log; to move past it, {RESYNC}"


def failure_of(error: ServerError) -> Failure:
    """What an error of the stream says."""
    place = _PLACE_IN_CONTEXT.search(error.context)
    return Failure(error.severity, error.sqlstate, error.text, lsn.parse(place[1]) if place else None)
