"""How a destination names what it keeps: which case names have there, and where the tables of other schemas go.

    case       upper    `orders.id` is ORDERS.ID, as unquoted SQL finds it
               keep     as PostgreSQL has it; SQL has to quote it
    mapping    prefix   every table in the destination's schema; `sales.orders` is SALES__ORDERS
               schema   `sales.orders` is ORDERS in a schema SALES of its own; tables of `public` are in the destination's schema

The change log of a table is called the same under both mappings: they all share the landing schema. Names of our own (`LANDING_`, `_ETL_`,
`_HISTORY`, …), and those that the destination is configured with, are upper case in any case.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from etl_supervisor.model import names
from etl_supervisor.model.table import Table, TableName

PUBLIC = "public"


class IdentifierCase(StrEnum):
    """The case of tables, columns and mapped schemas."""

    UPPER = "upper"
    KEEP = "keep"


class SchemaMapping(StrEnum):
    """What becomes of a schema of the source."""

    PREFIX = "prefix"
    SCHEMA = "schema"


@dataclass(frozen=True, slots=True)
class Naming:
    """The rule of one destination."""

    case: IdentifierCase = IdentifierCase.UPPER
    mapping: SchemaMapping = SchemaMapping.PREFIX

    def target_table(self, table: TableName) -> str:
        """The current table, in its schema."""
        return self._cased(table.name) if self.mapping is SchemaMapping.SCHEMA else self._alone(table)

    def target_schema(self, table: TableName, configured: str) -> str:
        """The schema of the current table; `configured` is the destination's."""
        if self.mapping is SchemaMapping.PREFIX or table.schema == PUBLIC:
            return configured.upper()
        return self._cased(table.schema)

    def landing_table(self, table: TableName) -> str:
        """The change log, in the landing schema."""
        return names.LANDING_PREFIX + self._alone(table)

    def shown(self, table: Table) -> Table:
        """A shape whose columns know their names here."""
        keeps = self.case is IdentifierCase.KEEP
        return replace(table, columns=tuple(replace(column, keeps_case=keeps) for column in table.columns))

    def _alone(self, table: TableName) -> str:
        """A name that no table of another schema has."""
        return self._cased(table.name if table.schema == PUBLIC else f"{table.schema}__{table.name}")

    def _cased(self, name: str) -> str:
        return name if self.case is IdentifierCase.KEEP else name.upper()
