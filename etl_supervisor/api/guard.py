"""What happens to every request before a route sees it, and to every answer: ASGI middleware, in the order in which it is entered.

Record   a request id, security headers, one log line per request, and the error body when a route broke
Rates    so many requests per second of one key or address; the bucket holds two seconds' worth. A key has a bucket of its own from its
         first request on that was let in; until then, and once it is refused, its requests are its address's: keys that are made up get none
Sizes    a body that is larger than allowed is refused, also one that does not say its length
"""

from __future__ import annotations

import hashlib
import ipaddress
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable

import structlog
from fastapi.security.utils import get_authorization_scheme_param
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from etl_supervisor.api.faults import Fault, answer
from etl_supervisor.monitor import metrics

CLIENTS_MAX = 10_000  # buckets that are remembered; the one that was silent longest is forgotten first
BURST_SECONDS = 2.0
KEYS_MAX = 10_000  # keys that are remembered as good; one that is forgotten counts as its address for one request
IPV6_SITE_BITS = 64  # what one customer of a provider has at least: an address in it costs nothing
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Strict-Transport-Security": "max-age=31536000",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}

LET_IN = "let_in"  # of a request's state: the digest of its key, which was good. `access` writes it

log = structlog.get_logger()


class Record:
    """The outermost: what goes out is complete, what came in is logged."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status, request_id = time.perf_counter(), 0, uuid.uuid4().hex

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                metrics.api_request(_route(scope), scope["method"], status, time.perf_counter() - began)
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive, sending)
            finally:
                if not status:  # it broke; the answer is made outside of us
                    status = 500
                    metrics.api_request(_route(scope), scope["method"], status, time.perf_counter() - began)
                milliseconds = round((time.perf_counter() - began) * 1000, 1)
                event = log.debug if scope["path"] in ("/health", "/ready") else log.info
                event("request", method=scope["method"], path=scope["path"], status=status, ms=milliseconds)


class Rates:
    """A bucket per client. `clock` gives seconds."""

    def __init__(self, app: ASGIApp, per_second: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._app, self._per_second, self._clock = app, per_second, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._good: OrderedDict[str, None] = OrderedDict()  # hashes of keys, the one that was silent longest first

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http" or not self._per_second:
            await self._app(scope, receive, send)
            return
        key = _key(scope)
        if not self.take(key if key in self._good else _address(scope)):
            message = f"More than {self._per_second} requests per second"
            response = answer(Fault(429, "RateLimitError", message, {"Retry-After": "1"}, limit=self._per_second))
            await response(scope, receive, send)
            return

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.judge(key, let_in=scope["state"].get(LET_IN) == key, refused=message["status"] == 401)
            await send(message)

        scope.setdefault("state", {})
        await self._app(scope, receive, sending)

    def take(self, client: str) -> bool:
        """One request of a client: whether it may pass."""
        now, full = self._clock(), self._per_second * BURST_SECONDS
        left, at = self._buckets.pop(client, (full, now))
        left = min(full, left + (now - at) * self._per_second)
        self._buckets[client] = (left - 1 if left >= 1 else left, now)
        if len(self._buckets) > CLIENTS_MAX:
            self._buckets.popitem(last=False)
        return left >= 1

    def judge(self, key: str, *, let_in: bool, refused: bool) -> None:
        """What the routes have said of a key. What asks for none (`/health`) says nothing."""
        if let_in:
            self._good[key] = None
            self._good.move_to_end(key)
            if len(self._good) > KEYS_MAX:
                self._good.popitem(last=False)
        elif refused:
            self._good.pop(key, None)


class Sizes:
    """The largest body."""

    def __init__(self, app: ASGIApp, bytes_max: int) -> None:
        self._app, self._bytes_max = app, bytes_max

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "0")
        if not declared.isdecimal() or int(declared) > self._bytes_max:
            await answer(self._fault())(scope, receive, send)
            return
        taken = 0

        async def receiving() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self._bytes_max:
                raise self._fault()
            return message

        await self._app(scope, receiving, send)

    def _fault(self) -> Fault:
        message = f"The body is larger than {self._bytes_max} bytes"
        return Fault(413, "PayloadTooLargeError", message, bytes_max=self._bytes_max)


def _route(scope: Scope) -> str:
    """The template of the route that was found: as many as there are routes, whatever is asked for."""
    template: str | None = getattr(scope.get("route"), "path", None)
    if template is None:
        return "(none)"
    prefix = scope["path"].split("/")[: -template.count("/")]  # of its routers, which the route itself does not know
    return "/".join(prefix) + template


def digest(key: str) -> str:
    """What a key is remembered as: nobody can use it."""
    return hashlib.sha256(key.encode()).hexdigest()


def _key(scope: Scope) -> str:
    """The digest of the key that a route will look at, which may be made up; empty without one."""
    headers = Headers(scope=scope)
    scheme, bearer = get_authorization_scheme_param(headers.get("authorization"))
    key = bearer if scheme.lower() == "bearer" and bearer else headers.get("x-api-key", "")
    return digest(key) if key else ""


def _address(scope: Scope) -> str:
    """Where a request comes from, as far as one customer's network can be told."""
    host = str((scope.get("client") or ("", 0))[0])
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:  # a unix socket, or a proxy's word
        return host
    if isinstance(address, ipaddress.IPv6Address):
        return str(address.ipv4_mapped or ipaddress.ip_network((address, IPV6_SITE_BITS), strict=False))
    return str(address)
