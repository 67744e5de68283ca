"""Which tables a pipeline takes, and what becomes of single columns before they leave the source's reader.

Tables are chosen by shell-like patterns of `schema.table` (`*`, `?`, `[…]`; case counts). A column is

    exclude     not there at all
    hash        HMAC-SHA-256 of PostgreSQL's text of the value under MASKING_SECRET, 64 hexadecimal digits, as text; NULL stays NULL
    constant    the same text in every row
    null        NULL in every row; the column keeps its type
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase

from etl_supervisor.model.table import TableName


class MaskKind(StrEnum):
    """What becomes of a column; see above."""

    EXCLUDE = "exclude"
    HASH = "hash"
    CONSTANT = "constant"
    NULL = "null"


@dataclass(frozen=True, slots=True)
class ColumnMask:
    """One column of one table, by their names in the source; `constant` is the text of a CONSTANT."""

    table: TableName
    column: str
    kind: MaskKind
    constant: str = ""


@dataclass(frozen=True, slots=True)
class Selection:
    """The tables of a pipeline: those that match a pattern of `include` (all, when it is empty) and none of `exclude`."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    masks: tuple[ColumnMask, ...] = field(default=())

    def takes(self, table: TableName) -> bool:
        """True for a table of the pipeline."""
        return (not self.include or _matches(table, self.include)) and not _matches(table, self.exclude)

    def masks_of(self, table: TableName) -> tuple[ColumnMask, ...]:
        """The columns of a table that are not shown as they are."""
        return tuple(mask for mask in self.masks if mask.table == table)


def _matches(table: TableName, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(str(table), pattern) for pattern in patterns)
