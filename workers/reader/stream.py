"""The replication connection: libpq through psycopg, never blocking longer than asked.

A walsender connection is used for one purpose: creating a slot (whose exported snapshot lives until the connection's next command) or
one START_REPLICATION; a second START on the same connection ends at once, so each (re)start opens a new one.

`read` only takes what is there (see `copyboth`); the caller waits on `fileno()`. A reader that is short of memory simply does not call `read`:
the walsender waits, and `status` keeps the connection alive.

Sources: PostgreSQL manual, "Streaming Replication Protocol" and "Logical Streaming Replication Protocol".
"""

from __future__ import annotations

import contextlib
import os
import select
import selectors
import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import psycopg
from psycopg import conninfo, pq

from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.model import lsn
from etl_supervisor.model.pipeline import Source
from workers.reader.copyboth import BrokenOffError, CopyBoth, ServerError, copy_both, refusal
from workers.reader.decode_failure import failure_of
from workers.reader.frame import POSITION_MAX, Chunk, broken

CONNECT_SECONDS_MAX = 10  # a database that takes longer is not there for us
COMMAND_SECONDS_MAX = 30.0
TICK_SECONDS = 1.0  # how often a waiting command lets its caller beat
APPLICATION_NAME = "etl-stream"
EPOCH_US = 946_684_800_000_000  # 2000-01-01 in Unix microseconds: PostgreSQL's epoch
SESSION_OPTIONS = (  # the text forms that the decoder knows; the same in the stream and in the snapshot
    "-c timezone=UTC -c datestyle=ISO -c intervalstyle=postgres -c extra_float_digits=3 -c bytea_output=hex"
    " -c client_encoding=UTF8 -c statement_timeout=0 -c idle_session_timeout=0"
)

_XLOG_DATA, _KEEPALIVE = ord("w"), ord("k")
_KEEPALIVE_BODY = struct.Struct("!QqB")
_STATUS = struct.Struct("!cQQQqB")


def connection_string(source: Source, password: str | None, **extra: str) -> str:
    """The libpq connection string of a source. Holds the password: never log it."""
    parameters: dict[str, Any] = {
        "host": source.pg_host,
        "port": source.pg_port,
        "dbname": source.pg_database,
        "user": source.pg_username,
        "password": password,
        **source.tls,
        "connect_timeout": CONNECT_SECONDS_MAX,
        "application_name": APPLICATION_NAME,
        "options": SESSION_OPTIONS,
        "keepalives_idle": 30,
        "gssencmode": "disable",  # Kerberos may log in; what it would encrypt, TLS does
        **extra,
    }
    return conninfo.make_conninfo("", **{key: value for key, value in parameters.items() if value is not None})


def connect(source: Source, password: str | None, **extra: str) -> psycopg.Connection[Any]:
    """An ordinary connection (autocommit), or a walsender with `replication="database"`. EtlError says what is wrong."""
    try:
        return psycopg.connect(connection_string(source, password, **extra), autocommit=True)
    except psycopg.Error as error:
        raise connection_trouble(error, source) from None


def connection_trouble(error: Exception, source: Source) -> EtlError:
    """Why a connection could not be made, with its remedy. The server gives no code before login, so its words decide."""
    place = f"source {source.name}"
    text = str(error).replace(str(source.pg_host), source.pg_host)
    where = f"{source.pg_host}:{source.pg_port}"
    if "authentication failed" in text or "no password supplied" in text:
        reason = f"{where} refused user {source.pg_username}: wrong password or user"
        return EtlError(Kind.SOURCE_AUTH, place, reason, "correct pg_username and pg_password of the source")
    if "no pg_hba.conf entry" in text:
        reason = f"{where} has no pg_hba.conf entry for user {source.pg_username}"
        remedy = "add a pg_hba.conf line for this host, database and replication"
        if "no encryption" in text:
            remedy = f"{remedy}; where it takes TLS alone, set pg_tls_mode = 'require' or better"
        return EtlError(Kind.SOURCE_AUTH, place, reason, remedy)
    if "database" in text and "does not exist" in text:
        reason = f"database {source.pg_database} does not exist on {where}"
        return EtlError(Kind.SOURCE_SETUP, place, reason, "correct pg_database of the source")
    if "role" in text and "does not exist" in text:
        reason = f"user {source.pg_username} does not exist on {where}"
        return EtlError(Kind.SOURCE_AUTH, place, reason, "correct pg_username of the source")
    if "must be superuser or replication role" in text or "permission denied to start WAL sender" in text:
        reason = f"user {source.pg_username} may not replicate"
        return EtlError(Kind.SOURCE_SETUP, place, reason, f"ALTER ROLE {source.pg_username} REPLICATION")
    if "certificate" in text or "SSL" in text or "channel binding" in text:
        return _tls_trouble(text, source, place, where)
    reason = f"{where} does not answer"
    return EtlError(Kind.SOURCE_UNREACHABLE, place, reason, "check pg_host, pg_port and the network", transient=True)


def _tls_trouble(text: str, source: Source, place: str, where: str) -> EtlError:
    """libpq's words on TLS, most particular first."""
    mode, authority = source.tls["sslmode"], source.pg_tls_ca
    if "root certificate file" in text or "certificate file" in text:
        reason = f"the authority {authority or '~/.postgresql/root.crt'} can't be read (pg_tls_mode {mode})"
        remedy = "set pg_tls_ca to a PEM file that this user may read, or to `system` for the machine's authorities"
    elif "does not support SSL" in text:
        reason, remedy = f"{where} offers no TLS, and pg_tls_mode {mode} asks for it", "set ssl = on in PostgreSQL"
    elif "does not match host name" in text:
        reason = f"the certificate of {where} is for another host"
        remedy = "write pg_host as the certificate has it, or have one made for this name"
    elif "certificate verify failed" in text or "unknown ca" in text:
        reason = f"the certificate of {where} is not good: not signed by {authority}, or expired"
        remedy = "set pg_tls_ca to the authority that signed it"
    elif "channel binding" in text:
        reason = f"{where} does not bind the login to this TLS connection: somebody may stand between"
        remedy = "find out who answers there; a server without SCRAM or TLS needs pg_channel_binding = 'prefer'"
    else:
        reason, remedy = (
            f"TLS with {where} failed (pg_tls_mode {mode})",
            "check pg_tls_mode and pg_tls_ca of the source",
        )
    return EtlError(Kind.SOURCE_SETUP, place, reason, remedy)


def broken_off(error: psycopg.Error | BrokenOffError, source: Source) -> EtlError:
    """A connection that was made broke off in the middle of something."""
    told = error.diag.message_primary if isinstance(error, psycopg.Error) else str(error)
    reason = f"the connection broke off: {told or type(error).__name__}"
    return EtlError(Kind.STREAM, f"source {source.name}", reason, "it is made again by itself", transient=True)


def keepalive(frame: memoryview) -> tuple[int, bool]:
    """The position and the wish for an answer in a keepalive ('k' position(8) clock(8) wish(1)).

    EtlError(PROTOCOL) for anything else that a walsender may not send between XLogData frames.
    """
    kind = frame[:1].tobytes()
    if kind != b"k":
        raise broken("XLogData" if kind == b"w" else "unknown", "header")
    if len(frame) != 1 + _KEEPALIVE_BODY.size:
        raise broken("keepalive", "length")
    wal_end, _, wants_reply = _KEEPALIVE_BODY.unpack_from(frame, 1)
    if wal_end > POSITION_MAX:
        raise broken("keepalive", "position")
    return wal_end, bool(wants_reply)


@dataclass(frozen=True, slots=True)
class Slot:
    """A slot just made: where it begins, and the snapshot that shows the database as of then (None when not exported)."""

    name: str
    consistent_point: int
    snapshot: str | None


class ReplicationStream:
    """A walsender connection. EtlError(STREAM) when it breaks off; the slot has everything that was not confirmed."""

    def __init__(self, source: Source, password: str | None) -> None:
        self._place = f"source {source.name}"
        self._connection = connect(source, password, replication="database")
        self._pg = self._connection.pgconn
        self._pg.nonblocking = 1
        self._copy: CopyBoth | None = None
        self.wal_end = 0  # the newest position the walsender has told
        self.reply_requested = False
        self.heard = time.monotonic()

    def fileno(self) -> int:
        """For selectors."""
        return self._pg.socket

    @property
    def backend_pid(self) -> int:
        """The walsender's process id."""
        return self._connection.info.backend_pid

    def wait(self, seconds: float) -> None:
        """Sleep until there is something to read, at most so long."""
        select.select([self], [], [], seconds)

    # -- commands before the stream

    def identify(self) -> tuple[str, int]:
        """The cluster's system identifier and timeline; needs no privilege but REPLICATION."""
        result = self._command("IDENTIFY_SYSTEM")
        system, timeline = result.get_value(0, 0), result.get_value(0, 1)
        assert system is not None
        assert timeline is not None
        return system.decode(), int(timeline)

    def create_slot(
        self,
        name: str,
        *,
        temporary: bool,
        snapshot: bool,
        limit: float,
        tick: Callable[[], None],
        failover: bool = False,
    ) -> Slot:
        """Create a pgoutput slot. Waits (at most `limit` seconds) for every write transaction that is open now; calls `tick`."""
        kind = " TEMPORARY" if temporary else ""
        wish = f"(SNAPSHOT '{'export' if snapshot else 'nothing'}'{', FAILOVER true' if failover else ''})"
        if self._connection.info.server_version < 150_000:  # the older grammar
            wish = "EXPORT_SNAPSHOT" if snapshot else "NOEXPORT_SNAPSHOT"
        result = self._command(f'CREATE_REPLICATION_SLOT "{name}"{kind} LOGICAL pgoutput {wish}', limit, tick)
        name_, point, exported = (result.get_value(0, column) for column in range(3))
        assert name_ is not None
        assert point is not None
        return Slot(name_.decode(), lsn.parse(point.decode()), exported.decode() if exported else None)

    def set_failover(self, name: str) -> None:
        """Let standbys keep a copy of a slot that was made without (PostgreSQL 17 and newer)."""
        self._command(f'ALTER_REPLICATION_SLOT "{name}" (FAILOVER true)')

    def history(self, timeline: int) -> dict[int, int]:
        """Where each timeline before this one ended: the position at which its successor forked."""
        text = self._command(f"TIMELINE_HISTORY {timeline}").get_value(0, 1)
        assert text is not None
        lines = (line.split() for line in text.decode(errors="replace").splitlines())
        return {int(words[0]): lsn.parse(words[1]) for words in lines if len(words) > 1 and words[0].isdigit()}

    def start(
        self, slot: str, position: int, publications: list[str], *, binary: bool = False, streaming: bool = False
    ) -> None:
        """Begin to stream from `position` (the end of the last transaction that we have).

        `binary`: values in their types' binary forms. `streaming`: large transactions come in pieces, before their commit (protocol 2).
        """
        names = ",".join('"' + name.replace('"', '""') + '"' for name in publications).replace("'", "''")
        options = f"proto_version '{2 if streaming else 1}', publication_names '{names}'"
        options += ", binary 'true'" * binary + ", streaming 'on'" * streaming
        self._copy = copy_both(self._pg)
        with self._translated():
            self._copy.start(
                f'START_REPLICATION SLOT "{slot}" LOGICAL {lsn.text(position)} ({options})', COMMAND_SECONDS_MAX
            )

    def _command(
        self, sql: str, limit: float = COMMAND_SECONDS_MAX, tick: Callable[[], None] = lambda: None
    ) -> pq.abc.PGresult:
        deadline = time.monotonic() + limit
        self._pg.send_query(sql.encode())
        result = None
        while True:
            self._wait_for_result(deadline, tick)
            found = self._pg.get_result()
            if found is None:
                assert result is not None
                return result
            if found.status in (pq.ExecStatus.FATAL_ERROR, pq.ExecStatus.NONFATAL_ERROR):
                raise self._refused(refusal(found))
            result = found

    def _wait_for_result(self, deadline: float, tick: Callable[[], None]) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self, selectors.EVENT_READ)
            while self._pg.flush() == 1 or self._pg.is_busy():
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError
                selector.select(min(left, TICK_SECONDS))
                tick()
                self._consume()

    # -- the stream

    def read(self) -> Chunk | None:
        """XLogData frames that have come, a megabyte at most; None when none is there. Keepalives are noted on the way."""
        assert self._copy is not None, "not started"
        with self._translated():
            try:
                chunk = self._copy.read()
            except ServerError as error:
                if not (failure := failure_of(error)).of_decoding:
                    raise
                raise failure.error(self._place, self.wal_end) from None
        if chunk is None:
            return None
        self.heard = time.monotonic()
        if bool((chunk.end <= chunk.start).any()):
            raise broken("CopyData", "length")
        kinds = chunk.octets[chunk.start]
        if bool((kinds == _XLOG_DATA).all()):
            return chunk
        if bool(((kinds != _XLOG_DATA) & (kinds != _KEEPALIVE)).any()):
            raise broken("CopyData", "kind")
        for number in np.flatnonzero(kinds == _KEEPALIVE).tolist():
            self._note_keepalive(chunk.data[int(chunk.start[number]) : int(chunk.end[number])])
        frames = chunk.pick(kinds == _XLOG_DATA)
        return frames if len(frames) else None

    def status(self, received: int, confirmed: int, *, reply: bool = False) -> None:
        """Tell the walsender how far we are; `reply` asks it to answer (a sign of life). Queued if the socket is full."""
        assert self._copy is not None, "not started"
        now = int(time.time() * 1_000_000) - EPOCH_US
        with self._translated():
            self._copy.send(_STATUS.pack(b"r", received, confirmed, confirmed, now, reply))
        self.reply_requested = False

    def flush(self) -> bool:
        """Send what is queued; True when nothing is left."""
        assert self._copy is not None, "not started"
        with self._translated():
            return self._copy.flush()

    def cut(self) -> None:
        """Break the connection as a network would: for failpoints."""
        with socket.socket(fileno=os.dup(self._pg.socket)) as sock, contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)  # ENOTCONN: the failpoint before had cut it, and the server has said so

    def close(self) -> None:
        """End the connection; the walsender sees it at once and gives the slot free."""
        if self._copy is not None:
            self._copy.close()
        self._connection.close()

    def _note_keepalive(self, frame: memoryview) -> None:
        wal_end, wants_reply = keepalive(frame)
        self.wal_end = max(self.wal_end, wal_end)
        self.reply_requested |= wants_reply

    def _consume(self) -> None:
        try:
            self._pg.consume_input()
        except psycopg.Error as error:
            raise self._broken(str(error)) from None

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """What goes wrong with the stream, in our words."""
        try:
            yield
        except ServerError as error:
            raise self._refused(error) from None
        except BrokenOffError as error:
            raise self._broken(str(error)) from None
        except TimeoutError:
            raise self._broken("START_REPLICATION was not answered") from None

    def _refused(self, error: ServerError) -> EtlError:
        """The server's own error, by its SQLSTATE."""
        state, text = error.sqlstate, error.text
        if state == "55006":  # object_in_use: the old walsender has not noticed yet
            return EtlError(
                Kind.STREAM, self._place, text, "the slot is taken over when its reader is gone", transient=True
            )
        if state == "53400":  # configuration_limit_exceeded
            return EtlError(Kind.SOURCE_SETUP, self._place, text, "raise max_replication_slots and restart PostgreSQL")
        if state == "42501":  # insufficient_privilege
            return EtlError(Kind.SOURCE_SETUP, self._place, text, "give the user the REPLICATION attribute")
        if state in ("42704", "55000") and "publication" not in text:
            return EtlError(Kind.SLOT_LOST, self._place, text, "re-sync the source under a new slot")
        if "publication" in text:
            return EtlError(Kind.SOURCE_SETUP, self._place, text, "create the publication that the source names")
        return self._broken(text or "the server refused a replication command")

    def _broken(self, reason: str) -> EtlError:
        return EtlError(Kind.STREAM, self._place, reason, "it is connected again by itself", transient=True)
