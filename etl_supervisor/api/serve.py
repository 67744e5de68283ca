"""An HTTP server for the application, on a socket of our own: an address that is taken is one clear line, not a traceback.

uvicorn's own signal handling is left out: SIGTERM ends it in order (running requests are answered, event streams cut), Ctrl-C is the terminal's.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import structlog
import uvicorn

from etl_supervisor.api.access import is_loopback
from etl_supervisor.api.app import create_app
from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.monitor import logs, metrics

if TYPE_CHECKING:
    from etl_supervisor.config.settings import Settings

ADDRESS_ALONE = "127.0.0.1:8000"
GRACE_SECONDS = 5  # a request that takes longer is cut; event streams are, too
BACKLOG = 512
KEEP_ALIVE_SECONDS = 15

log = structlog.get_logger()


class Server(uvicorn.Server):
    """uvicorn without its signal handlers; `on_beat` is called while its loop turns."""

    def __init__(self, config: uvicorn.Config, on_beat: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_beat = on_beat

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are ours."""
        yield

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second."""
        self._on_beat()
        return await super().on_tick(counter)


def check(settings: Settings, address: str) -> None:
    """EtlError(CONFIG) when the API would be open to the world without keys."""
    host = address.rpartition(":")[0]
    if settings.api_auth == "disabled" and not is_loopback(host):
        reason = f"API_AUTH=disabled, but {address} can be reached by others"
        raise EtlError(Kind.CONFIG, "API_AUTH", reason, "listen on 127.0.0.1, or set API_AUTH=required")


def listen(address: str) -> socket.socket:
    """EtlError(CONFIG) when the address can't be listened on."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]") or "::"
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(
        family, socket.SOCK_STREAM, socket.IPPROTO_TCP
    )  # named, or asyncio leaves Nagle's 40 ms in
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind((host, int(port)))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        reason = f"can't listen on {address}: {error.strerror or type(error).__name__}"
        raise EtlError(Kind.CONFIG, "API_ADDR", reason, "set API_ADDR to a free address of this machine") from None
    return listener


def serve(
    settings: Settings,
    address: str,
    on_ready: Callable[[], None] = lambda: None,
    on_beat: Callable[[], None] = lambda: None,
) -> None:
    """Answer until SIGTERM (alone also Ctrl-C). EtlError(CONFIG) for what is wrong with the settings."""
    check(settings, address)
    app = create_app(settings)
    with contextlib.closing(listen(address)) as listener:
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
        asyncio.run(_run(Server(config, on_beat), listener, on_ready))


def serve_alone(settings: Settings, address: str | None = None) -> None:
    """As `serve`; with METRICS_ADDR set the API's own metrics are told there (beside a supervisor its monitor does that)."""
    if "metrics_addr" in settings.model_fields_set:
        _tell_metrics(settings.metrics_addr)
    serve(settings, address or settings.api_addr or ADDRESS_ALONE)


def _tell_metrics(address: str) -> None:
    try:
        metrics.serve(address, [metrics.API_REQUESTS, metrics.API_SECONDS, metrics.API_POOL])
    except OSError as error:
        reason = f"can't listen on {address}: {error.strerror or type(error).__name__}"
        remedy = "set METRICS_ADDR to a free address; the API answers without metrics"
        logs.error_line(log, "metrics_not_served", EtlError(Kind.CONFIG, "metrics endpoint", reason, remedy))


async def _run(server: Server, listener: socket.socket, on_ready: Callable[[], None]) -> None:
    def stop() -> None:
        server.should_exit = True

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        loop.add_signal_handler(signal.SIGINT, stop)
    loop.call_soon(on_ready)
    await server.serve(sockets=[listener])
