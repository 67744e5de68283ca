"""The web application: the connector's and the SDK's protocols on one TLS port, and a door for tests.

    GET  /__local/state     channels, their tokens and counters, what is pending; violations of the counting mode; requests by
                            kind, statements by query tag
    POST /__local/set       {"commit_delay_s": 2.0, "blackhole": true, "counting": true, "minute_s": 1,
                             "faults": [{"path": regex, "method": "POST", "count": 1, "skip": 0, …what happens…}],
                             "reject": [{"table": "LANDING_T", "column": "NOTE", "like": "bad%"}]}

What happens to a request that a fault hits (docs/local-snowflake.md has examples):

    "delay_s": 0.5           it waits first; alone, it is answered as usual then
    "sql": "^MERGE"          beside "path": of the statements, those that this regular expression finds
    "status": 503            it is answered so, with "body" and "headers"
    "drop": true             its connection is closed without an answer
    "apply": true            with one of the last two: the work is done before, only the answer is lost

`blackhole` accepts every request and answers none, as a destination that hangs does; `reject` refuses rows as Snowflake does: they are counted, and
the token passes them.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import gzip
import json
import re
import signal
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from etl_supervisor.embedded.snowflake.certificates import certificates_in
from etl_supervisor.embedded.snowflake.parquetload import FileLoader
from etl_supervisor.embedded.snowflake.pipes import Pipes
from etl_supervisor.embedded.snowflake.sql import routes as sql_routes
from etl_supervisor.embedded.snowflake.sql import tasks_of
from etl_supervisor.embedded.snowflake.stages import Stages
from etl_supervisor.embedded.snowflake.streaming import Streaming
from etl_supervisor.embedded.snowflake.tasks import Tasks
from etl_supervisor.embedded.snowflake.users import Users
from etl_supervisor.embedded.snowflake.warehouse import Warehouse

SHUTDOWN_SECONDS = 3
OBJECTS_PER_COLLECTION = (
    50_000  # a statement's tree has thousands: with Python's 700, collecting was an eighth of all CPU
)
DOOR = "/__local"
STREAMING = "/v2/streaming/"


class Faults:
    """ASGI middleware: answers wrongly, or not at all, when told to."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.blackhole = asyncio.Event()  # set: requests are answered
        self.blackhole.set()
        self.faults: list[dict[str, Any]] = []
        self.requests: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http" or scope["path"].startswith(DOOR):
            await self.app(scope, receive, send)
            return
        if scope["path"].startswith("https://"):  # the SDK's uploads through a proxy name the whole address
            scope = {**scope, **{name: urlsplit(scope[name]).path for name in ("path", "raw_path")}}
        if scope["path"].startswith(STREAMING):  # a name may have a slash in it: only what comes percent-encoded tells
            scope = {**scope, "path": scope["raw_path"].decode("ascii")}
        self.requests[_sort_of(scope)] += 1
        await self.blackhole.wait()
        statement = ""
        if scope["path"].endswith("/query-request") and any("sql" in fault for fault in self.faults):
            receive, statement = await _statement(receive)
        fault = self._match(scope, statement)
        if fault is None:
            await self.app(scope, receive, send)
            return
        await asyncio.sleep(fault.get("delay_s", 0))
        if "delay_s" in fault and not {"status", "drop"} & fault.keys():
            await self.app(scope, receive, send)
            return
        if fault.get("apply"):
            await self.app(scope, receive, _nowhere)
        if fault.get("drop"):
            await _hang_up(send)
            return
        body = fault.get("body", {"code": "INJECTED", "message": "injected"})
        answer = JSONResponse(body, fault.get("status", 503), fault.get("headers"))
        await answer(scope, receive, send)

    def _match(self, scope: Scope, statement: str) -> dict[str, Any] | None:
        for fault in self.faults:
            if fault["count"] > 0 and re.search(fault["path"], scope["path"]):
                if "sql" in fault and not re.search(fault["sql"], statement):
                    continue
                if fault.get("method", scope["method"]) != scope["method"]:
                    continue
                if fault.get("skip", 0) > 0:
                    fault["skip"] -= 1
                    continue
                fault["count"] -= 1
                return fault
        return None


def _sort_of(scope: Scope) -> str:
    """`POST rows`, `PUT channels`, …: the last word of a path that is no name."""
    words = re.findall(
        r"hostname|token|pipe-info|bulk-channel-status|rows|filebuffer|channels|local-stage|[a-z-]+request",
        scope["path"],
    )
    return f"{scope['method']} {words[-1] if words else 'other'}"


async def _statement(receive: Receive) -> tuple[Receive, str]:
    """The SQL text of a request, and its body once more."""
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)

    async def again() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    text = gzip.decompress(body) if body.startswith(b"\x1f\x8b") else body
    return again, str(json.loads(text)["sqlText"])


async def _nowhere(_: Any) -> None:
    return


async def _hang_up(send: Send) -> None:
    """Begin an answer and end it before its length: the web server closes the connection (and says so in its log)."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1")]})
    await send({"type": "http.response.body", "body": b""})


def application(warehouse: Warehouse, streaming: Streaming, tasks: Tasks) -> Starlette:
    """All routes, and beside them what commits rows, what loads files and what runs tasks."""
    stages = Stages(warehouse.directory)
    loader = FileLoader(stages, streaming.errors, warehouse, lambda: streaming.reject)
    pipes = Pipes(loader, streaming.users, lambda: streaming.commit_delay_seconds)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        forever = (streaming.commit_forever(), pipes.load_forever(), tasks.run_forever())
        beside = [asyncio.create_task(work) for work in forever]
        yield
        for each in beside:
            each.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await each

    routes = [
        *sql_routes(warehouse, tasks, pipes, streaming.users),
        *stages.routes(),
        *pipes.routes(),
        *streaming.routes(),
    ]
    return Starlette(routes=routes, lifespan=lifespan)


def _door(faults: Faults, streaming: Streaming, tasks: Tasks) -> list[Route]:
    async def state(_: Request) -> Response:
        channels = {"|".join(key): {**c.status(), "pending": len(c.pending)} for key, c in streaming.channels.items()}
        return JSONResponse(
            {
                "channels": channels,
                "violations": streaming.violations,
                "requests": dict(faults.requests),
                "tags": dict(streaming.users.tags),
            }
        )

    async def change(request: Request) -> Response:
        wanted = await request.json()
        if "commit_delay_s" in wanted:
            streaming.commit_delay_seconds = float(wanted["commit_delay_s"])
        if "minute_s" in wanted:
            tasks.minute_seconds = float(wanted["minute_s"])
        if "faults" in wanted:
            faults.faults = wanted["faults"]
        if "counting" in wanted:
            streaming.counting = bool(wanted["counting"])
            streaming.violations.clear()
        if "reject" in wanted:
            streaming.reject = wanted["reject"]
        if "blackhole" in wanted:
            (faults.blackhole.clear if wanted["blackhole"] else faults.blackhole.set)()
        return JSONResponse({})

    return [Route(f"{DOOR}/state", state), Route(f"{DOOR}/set", change, methods=["POST"])]


def serve(directory: Path, port: int, commit_delay_seconds: float, *, counting: bool = False) -> None:
    """Serve until SIGTERM or Ctrl-C; everything committed is in the files then."""
    files = certificates_in(directory / "tls")
    warehouse = Warehouse(directory / "data")
    streaming = Streaming(warehouse, Users(), commit_delay_seconds)
    streaming.counting = counting
    tasks = tasks_of(warehouse)
    app = application(warehouse, streaming, tasks)
    faults = Faults(app)
    app.router.routes.extend(_door(faults, streaming, tasks))
    config = uvicorn.Config(
        faults,
        host="127.0.0.1",
        port=port,
        ssl_certfile=files.server,
        ssl_keyfile=str(files.key),
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        timeout_keep_alive=60,
    )
    server = uvicorn.Server(config)
    gc.freeze()
    gc.set_threshold(OBJECTS_PER_COLLECTION, 20, 20)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(server))
    warehouse.close()


async def _serve(server: uvicorn.Server) -> None:
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, lambda: setattr(server, "should_exit", True))
    await server.serve()
