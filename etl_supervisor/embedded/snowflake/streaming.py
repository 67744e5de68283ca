"""Snowpipe Streaming's protocol ("v2"), as the real SDK speaks it: rowset mode and file mode.

    GET  hostname ─► POST oauth/token ─► POST …:pipe-info ─► PUT channels/C ─► POST channels/C/rows      (a flush up to 1 MiB)
                                                                            ─► PUT stage file, POST channels/C/filebuffer   (larger)
                                                                            ─► POST …:bulk-channel-status

`commit_forever` makes pending rows visible: rows and committed token in one DuckDB transaction, so a kill -9 leaves both or neither. In the counting
mode (see `counting`) there is nothing but the channels' numbers, in memory.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import json
import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any
from urllib.parse import unquote

import duckdb
import jwt
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from etl_supervisor.embedded.snowflake.channels import CLOSED, Channel, ChannelKey, Pending, Piece
from etl_supervisor.embedded.snowflake.counting import VIOLATIONS_MAX, rows_in, violation
from etl_supervisor.embedded.snowflake.errortables import ErrorTables
from etl_supervisor.embedded.snowflake.loading import Loaded, load
from etl_supervisor.embedded.snowflake.shows import PIPE_SUFFIX
from etl_supervisor.embedded.snowflake.stagefiles import BUCKET, PIPE_KEY, StageFiles, unzstd
from etl_supervisor.embedded.snowflake.users import SESSION_OVER, Login, RefusedError, Users, login_of
from etl_supervisor.embedded.snowflake.warehouse import CHANNELS_TABLE, Warehouse

TOKEN_SECONDS = 3600
COMMIT_TICK_SECONDS = 0.05
RETRY_SECONDS = 1.0  # after a commit that failed
WORDS_MAX = 200  # of an error in the log
_COUNTERS = (
    "committed, sequencer, created_ms, rows_parsed, rows_inserted, rows_error, error_offset, error_message, error_ms"
)
_KEY = "schema_name = ? AND pipe_name = ? AND channel_name = ?"

Answer = Callable[[Request], Awaitable[Response]]

log = logging.getLogger("local-snowflake")


class Streaming:
    """The channels of all databases, and their routes."""

    def __init__(self, warehouse: Warehouse, users: Users, commit_delay_seconds: float) -> None:
        self.warehouse, self.users = warehouse, users
        self.commit_delay_seconds = commit_delay_seconds
        self.counting = False
        self.violations: list[str] = []  # of the counting mode
        self.reject: list[dict[str, str]] = []  # see `loading`
        self.files = StageFiles()
        self.errors = ErrorTables(warehouse)
        self.channels: dict[ChannelKey, Channel] = {}

    def routes(self) -> list[Route]:
        """Everything the SDK calls."""
        pipe = "/v2/streaming/databases/{database}/schemas/{schema}/pipes/{pipe}"
        data = "/v2/streaming/data/databases/{database}/schemas/{schema}/pipes/{pipe}"
        return [
            Route("/v2/streaming/hostname", self._with_key(_hostname)),
            Route("/oauth/token", self._with_key(_token), methods=["POST"]),
            Route(pipe + ":pipe-info", self._with_token(self._pipe_info), methods=["POST"]),
            Route(pipe + ":bulk-channel-status", self._with_token(self._statuses), methods=["POST"]),
            Route(pipe + "/channels/{channel}", self._with_token(self._open), methods=["PUT"]),
            Route(pipe + "/channels/{channel}", self._with_token(self._drop), methods=["DELETE"]),
            Route(data + "/channels/{channel}/rows", self._with_token(self._rows), methods=["POST"]),
            Route(pipe + "/channels/{channel}/rows", self._with_token(self._rows), methods=["POST"]),
            Route(pipe + "/channels/{channel}/filebuffer", self._with_token(self._filebuffer), methods=["POST"]),
            Route(data + "/channels/{channel}/filebuffer", self._with_token(self._filebuffer), methods=["POST"]),
            Route(f"/{BUCKET}/{{path:path}}", self._upload, methods=["PUT"]),
        ]

    # -- who may ask

    def _with_key(self, answer: Callable[[Request, Login], Response]) -> Answer:
        """A request that a key pair signs."""

        async def asked(request: Request) -> Response:
            try:
                return answer(request, self.users.enter(_bearer(request)))
            except RefusedError as error:
                return _error(401, error.code, str(error))

        return asked

    def _with_token(self, answer: Answer) -> Answer:
        """A request with a token of ours."""

        async def asked(request: Request) -> Response:
            try:
                claims = jwt.decode(_bearer(request), options={"verify_signature": False, "verify_exp": True})
                self.users.check(login_of(claims))
            except (RefusedError, jwt.InvalidTokenError):
                return _error(401, *SESSION_OVER)
            return await answer(request)

        return asked

    # -- pipes and channels

    async def _pipe_info(self, request: Request) -> Response:
        database, schema, table = _table_of(request)
        async with self.warehouse.lock:
            if not self.warehouse.has_database(database) or not self.warehouse.columns(database, schema, table):
                return _error(404, "ERR_TABLE_DOES_NOT_EXIST_NOT_AUTHORIZED", f"table {table} does not exist")
        stage = {
            "expiry_time_ms": _now_ms() + TOKEN_SECONDS * 1000,
            "location_type": "S3",
            "use_s3_regional_url": False,
            "location": f"{BUCKET}/{_now_ms()}/",
            "region": "us-west-2",
            "creds": {"AWS_KEY_ID": "local", "AWS_SECRET_KEY": "local", "AWS_TOKEN": "local"},
            "storage_account": None,
        }
        key = base64.b64encode(PIPE_KEY).decode()
        info = {"pipe_key": key, "pipe_key_id": "1", "diversifier": base64.b64encode(b"local diversifier").decode()}
        return JSONResponse(
            {
                "rowset_stage_location": stage,
                "durable_stage_location": stage,
                "encryption_info": info,
                "parameter_overrides": {},
            }
        )

    async def _open(self, request: Request) -> Response:
        asked = json.loads(await request.body() or b"{}")
        key = _key_of(request)
        async with self.warehouse.lock:
            table = _table_of(request)
            if not self.warehouse.has_database(table[0]) or not self.warehouse.columns(*table):
                return _error(404, "ERR_TABLE_DOES_NOT_EXIST_NOT_AUTHORIZED", f"table {table[2]} does not exist")
            channel = self._channel(key) or Channel(key, _now_ms())
            if channel.pending and asked.get("fail_on_uncommitted_rows"):
                return _error(
                    409, "ERR_CHANNEL_HAS_UNCOMMITTED_DATA", "the channel has rows that are not committed yet"
                )
            channel.open(asked.get("offset_token"))
            self.channels[key] = channel
            self._save(self.warehouse.cursor(), channel)
        return JSONResponse({"next_continuation_token": channel.continuation, "channel_status": channel.status()})

    async def _drop(self, request: Request) -> Response:
        key = _key_of(request)
        async with self.warehouse.lock:
            channel = self._channel(key)
            if channel is None:
                return _error(404, "ERR_CHANNEL_DOES_NOT_EXIST_OR_NOT_AUTHORIZED", "there is no such channel")
            self.channels.pop(key, None)
            self.warehouse.cursor().execute(
                f'DELETE FROM "{key[0]}".{CHANNELS_TABLE} WHERE schema_name = ? AND pipe_name = ? AND channel_name = ?',
                key[1:],
            )
        return JSONResponse({"last_committed_offset_token": channel.committed})

    async def _statuses(self, request: Request) -> Response:
        names = json.loads(await request.body())["channel_names"]
        database, schema, pipe, _ = _key_of(request)
        found = {}
        async with self.warehouse.lock:
            for name in names:
                key = database, schema, pipe, name
                if key in self.channels:
                    found[name] = self.channels[key].status()
                elif (channel := self._channel(key)) is not None:
                    found[name] = channel.status(CLOSED)
        return JSONResponse({"channel_statuses": found})

    # -- rows

    async def _rows(self, request: Request) -> Response:
        body, query = await request.body(), request.query_params
        encoding = request.headers.get("content-encoding", "")
        unpack = {"zstd": unzstd, "gzip": gzip.decompress}.get(encoding, bytes)
        try:
            lines = await run_in_threadpool(unpack, body)
        except (ValueError, OSError, EOFError):
            return _error(400, "ERR_BODY", "the rows can't be decompressed")
        return self._append(request, [Piece(lines, query.get("startOffsetToken"), query.get("endOffsetToken"))])

    async def _filebuffer(self, request: Request) -> Response:
        parts = json.loads(await request.body())
        try:
            pieces = await run_in_threadpool(lambda: [self._piece(part) for part in parts])
        except KeyError:
            return _error(400, "ERR_FILE_NOT_FOUND", "the stage has no such file")
        except ValueError:
            return _error(400, "ERR_BODY", "the rows can't be decompressed")
        answer = self._append(request, pieces)
        if answer.status_code == 200:
            for part in parts:
                self.files.forget(part["file_path"])
        return answer

    def _piece(self, part: dict[str, Any]) -> Piece:
        """A fragment of a file that was uploaded before. KeyError when it is not there."""
        start, length = part["fragment_start_byte_offset"], part["fragment_length_bytes"]
        lines = self.files.fragment(part["file_path"], start, length, part["iv_base64"])
        first, last = part.get("fragment_start_offset_token"), part.get("fragment_end_offset_token")
        return Piece(lines, first, last, part.get("fragment_row_count"))

    def _append(self, request: Request, pieces: list[Piece]) -> Response:
        channel = self.channels.get(_key_of(request))
        if channel is None:
            return _error(404, CLOSED, "the channel is not open")
        query = request.query_params
        repeated = int(query.get("retryCount") or 0) > 0 and query.get("requestId") == channel.last_request
        if not repeated:
            if query.get("continuationToken") != channel.continuation:
                return _error(400, "STALE_CONTINUATION_TOKEN_SEQUENCER", "the channel was opened by another client")
            if self.counting and (wrong := violation(pieces, channel.reached)):
                self.violations[VIOLATIONS_MAX - 1 :] = []
                self.violations.append(f"{channel.key[3]}: {wrong}")
                return _error(400, "ERR_COUNTING_MODE", wrong)
            channel.append([self._pending(piece) for piece in pieces], query.get("requestId", ""))
        return JSONResponse({"next_continuation_token": channel.continuation})

    def _pending(self, piece: Piece) -> Pending:
        due = time.monotonic() + self.commit_delay_seconds
        if self.counting:
            return Pending(b"", piece.last, due, rows_in(piece.lines))
        return Pending(piece.lines, piece.last, due)

    async def _upload(self, request: Request) -> Response:
        path = f"{BUCKET}/{request.path_params['path']}"
        etag = self.files.put(path, await request.body(), request.headers.get("content-encoding", ""))
        return Response(headers={"ETag": f'"{etag}"'})

    # -- commits

    async def commit_forever(self) -> None:
        """Make what is due visible, for ever. What fails stays pending, and says so."""
        while True:
            await asyncio.sleep(COMMIT_TICK_SECONDS)
            now = time.monotonic()
            for channel in list(self.channels.values()):
                items = channel.due(now)
                if items and all(item.rows for item in items):
                    counted = sum(item.rows for item in items)
                    channel.committed_rows(items, counted, counted)
                elif items:
                    async with self.warehouse.lock:
                        await self._commit_due(channel, now)

    async def _commit_due(self, channel: Channel, now: float) -> None:
        items = channel.due(now)
        if not items:
            return
        try:
            counted = await run_in_threadpool(self._commit, channel, items)
            if counted is not None:
                channel.committed_rows(items, counted.parsed, counted.inserted)
            elif not self.warehouse.has_database(channel.key[0]):
                del self.channels[channel.key]
        except Exception as error:  # the commits of others go on
            # DuckDB shows what it read behind the word "Input"; what others show is not known
            known = str(error).split(" Input:")[0].splitlines()[0] if isinstance(error, duckdb.Error) else ""
            why = known[:WORDS_MAX] or type(error).__name__
            items[0].due = time.monotonic() + RETRY_SECONDS
            log.error("commit of channel %s (%d pieces) failed: %s", channel.key[3], len(items), why)

    def _commit(self, channel: Channel, items: list[Pending]) -> Loaded | None:
        """Rows and committed token, in one transaction: how many rows. None: a table that is gone keeps its rows pending."""
        database, schema, pipe, _ = channel.key
        table = pipe.removesuffix(PIPE_SUFFIX)
        columns = self.warehouse.columns(database, schema, table)
        if not columns:
            return None
        connection = self.warehouse.cursor()
        connection.execute("BEGIN")
        try:
            lines = b"\n".join(item.lines for item in items)
            target = ".".join('"' + name.replace('"', '""') + '"' for name in (database, schema, table))
            refused = [rule for rule in self.reject if rule["table"] == table]
            kept = None
            if self.errors.logs(database, schema, table):
                told = {"service": "snowpipe_streaming", "channel": channel.key[3]}
                kept = partial(self.errors.keep, connection, (database, schema, table), told)
            loaded = load(connection, target, columns, lines, refused, kept)
            counted = sum(item.rows for item in items)
            loaded = Loaded(loaded.parsed + counted, loaded.inserted + counted)
            self._save(connection, channel.after(items, loaded.parsed, loaded.inserted))
            connection.execute("COMMIT")
            return loaded
        except Exception:
            with contextlib.suppress(duckdb.Error):
                connection.execute("ROLLBACK")
            raise
        finally:
            connection.close()

    def _channel(self, key: ChannelKey) -> Channel | None:
        """An open channel, or one that an earlier server committed."""
        if key in self.channels:
            return self.channels[key]
        if not self.warehouse.has_database(key[0]):
            return None
        row = (
            self.warehouse.cursor()
            .execute(
                f'SELECT {_COUNTERS} FROM "{key[0]}".{CHANNELS_TABLE} WHERE {_KEY}',
                key[1:],
            )
            .fetchone()
        )
        if row is None:
            return None
        committed, sequencer, created, parsed, inserted, errors, offset, message, at = row
        return Channel(key, created, committed, sequencer, 0, parsed, inserted, errors, offset, message, at)

    def _save(self, connection: Any, channel: Channel) -> None:
        counters = [
            channel.committed,
            channel.sequencer,
            channel.created_ms,
            channel.rows_parsed,
            channel.rows_inserted,
            channel.rows_error,
            channel.error_offset,
            channel.error_message,
            channel.error_ms,
        ]
        table, mine = f'"{channel.key[0]}".{CHANNELS_TABLE}', channel.key[1:]
        # An UPDATE of what is not indexed takes a third of the time of an INSERT OR REPLACE.
        ((known,),) = connection.execute(
            f"UPDATE {table} SET {_COUNTERS.replace(',', ' = ?,')} = ? WHERE {_KEY}", [*counters, *mine]
        ).fetchall()
        if not known:
            connection.execute(
                f"INSERT INTO {table} (schema_name, pipe_name, channel_name, {_COUNTERS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [*mine, *counters],
            )


def _bearer(request: Request) -> str:
    return request.headers.get("authorization", "").partition(" ")[2]


def _hostname(request: Request, _: Login) -> Response:
    """The host alone: the SDK adds the port of its url."""
    return PlainTextResponse(request.headers["host"].rpartition(":")[0] or request.headers["host"])


def _token(_: Request, login: Login) -> Response:
    """A token of the usual form that names the login and its end. Its signature is empty: both ends are on this machine."""
    now = int(time.time())
    claims = {
        "iss": "local",
        "sub": login.user,
        "fingerprint": login.fingerprint,
        "iat": now,
        "exp": now + TOKEN_SECONDS,
    }
    parts = ({"alg": "HS256", "typ": "JWT"}, claims)
    signed = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts]
    signature = base64.urlsafe_b64encode(bytes(32)).rstrip(b"=").decode()
    return PlainTextResponse(".".join([*signed, signature]))


def _key_of(request: Request) -> ChannelKey:
    database, schema, table = _table_of(request)
    return database, schema, table + PIPE_SUFFIX, unquote(request.path_params.get("channel", ""))


def _table_of(request: Request) -> tuple[str, str, str]:
    """The table of a default pipe, with its database and schema, as Snowflake stores the names."""
    names = [_stored(unquote(request.path_params[part])) for part in ("database", "schema", "pipe")]
    table = names[2]
    for suffix in (PIPE_SUFFIX, PIPE_SUFFIX.lower()):
        table = table.removesuffix(suffix)
    return names[0], names[1], _stored(table) if table.startswith('"') else table


def _stored(name: str) -> str:
    """A quoted name is itself, any other is upper case."""
    if len(name) > 1 and name[0] == name[-1] == '"':
        return name[1:-1].replace('""', '"')
    return name if '"' in name else name.upper()


def _error(status: int, code: str, message: str) -> JSONResponse:
    return JSONResponse({"code": code, "message": message}, status)


def _now_ms() -> int:
    return int(time.time() * 1000)
