"""Operations, and a stream of events.

Events are Server-Sent Events: what people change (from the audit log; its id is the event's, so a client that comes back with Last-Event-ID misses
none), and the sources whose state or trouble has changed. Each stream is a look at both every second, and a comment when there is nothing, so that a
client that is gone is noticed.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Header, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

from etl_supervisor.api import audit, faults, operations, rows
from etl_supervisor.api.access import Viewer
from etl_supervisor.api.bodies import Page
from etl_supervisor.api.caller import Caller
from etl_supervisor.api.control import Control, ControlOf
from etl_supervisor.api.cursors import after_moment, moment_cursor, page_of
from etl_supervisor.api.operations import Operation
from etl_supervisor.api.routes.health import reader_trouble
from etl_supervisor.api.routes.resources import LIMIT_MAX, Filters, desk_of
from etl_supervisor.errors import EtlError

LOOK_SECONDS = 1.0
STREAMS_MAX = 50  # of one process; each is a query and a look into the state store every second
STREAM_SECONDS_MAX = 600.0  # then the client comes back by itself, with its key looked at anew
EVENT_ID = r"^[0-9]{1,18}$"  # less than the largest bigint has
ENTRIES_MAX = 100  # at a time; the rest comes a second later

_EVENT = {
    "type": "object",
    "properties": {
        "event": {"enum": ["change", "source", "trouble"]},
        "id": {"type": "string", "description": "Of a change: for Last-Event-ID"},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
}

router = APIRouter(tags=["watching"])
_streams = asyncio.Semaphore(STREAMS_MAX)


class OperationFilters(Filters):
    """Which operations; a parameter that is not known is refused."""

    status: operations.Status | None = None


@router.get("/operations", summary="List operations")
def list_operations(
    control: ControlOf, caller: Viewer, filters: Annotated[OperationFilters, Query()]
) -> Page[Operation]:
    """The newest first; those of the last 30 days."""
    before = after_moment(filters.cursor, uuid.UUID)
    with control.pool.transaction() as connection:
        found = operations.listed(connection, caller, filters.status, before, filters.limit + 1)
    return Page[Operation](**page_of(found, filters.limit, lambda last: moment_cursor(last.created_at, last.id)))


@router.get("/operations/{key}", summary="Read an operation")
def read_operation(key: uuid.UUID, control: ControlOf, caller: Viewer) -> Operation:
    """Until its status is no longer `running`."""
    with control.pool.transaction() as connection:
        return operations.one(connection, caller, key)


@router.get(
    "/events",
    summary="Follow what happens",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {"schema": _EVENT}}}},
)
async def follow(
    request: Request,
    control: ControlOf,
    caller: Viewer,
    last_event_id: Annotated[str | None, Header(pattern=EVENT_ID)] = None,
) -> StreamingResponse:
    """`change` (an entry of the audit log) and `source` (its reader's state and trouble), as Server-Sent Events."""
    if _streams.locked():
        raise faults.Fault(503, "TooManyStreamsError", f"{STREAMS_MAX} streams are open", {"Retry-After": "10"})
    after = None if last_event_id is None else int(last_event_id)
    return StreamingResponse(_events(request, control, caller, after), media_type="text/event-stream")


async def _events(request: Request, control: Control, caller: Caller, after: int | None) -> AsyncIterator[bytes]:
    told: dict[str, Any] = {}
    async with _streams:
        after = await run_in_threadpool(_newest, control, caller) if after is None else after
        until = time.monotonic() + STREAM_SECONDS_MAX
        while time.monotonic() < until and not await request.is_disconnected():
            lines: list[bytes] = []
            try:
                entries, sources = await run_in_threadpool(_look, control, caller, after)
            except EtlError as error:
                entries, sources = [], {}
                lines.append(_event("trouble", {"reason": error.reason}))
            for entry in entries:
                after = entry["id"]
                lines.append(_event("change", entry, after))
            lines += [
                _event("source", {"source": name} | state) for name, state in sources.items() if told.get(name) != state
            ]
            told |= sources
            yield b"".join(lines) or b": nothing\n\n"
            await asyncio.sleep(LOOK_SECONDS)


def _newest(control: Control, caller: Caller) -> int:
    with control.pool.transaction() as connection:
        newest = audit.listed(connection, caller, 0, 1)
        return int(newest[0]["id"]) if newest else 0


def _look(control: Control, caller: Caller, after: int) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]]]:
    with desk_of(control, caller) as desk:
        entries = audit.listed(desk.connection, caller, after, ENTRIES_MAX, newest_first=False)
        sources = [row["name"] for row in rows.listed(desk, rows.SOURCE, {}, 0, LIMIT_MAX)]
    now, found = time.time(), {}
    with control.store() as store:
        for name in sources:
            report = store.report(name)
            if report is not None:
                found[name] = {"state": report.state, "trouble": report.trouble or reader_trouble(report, now)}
    return entries, found


def _event(kind: str, data: dict[str, Any], key: int | None = None) -> bytes:
    head = f"event: {kind}\n" + (f"id: {key}\n" if key is not None else "")
    return head.encode() + b"data: " + orjson.dumps(data, default=str) + b"\n\n"
