"""Opens the channel of a table by the load path of its pipeline, and takes over what another path has left.

A change of `load_path` needs no copy: the new path begins where the old one has come to. A table with several channels streams as long as its
generation lasts.

    streaming ─► files    the streaming channel is opened (which fences its owner and ends what was not committed) and dropped; its token begins
                          the ledger
    files ─► streaming    files under way are loaded by their own path first, in this life of the channel; with none, the ledger's token is set in
                          the streaming channel, and the ledger's row is deleted

Snowflake forgets a channel that was idle for 30 days, and its token with it. Where the slot was held back as long (by another table that is stopped),
rows that were landed come again then. What a channel without a token had committed is found again: the newest row of the change log, or the
watermark, below which everything was durable.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

from snowflake.connector.errors import Error

from etl_supervisor.errors import Kind
from etl_supervisor.ipc.messages import OpenTable
from etl_supervisor.model import names
from etl_supervisor.model.pipeline import LoadPath
from etl_supervisor.model.position import Position
from workers.snowflake.connection import classify
from workers.snowflake.files import FileChannel
from workers.snowflake.identifiers import literal, objects_of
from workers.snowflake.ledger import Books, Ledger
from workers.snowflake.loading import LoadChannel, Tools
from workers.snowflake.shards import ShardedChannel
from workers.snowflake.streaming import StreamingChannel, StreamingClient
from workers.snowflake.tagging import tag_of

_clients = itertools.count(1)


def open_channel(opening: OpenTable, tools: Tools) -> LoadChannel:
    """The channel; opening fences every older owner of its name."""
    if opening.channels > 1:
        return _sharded(opening, tools)
    books = _in_session(opening, tools, lambda cursor: Ledger(opening).read(cursor))
    if opening.load.path is not LoadPath.STREAMING:
        return FileChannel(opening, tools, _leave_streaming(opening, tools) if books is None else "", books)
    if books is None:
        return _remembering(opening, tools)
    if books.files:
        return FileChannel(opening, tools, known=books)
    return _leave_files(opening, tools, books)


def _leave_streaming(opening: OpenTable, tools: Tools) -> str:
    """Where the stream has come to by streaming; "" when nothing of it is landed in this generation."""
    if names.is_copy(opening.channel) or not _in_session(opening, tools, lambda cursor: _is_landed(cursor, opening)):
        return ""
    old = _streaming(opening, tools)
    old.close(flush=False, drop=True)
    return old.opened.committed or ""


def _leave_files(opening: OpenTable, tools: Tools, books: Books) -> LoadChannel:
    owned = _in_session(opening, tools, lambda cursor: Ledger(opening).claim(cursor, books.path, "", books))
    if owned.files:
        return FileChannel(opening, tools, known=owned)
    channel = _streaming(opening, tools, owned.committed or None)
    _in_session(opening, tools, lambda cursor: Ledger(opening).forget(cursor))
    return channel


def _is_landed(cursor: Any, opening: OpenTable) -> bool:
    landing = objects_of(opening.destination, opening.table).landing_sql
    where = f"_ETL_GENERATION = {opening.generation} AND _ETL_OP <> 'R'"
    return cursor.execute(f"SELECT 1 FROM {landing} WHERE {where} LIMIT 1").fetchone() is not None


def landed_up_to(cursor: Any, opening: OpenTable) -> tuple[str, str]:
    """Tokens of this generation: of the newest row of the stream that is landed, purged rows included, and one below which every row was landed
    because it is applied. "" where there is none."""
    objects = objects_of(opening.destination, opening.table)
    ours = f"_ETL_GENERATION = {opening.generation} AND _ETL_OP <> 'R'"
    newest = cursor.execute(
        f"SELECT _ETL_COMMIT_LSN, _ETL_LSN, _ETL_INDEX FROM {objects.landing_sql} WHERE {ours}"
        " ORDER BY _ETL_COMMIT_LSN DESC, _ETL_LSN DESC, _ETL_INDEX DESC LIMIT 1"
    ).fetchone()
    found = cursor.execute(
        f"SELECT APPLIED FROM {objects.watermark_sql} WHERE LANDING_TABLE = {literal(objects.landing)}"
        f" AND GENERATION = {opening.generation} AND APPLIED > 0"
    ).fetchone()
    landed = Position(opening.generation, *map(int, newest)).token if newest else ""
    applied = Position(opening.generation, int(found[0]), 0, 0).token if found else ""
    return max(landed, applied), applied


def _remembering(opening: OpenTable, tools: Tools) -> StreamingChannel:
    """The streaming channel, also where Snowflake has forgotten it."""
    channel = _streaming(opening, tools)
    if channel.opened.committed is None and not names.is_copy(opening.channel):
        try:
            landed, _ = _in_session(opening, tools, lambda cursor: landed_up_to(cursor, opening))
        except BaseException:
            channel.close(flush=False)
            raise
        channel.opened = replace(channel.opened, committed=landed or None)
    return channel


def _sharded(opening: OpenTable, tools: Tools) -> ShardedChannel:
    """What is landed is asked for after the opens: then no older owner can commit any more."""
    channels = [
        names.stream_channel(opening.pipeline_id, opening.generation, number) for number in range(opening.channels)
    ]
    client = _client(opening, tools)
    opened = [client.open(name) for name in channels]
    try:
        landed = _in_session(opening, tools, lambda cursor: landed_up_to(cursor, opening))
    except BaseException:
        client.close()
        raise
    return ShardedChannel(client, dict(zip(channels, opened, strict=True)), opening, tools, landed)


def _streaming(opening: OpenTable, tools: Tools, committed: str | None = None) -> StreamingChannel:
    return StreamingChannel(_client(opening, tools), opening.channel, committed)


def _client(opening: OpenTable, tools: Tools) -> StreamingClient:
    # A client's name must be its own: the SDK mixes up two of one name, also when the older is being closed.
    client = f"{opening.channel}-{tools.incarnation}-{next(_clients)}"
    objects = objects_of(opening.destination, opening.table)
    return StreamingClient(opening.destination, objects, client, tools.decrypt, tools.directory)


def _in_session(opening: OpenTable, tools: Tools, job: Any) -> Any:
    place = f"pipeline {opening.pipeline}, table {opening.table.name}"

    def worded(connection: Any) -> Any:
        try:
            with connection.cursor() as cursor:
                return job(cursor)
        except Error as error:
            raise classify(error, place, Kind.DESTINATION_SETUP) from None

    return tools.sessions.run(opening.destination, tag_of(opening, "open"), worded)
