"""Brings the tables of a desk to the shape of its rows, in a session of the pool.

A stream tells every shape again after a restart. Tables that have it already need one statement, which notes that.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from etl_supervisor.ipc.messages import OpenTable
from workers.snowflake import ddl
from workers.snowflake.ddl import Ensured
from workers.snowflake.limits import Limits, limits_of
from workers.snowflake.loading import Tools
from workers.snowflake.owner import shape_text
from workers.snowflake.tagging import tag_of


@dataclass(frozen=True, slots=True)
class Prepared:
    """What an open found or made, and what its landing table can hold."""

    ensured: Ensured
    limits: Limits

    def of(self, opening: OpenTable) -> Prepared | None:
        """The same for this opening, if it asks for the shape that the tables have."""
        if shape_text(opening.table) != shape_text(self.ensured.table):
            return None
        return replace(self, ensured=replace(self.ensured, table=opening.table))


def prepare(opening: OpenTable, tools: Tools, known: Prepared | None = None) -> Prepared:
    """Create or alter what is needed, unless it is `known` and still so. EtlError(SCHEMA, DESTINATION_SETUP, …) when it can't be."""

    def job(connection: Any) -> Prepared:
        if known is not None and ddl.confirm(connection, opening):
            return known
        ensured = ddl.ensure(connection, opening, tools.inventory)
        return Prepared(ensured, limits_of(ensured.columns))

    return tools.sessions.run(opening.destination, tag_of(opening, "open"), job)
