"""Every statement says what it is for: QUERY_TAG is a JSON object, so that QUERY_HISTORY can be summed by pipeline, table and step.

    SELECT TRY_PARSE_JSON(QUERY_TAG):pipeline::VARCHAR, SUM(TOTAL_ELAPSED_TIME) FROM SNOWFLAKE.ACCOUNT_USAGE.QUERY_HISTORY
    WHERE TRY_PARSE_JSON(QUERY_TAG):app = 'etl-stream' GROUP BY 1

The tag travels with the statement: it costs no request of its own, and a session can be lent to any pipeline.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import orjson
from snowflake.connector import SnowflakeConnection
from snowflake.connector.cursor import SnowflakeCursor

from etl_supervisor.ipc.messages import OpenTable

APP = "etl-stream"


@dataclass(frozen=True, slots=True)
class Tag:
    """Of which pipeline a statement is, of which table in the source ("": of several), and of which step."""

    pipeline: str
    table: str
    step: str

    @property
    def text(self) -> str:
        """For QUERY_TAG."""
        return orjson.dumps({"app": APP} | {name: value for name, value in asdict(self).items() if value}).decode()


def tag_of(opening: OpenTable, step: str) -> Tag:
    """The tag of a step of a table."""
    return Tag(opening.pipeline, str(opening.table.name), step)


class TaggedCursor(SnowflakeCursor):
    """A cursor whose statements carry the tag of their connection."""

    def execute(self, *command: Any, **options: Any) -> Any:
        """As SnowflakeCursor does."""
        tag = getattr(self.connection, "tag", None)
        if tag is not None:
            options["_statement_params"] = {"QUERY_TAG": tag.text}
        return super().execute(*command, **options)


class TaggedConnection(SnowflakeConnection):
    """A connection that tags what it is asked. `tag` is set by whoever has it in use; the session's own tag counts without one."""

    tag: Tag | None = None

    def cursor(self, cursor_class: type[Any] = TaggedCursor) -> Any:
        """As SnowflakeConnection does."""
        return super().cursor(cursor_class)
