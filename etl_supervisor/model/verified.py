"""What a verification finds of one table, and what is kept of it."""

from __future__ import annotations

from dataclasses import dataclass

from etl_supervisor.model.table import TableName

Keys = tuple[tuple[str | None, ...], ...]


@dataclass(frozen=True, slots=True)
class Verified:
    """The target was equal to the source at `lsn`; found out at `at` (Unix seconds), over so many rows."""

    table: TableName
    lsn: int
    at: float
    rows: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """One table at `lsn`: rows that only the source has (missing), only the target has (extra), both have with other values (different).

    Keys are values of the source: for the person who asked, never for a log. Some of them are here, the counts are of all; `whole` is False when the
    counts are lower limits. `not_compared` names columns that only one side has. `dead` is how many rows of the table are in the dead letter.
    `trouble` says why nothing was compared (then `lsn` is 0). `repaired`: so many rows of the ranges that differ were copied again
    since, and another verdict follows.
    """

    table: TableName
    lsn: int = 0
    source_rows: int = 0
    target_rows: int = 0
    missing: int = 0
    extra: int = 0
    different: int = 0
    missing_keys: Keys = ()
    extra_keys: Keys = ()
    different_keys: Keys = ()
    whole: bool = True
    not_compared: tuple[str, ...] = ()
    dead: int = 0
    trouble: str = ""
    repaired: int | None = None

    @property
    def differs(self) -> bool:
        """True when a row is not as it should be."""
        return not self.whole or bool(self.missing or self.extra or self.different)

    @property
    def equal(self) -> bool:
        """True when everything was compared and nothing differs."""
        return not (self.differs or self.trouble or self.not_compared)
