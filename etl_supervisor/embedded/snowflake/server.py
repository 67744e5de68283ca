"""The web application: the connector's and the SDK's protocols on one TLS port, and a door for tests.

    GET  /__local/state     channels, their tokens and counters, what is pending
    POST /__local/set       {"commit_delay_s": 2.0, "blackhole": true, "minute_s": 1,
                             "faults": [{"path": regex, "method": "POST", "count": 1, "skip": 0, "status": 503, "body": {}, "apply": false}],
                             "reject": [{"table": "LANDING_T", "column": "NOTE", "like": "bad%"}]}

`blackhole` accepts every request and answers none, as a destination that hangs does; `faults` answer wrongly, after or without doing the work;
`reject` refuses rows as Snowflake does: they are counted, and the token passes them.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from etl_supervisor.embedded.snowflake.certificates import certificates_in
from etl_supervisor.embedded.snowflake.sql import routes as sql_routes
from etl_supervisor.embedded.snowflake.sql import tasks_of
from etl_supervisor.embedded.snowflake.streaming import Streaming
from etl_supervisor.embedded.snowflake.tasks import Tasks
from etl_supervisor.embedded.snowflake.warehouse import Warehouse

SHUTDOWN_SECONDS = 3
DOOR = "/__local"


class Faults:
    """ASGI middleware: answers wrongly, or not at all, when told to."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.blackhole = asyncio.Event()  # set: requests are answered
        self.blackhole.set()
        self.faults: list[dict[str, Any]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http" or scope["path"].startswith(DOOR):
            await self.app(scope, receive, send)
            return
        await self.blackhole.wait()
        fault = self._match(scope)
        if fault is None:
            await self.app(scope, receive, send)
            return
        if fault.get("apply"):
            await self.app(scope, receive, _nowhere)
        answer = JSONResponse(fault.get("body", {"code": "INJECTED", "message": "injected"}), fault.get("status", 503))
        await answer(scope, receive, send)

    def _match(self, scope: Scope) -> dict[str, Any] | None:
        for fault in self.faults:
            if fault["count"] > 0 and re.search(fault["path"], scope["path"]):
                if fault.get("method", scope["method"]) != scope["method"]:
                    continue
                if fault.get("skip", 0) > 0:
                    fault["skip"] -= 1
                    continue
                fault["count"] -= 1
                return fault
        return None


async def _nowhere(_: Any) -> None:
    return


def application(warehouse: Warehouse, streaming: Streaming, tasks: Tasks) -> Starlette:
    """All routes, and beside them the committer and what runs tasks."""

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        beside = [asyncio.create_task(forever) for forever in (streaming.commit_forever(), tasks.run_forever())]
        yield
        for each in beside:
            each.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await each

    return Starlette(routes=[*sql_routes(warehouse, tasks), *streaming.routes()], lifespan=lifespan)


def _door(faults: Faults, streaming: Streaming, tasks: Tasks) -> list[Route]:
    async def state(_: Request) -> Response:
        channels = {"|".join(key): {**c.status(), "pending": len(c.pending)} for key, c in streaming.channels.items()}
        return JSONResponse({"channels": channels})

    async def change(request: Request) -> Response:
        wanted = await request.json()
        if "commit_delay_s" in wanted:
            streaming.commit_delay_seconds = float(wanted["commit_delay_s"])
        if "minute_s" in wanted:
            tasks.minute_seconds = float(wanted["minute_s"])
        if "faults" in wanted:
            faults.faults = wanted["faults"]
        if "reject" in wanted:
            streaming.reject = wanted["reject"]
        if "blackhole" in wanted:
            (faults.blackhole.clear if wanted["blackhole"] else faults.blackhole.set)()
        return JSONResponse({})

    return [Route(f"{DOOR}/state", state), Route(f"{DOOR}/set", change, methods=["POST"])]


def serve(directory: Path, port: int, commit_delay_seconds: float) -> None:
    """Serve until SIGTERM or Ctrl-C; everything committed is in the files then."""
    files = certificates_in(directory / "tls")
    warehouse = Warehouse(directory / "data")
    streaming = Streaming(warehouse, commit_delay_seconds)
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
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(server))
    warehouse.close()


async def _serve(server: uvicorn.Server) -> None:
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, lambda: setattr(server, "should_exit", True))
    await server.serve()
