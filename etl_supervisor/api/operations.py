"""What takes longer than a request: it is answered with 202 and an operation, which is looked at until it is over.

    running -> succeeded (result)          the row is written before the work begins, and by the one who does it
            -> failed    (error, as every error of the API)

Work runs in threads of the process that took the request. The process says every few seconds of all of its operations that they run or wait for a
thread; when it dies, an operation is told as failed once it has been silent for LOST_SECONDS. Nothing is done twice by itself: what was asked for is
looked at, and asked for again.
What may take hours has threads of its own, which neither hold up the rest nor the end of the process.
"""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any, Literal

import orjson
import psycopg
import structlog
from psycopg.types.json import Jsonb
from pydantic import BaseModel, Field

from etl_supervisor.api import audit, faults
from etl_supervisor.api.caller import Caller
from etl_supervisor.api.faults import ErrorBody, Fault
from etl_supervisor.api.pool import Connection, Pool
from etl_supervisor.errors import EtlError

THREADS = 4
LONG_MAX = 2  # of those that may take hours, at a time: each has two connections and a part of the memory
BEAT_SECONDS = 5.0
LOST_SECONDS = 30
KEPT_DAYS = 30

_COLUMNS = "id, kind, target, who, status, result, error, created_at, finished_at"
_LISTED = (
    f"SELECT {_COLUMNS} FROM app.operations WHERE (%(tenant)s::text IS NULL OR tenant = %(tenant)s)"
    " AND (%(status)s::text IS NULL OR status = %(status)s)"
    " AND (%(moment)s::timestamptz IS NULL OR (created_at, id) < (%(moment)s, %(key)s::uuid))"
    " ORDER BY created_at DESC, id DESC LIMIT %(limit)s"
)
_LOST = Jsonb(
    faults.body("OperationLostError", "The process that worked at it ended; look what it did, and ask again", {})
)

Status = Literal["running", "succeeded", "failed"]

log = structlog.get_logger()


class Operation(BaseModel):
    """One of them. `target` is what it works at, like `source 1`."""

    id: uuid.UUID
    kind: str
    target: str
    who: str
    status: Status
    result: dict[str, Any] | None = Field(description="What came of it, when it succeeded")
    error: ErrorBody | None = Field(description="Why it failed")
    created_at: datetime
    finished_at: datetime | None


class Crew:
    """The threads that work at operations."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="operation")
        self._long = threading.BoundedSemaphore(LONG_MAX)
        self._open: set[uuid.UUID] = set()  # what runs or waits here
        self._closed = threading.Event()
        self._beating = threading.Lock()  # taken for good by the thread that beats

    def begin(
        self, caller: Caller, tenant: str, what: tuple[str, str], work: Callable[[], dict[str, Any]]
    ) -> Operation:
        """Write it down, and begin. `what` is (kind, target); `work` gives the result or raises."""
        begun = self._written(caller, tenant, what)
        self._threads.submit(self._work, begun.id, work)
        return begun

    def begin_long(
        self, caller: Caller, tenant: str, what: tuple[str, str], work: Callable[[], dict[str, Any]]
    ) -> Operation:
        """The same for what may take hours; it may wait for its turn."""

        def in_turn() -> dict[str, Any]:
            with self._long:
                return work()

        begun = self._written(caller, tenant, what)
        # Not a pool of concurrent.futures: a process's end would wait for its threads.
        threading.Thread(target=self._work, args=(begun.id, in_turn), name="operation-long", daemon=True).start()
        return begun

    def close(self) -> None:
        """What has not begun does not begin; it will be told as lost."""
        self._closed.set()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _written(self, caller: Caller, tenant: str, what: tuple[str, str]) -> Operation:
        key, (kind, target) = uuid.uuid4(), what
        with self._pool.transaction() as connection:
            connection.execute(
                "DELETE FROM app.operations WHERE created_at < now() - make_interval(days => %s)", [KEPT_DAYS]
            )
            row = connection.execute(
                (
                    "INSERT INTO app.operations (id, tenant, who, kind, target, status)"
                    f" VALUES (%s, %s, %s, %s, %s, 'running') RETURNING {_COLUMNS}"
                ).encode(),
                [key, tenant, caller.name, kind, target],
            ).fetchone()
            assert row is not None
            audit.note(connection, caller, kind, ("Operation", target), tenant=tenant)
        self._open.add(key)
        if self._beating.acquire(blocking=False):
            threading.Thread(target=self._beat, name="operation-beat", daemon=True).start()
        return Operation(**row)

    def _work(self, key: uuid.UUID, work: Callable[[], dict[str, Any]]) -> None:
        outcome: tuple[str, Jsonb | None, Jsonb | None]
        try:
            outcome = ("succeeded", Jsonb(work(), _dumps), None)
        except (Fault, EtlError) as error:
            outcome = ("failed", None, _told(error))
        except Exception:
            log.exception("operation_failed", operation=str(key))
            fault = Fault(500, "InternalServerError", "Something went wrong; the log of the API says what")
            outcome = ("failed", None, _told(fault))
        self._open.discard(key)
        with self._pool.transaction() as connection:
            connection.execute(
                "UPDATE app.operations SET status = %s, result = %s, error = %s, finished_at = now() WHERE id = %s",
                [*outcome, key],
            )

    def _beat(self) -> None:
        """Say that what is open here is: until the end."""
        while not self._closed.wait(BEAT_SECONDS):
            if not (mine := list(self._open)):
                continue
            with contextlib.suppress(psycopg.Error, EtlError), self._pool.transaction() as connection:
                connection.execute("UPDATE app.operations SET beat_at = now() WHERE id = ANY(%s)", [mine])


def one(connection: Connection, caller: Caller, key: uuid.UUID) -> Operation:
    """Fault 404 when there is none, or it is another tenant's."""
    _tell_lost(connection)
    query = f"SELECT {_COLUMNS} FROM app.operations WHERE id = %(key)s AND (%(tenant)s::text IS NULL OR tenant = %(tenant)s)"
    row = connection.execute(query.encode(), {"key": key, "tenant": caller.tenant}).fetchone()
    if row is None:
        raise faults.not_found("Operation", key)
    return Operation(**row)


def listed(
    connection: Connection, caller: Caller, status: Status | None, before: tuple[datetime, uuid.UUID] | None, limit: int
) -> list[Operation]:
    """The newest first, behind a moment and id."""
    _tell_lost(connection)
    moment, key = before or (None, None)
    asked = {"tenant": caller.tenant, "status": status, "moment": moment, "key": key, "limit": limit}
    return [Operation(**row) for row in connection.execute(_LISTED.encode(), asked)]


def _tell_lost(connection: Connection) -> None:
    connection.execute(
        "UPDATE app.operations SET status = 'failed', error = %s, finished_at = now()"
        " WHERE status = 'running' AND beat_at < now() - make_interval(secs => %s)",
        [_LOST, LOST_SECONDS],
    )


def _told(error: Fault | EtlError) -> Jsonb:
    fault = faults.from_etl_error(error) if isinstance(error, EtlError) else error
    return Jsonb(faults.body(fault.error, fault.message, fault.details))


def _dumps(value: object) -> bytes:
    return orjson.dumps(value, default=str)
