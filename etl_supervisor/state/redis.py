"""State in Redis or Valkey. Keys:

    etl:<source>:progress            JSON
    etl:<source>:epoch               integer
    etl:<source>:report              JSON
    etl:<source>:<pipeline>:tables   hash, field <schema>.<table> (JSON array of both), JSON values
    etl:<source>:<pipeline>:copies   the same for copies
    etl:<source>:<pipeline>:resync   set of such arrays; an empty one is the whole pipeline

`:` and `%` in names are percent-encoded. Progress is written by a script that compares epochs, so check and write are one step. After a write that
counts the server is asked to have it on disk (WAITAOF), where it can.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, TypeVar

import orjson
import redis
import tenacity
from redis.backoff import NoBackoff
from redis.retry import Retry

from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.model.copy_state import CopyState
from etl_supervisor.model.progress import Progress, SourceReport
from etl_supervisor.model.table import TableName
from etl_supervisor.model.table_state import TableState
from etl_supervisor.model.verified import Verified
from etl_supervisor.state import store

TIMEOUT_SECONDS = 2.0  # of one command: the reader's loop waits for it
TRIES = 3  # then the caller decides: a reader goes on streaming and confirms later
PAUSE_SECONDS = 0.1
DISK_TIMEOUT_MS = 1_000

_SAVE_PROGRESS = """
local epoch = tonumber(redis.call('GET', KEYS[2]) or '0')
if tonumber(ARGV[2]) < epoch then return 0 end
redis.call('SET', KEYS[1], ARGV[1])
return 1
"""

_SAVE_OF_TABLES = """
local epoch = tonumber(redis.call('GET', KEYS[2]) or '0')
if tonumber(ARGV[1]) < epoch then return 0 end
for at = 2, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[at], ARGV[at + 1]) end
return 1
"""

_NEXT_EPOCH = """
local epoch = math.max(tonumber(redis.call('GET', KEYS[1]) or '0') + 1, tonumber(ARGV[1]))
redis.call('SET', KEYS[1], string.format('%d', epoch))
return epoch
"""

T = TypeVar("T")


class RedisStore:
    """See `store.StateStore`."""

    def __init__(self, url: str, observe: store.Observe = store.unobserved, authority: Path | None = None) -> None:
        self._observe = observe
        self._redis: Any = redis.Redis.from_url(
            url,
            **(_tls(authority) if url.startswith("rediss://") else {}),
            socket_timeout=TIMEOUT_SECONDS,
            socket_connect_timeout=TIMEOUT_SECONDS,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
        )
        self._save_progress = self._redis.register_script(_SAVE_PROGRESS)
        self._save_fenced = self._redis.register_script(_SAVE_OF_TABLES)
        self._next_epoch = self._redis.register_script(_NEXT_EPOCH)
        self._waits_for_disk = True
        self._retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(TRIES),
            wait=tenacity.wait_exponential_jitter(multiplier=PAUSE_SECONDS, max=1.0, jitter=PAUSE_SECONDS),
            retry=tenacity.retry_if_exception_type((redis.ConnectionError, redis.TimeoutError))
            & tenacity.retry_if_not_exception_type(redis.AuthenticationError),
            reraise=True,
        )

    def progress(self, source: str) -> Progress | None:
        data = self._do("progress", lambda: self._redis.get(_key(source, "progress")))
        return None if data is None else store.load_progress(data)

    def save_progress(self, source: str, progress: Progress, epoch: int) -> None:
        keys = [_key(source, "progress"), _key(source, "epoch")]
        arguments: list[bytes | int] = [store.dump(progress), epoch]
        if not self._do("save_progress", lambda: self._save_progress(keys=keys, args=arguments)):
            raise store.stale(source, epoch)
        self._to_disk()

    def next_epoch(self, source: str) -> int:
        keys = [_key(source, "epoch")]
        epoch = int(self._do("next_epoch", lambda: self._next_epoch(keys=keys, args=[int(time.time())])))
        self._to_disk()
        return epoch

    def restore_epoch(self, source: str, epoch: int) -> None:
        self._do("restore_epoch", lambda: self._redis.set(_key(source, "epoch"), epoch, nx=True))
        self._to_disk()

    def epoch(self, source: str) -> int:
        return int(self._do("epoch", lambda: self._redis.get(_key(source, "epoch"))) or 0)

    def tables(self, source: str, pipeline: str) -> dict[TableName, TableState]:
        values = self._do("tables", lambda: self._redis.hvals(_key(source, pipeline, "tables")))
        states = [store.load_table(value) for value in values]
        return {state.table: state for state in states}

    def save_table(self, source: str, pipeline: str, state: TableState, writer: store.Writer | None = None) -> None:
        self.save_tables(source, pipeline, [state], writer)

    def save_tables(
        self, source: str, pipeline: str, states: Collection[TableState], writer: store.Writer | None = None
    ) -> None:
        self._save_of_tables("save_table", _key(source, pipeline, "tables"), states, writer)

    def ask_resync(self, source: str, pipeline: str, table: TableName | None) -> None:
        self._do("ask_resync", lambda: self._redis.sadd(_key(source, pipeline, "resync"), _member(table)))
        self._to_disk()

    def resyncs(self, source: str, pipeline: str) -> list[TableName | None]:
        members = self._do("resyncs", lambda: self._redis.smembers(_key(source, pipeline, "resync")))
        asked = [orjson.loads(member) for member in members]
        return [TableName(*parts) if parts else None for parts in asked]

    def end_resync(self, source: str, pipeline: str, table: TableName | None) -> None:
        self._do("end_resync", lambda: self._redis.srem(_key(source, pipeline, "resync"), _member(table)))
        self._to_disk()

    def drop_table(self, source: str, pipeline: str, table: TableName) -> None:
        for part in ("tables", "copies", "verified"):
            key = _key(source, pipeline, part)
            self._do("drop_table", lambda key=key: self._redis.hdel(key, _member(table)))  # type: ignore[misc]
        self._to_disk()

    def copies(self, source: str, pipeline: str) -> dict[TableName, CopyState]:
        values = self._do("copies", lambda: self._redis.hvals(_key(source, pipeline, "copies")))
        states = [store.load_copy(value) for value in values]
        return {state.table: state for state in states}

    def copy(self, source: str, pipeline: str, table: TableName) -> CopyState | None:
        data = self._do("copy", lambda: self._redis.hget(_key(source, pipeline, "copies"), _member(table)))
        return None if data is None else store.load_copy(data)

    def save_copy(self, source: str, pipeline: str, state: CopyState, writer: store.Writer | None = None) -> None:
        self.save_copies(source, pipeline, [state], writer)

    def save_copies(
        self, source: str, pipeline: str, states: Collection[CopyState], writer: store.Writer | None = None
    ) -> None:
        self._save_of_tables("save_copy", _key(source, pipeline, "copies"), states, writer)

    def save_verified(self, source: str, pipeline: str, found: Verified) -> None:
        key = _key(source, pipeline, "verified")
        self._do("save_verified", lambda: self._redis.hset(key, _member(found.table), store.dump(found)))
        self._to_disk()

    def verified(self, source: str, pipeline: str) -> dict[TableName, Verified]:
        values = self._do("verified", lambda: self._redis.hvals(_key(source, pipeline, "verified")))
        found = [store.load_verified(value) for value in values]
        return {item.table: item for item in found}

    def save_report(self, source: str, report: SourceReport) -> None:
        self._do("save_report", lambda: self._redis.set(_key(source, "report"), store.dump(report)))

    def report(self, source: str) -> SourceReport | None:
        data = self._do("report", lambda: self._redis.get(_key(source, "report")))
        return None if data is None else store.load_report(data)

    def risk(self) -> str:
        try:
            found = self._do("config", lambda: self._redis.config_get("append*", "maxmemory*"))
        except redis.ResponseError:
            return "Redis does not tell how it persists (CONFIG is not allowed)"
        settings = {_text(key): _text(value) for key, value in found.items()}
        if settings.get("appendonly") != "yes":
            return "Redis keeps no append-only file: a restart loses what was written since its last snapshot"
        if settings.get("appendfsync") != "always":
            return f"Redis writes its append-only file {settings.get('appendfsync')}: a crash of the machine loses the last of it"
        if settings.get("maxmemory") != "0" and (policy := settings.get("maxmemory-policy")) != "noeviction":
            return f"Redis forgets keys when its memory is full (maxmemory-policy {policy})"
        return ""

    def forget(self, source: str) -> None:
        def delete() -> None:
            keys = list(self._redis.scan_iter(match=_pattern(_key(source, "")) + "*"))
            kept = _key(source, "epoch").encode()
            doomed = [key for key in keys if key != kept]
            if doomed:
                self._redis.delete(*doomed)

        self._do("forget", delete)
        self._to_disk()

    def close(self) -> None:
        self._redis.close()

    def _save_of_tables(
        self, operation: str, key: str, states: Collection[TableState | CopyState], writer: store.Writer | None
    ) -> None:
        if not states:
            return
        values: dict[bytes | str, bytes] = {_member(state.table): store.dump(state) for state in states}
        if writer is None:
            self._do(operation, lambda: self._redis.hset(key, mapping=values))
        else:
            keys = [key, _key(writer.stream, "epoch")]
            pairs = [part for pair in values.items() for part in pair]
            if not self._do(operation, lambda: self._save_fenced(keys=keys, args=[writer.epoch, *pairs])):
                raise store.stale(*writer)
        self._to_disk()

    def _to_disk(self) -> None:
        """Wait until the server's own append-only file has it; a server that has none (or is older than 7.2) is taken as it is."""
        if not self._waits_for_disk:
            return
        try:
            self._do("wait", lambda: self._redis.execute_command("WAITAOF", 1, 0, DISK_TIMEOUT_MS))
        except redis.ResponseError:
            self._waits_for_disk = False

    def _do(self, operation: str, call: Callable[[], T]) -> T:
        began, good = time.monotonic(), False
        try:
            done = self._retrying(call)
            good = True
            return done
        except redis.AuthenticationError:
            remedy = "correct the user and password in REDIS_URL"
            raise EtlError(Kind.CONFIG, "Redis", "the server refuses the password", remedy) from None
        except redis.ResponseError:
            raise
        except redis.RedisError as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                remedy = "set REDIS_TLS_CA to the authority that signed it, and the host in REDIS_URL as it has it"
                raise EtlError(Kind.CONFIG, "Redis", "the server's certificate is not good", remedy) from None
            reason = f"{operation} failed: {type(error).__name__}"
            remedy = "check REDIS_URL and the server; rows go on, confirmations wait"
            raise EtlError(Kind.STATE_STORE, "Redis", reason, remedy, transient=True) from None
        finally:
            self._observe(operation, time.monotonic() - began, good)


def _tls(authority: Path | None) -> dict[str, Any]:
    """The server is verified by its certificate and name; a URL may say otherwise (`?ssl_cert_reqs=none`)."""
    if authority is not None and not os.access(authority, os.R_OK):
        remedy = "set it to a PEM file that this user may read"
        raise EtlError(Kind.CONFIG, "REDIS_TLS_CA", f"{authority} can't be read", remedy)
    verified: dict[str, Any] = {"ssl_cert_reqs": "required", "ssl_check_hostname": True}
    return verified | ({"ssl_ca_certs": str(authority)} if authority else {})


def _key(*parts: str) -> str:
    return ":".join(["etl", *(part.replace("%", "%25").replace(":", "%3A") for part in parts)])


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _member(table: TableName | None) -> bytes:
    return orjson.dumps([table.schema, table.name] if table is not None else [])


def _pattern(key: str) -> str:
    """The key as a pattern that matches only itself."""
    return "".join(f"\\{char}" if char in "*?[]^\\-" else char for char in key)
