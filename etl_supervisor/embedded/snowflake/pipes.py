"""Pipes over files (Snowpipe): CREATE and DROP PIPE, and the three requests of `snowflake-ingest`, with its key-pair token.

    POST insertFiles ─► queue (durable) ─► a moment later loaded, in any order ─► GET insertReport, GET loadHistoryScan

A pipe loads a file name once and ignores it for ever after, also when its content has changed. Queue and history are tables: they outlive this
process.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import logging
import re
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

import duckdb
import jwt
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from etl_supervisor.embedded.snowflake.parquetload import FileLoad, FileLoader, copy_of
from etl_supervisor.embedded.snowflake.quoting import quoted
from etl_supervisor.embedded.snowflake.stages import NAME, StageError, parts_of
from etl_supervisor.embedded.snowflake.statements import SUCCESS
from etl_supervisor.embedded.snowflake.users import INVALID_TOKEN, RefusedError, Users

REPORT_SECONDS = 600  # insertReport tells of the last ten minutes
TICK_SECONDS = 0.1
RETRY_SECONDS = 1.0  # after what failed for a reason of the server's own
_CREATE = re.compile(
    rf"\s*CREATE\s+(?P<replace>OR\s+REPLACE\s+)?PIPE\s+(?P<calm>IF\s+NOT\s+EXISTS\s+)?(?P<name>{NAME})(?:\s+\w+\s*=\s*\w+)*\s+AS\s+(?P<copy>COPY\b.*)$",
    re.I | re.S,
)
_DROP = re.compile(rf"\s*DROP\s+PIPE\s+(?:IF\s+EXISTS\s+)?(?P<name>{NAME})\s*;?\s*$", re.I)
_MADE = """
CREATE SCHEMA IF NOT EXISTS {db}._streaming;
CREATE TABLE IF NOT EXISTS {db}._streaming._pipes (schema_name VARCHAR, pipe_name VARCHAR, definition VARCHAR, PRIMARY KEY (schema_name, pipe_name));
CREATE TABLE IF NOT EXISTS {db}._streaming._pipe_files (schema_name VARCHAR, pipe_name VARCHAR, path VARCHAR, size BIGINT, received DOUBLE,
    ended DOUBLE, status VARCHAR, parsed BIGINT, loaded BIGINT, error VARCHAR, PRIMARY KEY (schema_name, pipe_name, path))
"""

log = logging.getLogger("local-snowflake")


class Pipes:
    """The pipes of all databases."""

    def __init__(self, loader: FileLoader, users: Users, delay_seconds: Callable[[], float]) -> None:
        self.loader, self.users, self.delay_seconds = loader, users, delay_seconds
        self.warehouse = loader.warehouse
        self._made: set[str] = set()
        self._queued: dict[str, float] = {}  # database -> when the oldest file that waits was received

    def routes(self) -> list[Route]:
        """What `snowflake-ingest` calls."""
        pipe = "/v1/data/pipes/{pipe}"
        return [
            Route(pipe + "/insertFiles", self._insert, methods=["POST"]),
            Route(pipe + "/insertReport", self._report),
            Route(pipe + "/loadHistoryScan", self._scan),
        ]

    def statement(self, sql: str) -> str | None:
        """Run CREATE or DROP PIPE (fully qualified); the query of its answer, or None for any other statement."""
        if found := _CREATE.match(sql):
            database, schema, name = parts_of(found["name"])
            cursor = self._cursor(database)
            verb = "INSERT OR REPLACE" if found["replace"] else "INSERT OR IGNORE"
            values = [schema, name, found["copy"].strip().rstrip(";")]
            cursor.execute(f"{verb} INTO {quoted(database)}._streaming._pipes VALUES (?, ?, ?)", values)
            return SUCCESS
        if found := _DROP.match(sql):
            database, schema, name = parts_of(found["name"])
            for table in ("_pipes", "_pipe_files"):
                self._cursor(database).execute(
                    f"DELETE FROM {quoted(database)}._streaming.{table} WHERE schema_name = ? AND pipe_name = ?",
                    [schema, name],
                )
            return SUCCESS
        return None

    def forget(self, database: str) -> None:
        """A database is about to be dropped."""
        self._made.discard(database)
        self._queued.pop(database, None)

    async def load_forever(self) -> None:
        """Load what is queued, for ever."""
        for database in self.warehouse.databases():
            self._cursor(database)
        while True:
            await asyncio.sleep(TICK_SECONDS)
            for database, received in list(self._queued.items()):
                if received <= time.time() - self.delay_seconds():
                    async with self.warehouse.lock:
                        await run_in_threadpool(self._try, database)

    # -- requests

    async def _insert(self, request: Request) -> Response:
        async with self.warehouse.lock:
            pipe = self._pipe(request)
            if isinstance(pipe, Response):
                return pipe
            database, schema, name, _ = pipe
            now = time.time()
            self._queued.setdefault(database, now)
            for file in json.loads(await request.body())["files"]:
                self._cursor(database).execute(
                    f"INSERT OR IGNORE INTO {quoted(database)}._streaming._pipe_files VALUES (?, ?, ?, ?, ?, NULL, NULL, 0, 0, NULL)",
                    [schema, name, file["path"], file["size"] or 0, now],
                )
        return JSONResponse({"requestId": request.query_params["requestId"], "responseCode": "SUCCESS"})

    async def _report(self, request: Request) -> Response:
        since = time.time() - min(REPORT_SECONDS, int(request.query_params.get("recentSeconds", REPORT_SECONDS)))
        return await self._history(request, since, {"completeResult": True, "nextBeginMark": "1_0"})

    async def _scan(self, request: Request) -> Response:
        since = dt.datetime.fromisoformat(request.query_params["startTimeInclusive"].replace("Z", "+00:00"))
        return await self._history(request, since.timestamp(), {"completeResult": True})

    async def _history(self, request: Request, since: float, more: dict[str, Any]) -> Response:
        async with self.warehouse.lock:
            pipe = self._pipe(request)
            if isinstance(pipe, Response):
                return pipe
            database, schema, name, _ = pipe
            rows = (
                self._cursor(database)
                .execute(
                    "SELECT path, size, received, ended, status, parsed, loaded, error FROM"
                    f" {quoted(database)}._streaming._pipe_files WHERE schema_name = ? AND pipe_name = ? AND ended >= ? ORDER BY ended",
                    [schema, name, since],
                )
                .fetchall()
            )
        return JSONResponse(
            {"pipe": ".".join((database, schema, name)), "files": [_told(*row) for row in rows], **more}
        )

    def _pipe(self, request: Request) -> tuple[str, str, str, str] | Response:
        """Database, schema, name and definition of the pipe of a request; an answer when it may not have it."""
        try:
            scheme, _, token = request.headers.get("authorization", "").partition(" ")
            claims = jwt.decode(
                token, options={"verify_signature": False, "verify_exp": True, "require": ["exp", "iss", "sub"]}
            )
            if scheme != "Bearer" or not claims["iss"].startswith(claims["sub"] + ".SHA256:"):
                raise jwt.InvalidTokenError
            self.users.enter(token)
        except (jwt.InvalidTokenError, RefusedError):
            return _refused(401, *INVALID_TOKEN)
        parts = parts_of(unquote(request.path_params["pipe"]))
        found = None
        if len(parts) == 3 and self.warehouse.has_database(parts[0]):
            found = (
                self._cursor(parts[0])
                .execute(
                    f'SELECT definition FROM "{parts[0]}"._streaming._pipes WHERE schema_name = ? AND pipe_name = ?',
                    parts[1:],
                )
                .fetchone()
            )
        if found is None:
            return _refused(404, "390404", "Specified object does not exist or not authorized. Pipe not found")
        return parts[0], parts[1], parts[2], found[0]

    # -- loading

    def _try(self, database: str) -> None:
        if self._queued.pop(database, None) is None:
            return  # it was dropped meanwhile
        try:
            self._load_due(database)
        except Exception as error:  # the pipes of others go on
            log.error("pipes of %s failed: %s", database, type(error).__name__)
            self._queued.setdefault(database, time.time() + RETRY_SECONDS)

    def _load_due(self, database: str) -> None:
        cursor = self._cursor(database)
        until = time.time() - self.delay_seconds()
        queued = cursor.execute(
            f"SELECT f.received, f.schema_name, f.pipe_name, f.path, p.definition FROM {quoted(database)}._streaming._pipe_files f"
            f" JOIN {quoted(database)}._streaming._pipes p USING (schema_name, pipe_name) WHERE ended IS NULL ORDER BY received"
        ).fetchall()
        for received, schema, name, path, definition in queued:
            if received > until:
                self._queued[database] = received
                break
            load = self._load(definition, path, f"{schema}.{name}")
            cursor.execute(
                f"UPDATE {quoted(database)}._streaming._pipe_files SET ended = ?, status = ?, parsed = ?, loaded = ?, error = ?"
                " WHERE schema_name = ? AND pipe_name = ? AND path = ?",
                [time.time(), load.status, load.parsed, load.loaded, load.error, schema, name, path],
            )

    def _load(self, definition: str, path: str, pipe: str) -> FileLoad:
        copy = copy_of(f"{definition} FILES = ('{path}')")
        if copy is None:
            return FileLoad(path, "LOAD_FAILED", error="the pipe's COPY is not understood")
        try:
            (load,) = self.loader.load(copy, (None, None), pipe)
        except (duckdb.Error, StageError) as error:
            log.error("pipe %s failed: %s", pipe, type(error).__name__)
            return FileLoad(path, "LOAD_FAILED", error="the file can't be loaded")
        return load

    def _cursor(self, database: str) -> Any:
        cursor = self.warehouse.cursor()
        if database not in self._made:
            if not self.warehouse.has_database(database):
                raise StageError("002003", f"Database '{database}' does not exist or not authorized.")
            cursor.execute(_MADE.format(db=quoted(database)))
            self._made.add(database)
            self._queued[database] = 0.0  # an earlier server may have left some
        return cursor


def _told(
    path: str, size: int, received: float, ended: float, status: str, parsed: int, loaded: int, error: str | None
) -> dict[str, Any]:
    report = {
        "path": path,
        "stageLocation": "stages/local/",
        "fileSize": size,
        "timeReceived": _stamp(received),
        "lastInsertTime": _stamp(ended),
        "rowsInserted": loaded,
        "rowsParsed": parsed,
        "errorsSeen": parsed - loaded,
        "errorLimit": parsed,
        "complete": True,
        "status": status,
    }
    return report if error is None else {**report, "firstError": error}


def _stamp(seconds: float) -> str:
    return dt.datetime.fromtimestamp(seconds, dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _refused(status: int, code: str, message: str) -> Response:
    return JSONResponse({"code": code, "success": False, "message": message, "data": None}, status)
