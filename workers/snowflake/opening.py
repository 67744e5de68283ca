"""Opens the channel of a table by the load path of its pipeline, and takes over what another path has left.

A change of `load_path` needs no copy: the new path begins where the old one has come to.

    streaming ─► files    the streaming channel is opened (which fences its owner and ends what was not committed) and dropped; its token begins
                          the ledger
    files ─► streaming    files under way are loaded by their own path first, in this life of the channel; with none, the ledger's token is set in
                          the streaming channel, and the ledger's row is deleted
"""

from __future__ import annotations

import itertools
from typing import Any

from snowflake.connector.errors import Error

from etl_supervisor.errors import Kind
from etl_supervisor.ipc.messages import OpenTable
from etl_supervisor.model import names
from etl_supervisor.model.pipeline import LoadPath
from workers.snowflake.connection import classify
from workers.snowflake.files import FileChannel
from workers.snowflake.identifiers import objects_of
from workers.snowflake.ledger import Books, Ledger
from workers.snowflake.loading import LoadChannel, Tools
from workers.snowflake.streaming import StreamingChannel
from workers.snowflake.tagging import tag_of

_clients = itertools.count(1)


def open_channel(opening: OpenTable, tools: Tools) -> LoadChannel:
    """The channel; opening fences every older owner of its name."""
    books = _in_session(opening, tools, lambda cursor: Ledger(opening).read(cursor))
    if opening.load.path is not LoadPath.STREAMING:
        return FileChannel(opening, tools, _leave_streaming(opening, tools) if books is None else "")
    if books is None:
        return _streaming(opening, tools)
    if books.files:
        return FileChannel(opening, tools)
    return _leave_files(opening, tools, books)


def _leave_streaming(opening: OpenTable, tools: Tools) -> str:
    """Where the stream has come to by streaming; "" when nothing of it is landed in this generation."""
    if names.is_copy(opening.channel) or not _in_session(opening, tools, lambda cursor: _is_landed(cursor, opening)):
        return ""
    old = _streaming(opening, tools)
    old.close(flush=False, drop=True)
    return old.opened.committed or ""


def _leave_files(opening: OpenTable, tools: Tools, books: Books) -> LoadChannel:
    owned = _in_session(opening, tools, lambda cursor: Ledger(opening).claim(cursor, books.path, ""))
    if owned.files:
        return FileChannel(opening, tools)
    channel = _streaming(opening, tools, owned.committed or None)
    _in_session(opening, tools, lambda cursor: Ledger(opening).forget(cursor))
    return channel


def _is_landed(cursor: Any, opening: OpenTable) -> bool:
    landing = objects_of(opening.destination, opening.table).landing_sql
    where = f"_ETL_GENERATION = {opening.generation} AND _ETL_OP <> 'R'"
    return cursor.execute(f"SELECT 1 FROM {landing} WHERE {where} LIMIT 1").fetchone() is not None


def _streaming(opening: OpenTable, tools: Tools, committed: str | None = None) -> StreamingChannel:
    # A client's name must be its own: the SDK mixes up two of one name, also when the older is being closed.
    client = f"{opening.channel}-{tools.incarnation}-{next(_clients)}"
    objects = objects_of(opening.destination, opening.table)
    return StreamingChannel(
        opening.destination, objects, opening.channel, client, tools.decrypt, tools.directory, committed
    )


def _in_session(opening: OpenTable, tools: Tools, job: Any) -> Any:
    place = f"pipeline {opening.pipeline}, table {opening.table.name}"

    def worded(connection: Any) -> Any:
        try:
            with connection.cursor() as cursor:
                return job(cursor)
        except Error as error:
            raise classify(error, place, Kind.DESTINATION_SETUP) from None

    return tools.sessions.run(opening.destination, tag_of(opening, "open"), worded)
