"""A table's name and shape, as the reader tells it to the actors."""

from __future__ import annotations

from dataclasses import dataclass, field

from etl_supervisor.model.types import ValueType


@dataclass(frozen=True, slots=True, order=True)
class TableName:
    """A table's schema and name in the source, exactly as PostgreSQL has them."""

    schema: str
    name: str

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table's shape.

    `key` says that it identifies a row (primary key, or the replica identity index). `toastable` says that an update may leave it
    out (its storage can be out of line). `default` is the text of `attmissingval`: what rows older than the column hold.
    `attnum` is the column's number in PostgreSQL, which a rename does not change and which is never used again; 0 when it is not proved.
    `computed` says that rows older than the column may hold values that the catalog does not tell (a volatile default, an identity).
    `keeps_case` and `comment` are no part of the shape: how the destination names the column (see `model.naming`), and what PostgreSQL's COMMENT
    says of it.
    """

    name: str
    type: ValueType
    key: bool = False
    nullable: bool = True
    toastable: bool = False
    default: str | None = None
    attnum: int = 0
    computed: bool = False
    keeps_case: bool = field(default=False, compare=False)
    comment: str = field(default="", compare=False)

    @property
    def landed(self) -> str:
        """Its name at the destination."""
        return self.name if self.keeps_case else self.name.upper()


@dataclass(frozen=True, slots=True)
class Table:
    """A table's shape at one moment of its stream. `version` rises within a reader's life with every change of shape. `comment` is PostgreSQL's,
    and no part of the shape."""

    name: TableName
    oid: int
    columns: tuple[Column, ...]
    version: int = 0
    comment: str = field(default="", compare=False)

    @property
    def key(self) -> tuple[Column, ...]:
        """The columns that identify a row; empty for a table without a key."""
        return tuple(column for column in self.columns if column.key)

    def landed(self, field_name: str) -> str:
        """The destination's name of a field of a batch: a column, maybe of an older shape, or one of the system's own (`_etl_…`)."""
        own = field_name.startswith("_etl_")
        keeps = any(column.keeps_case for column in self.columns)
        return field_name if keeps and not own else field_name.upper()
