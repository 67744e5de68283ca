"""A collector of OpenTelemetry for tests: takes OTLP over HTTP and keeps the spans, as the exporter's protobuf has them."""

from __future__ import annotations

import contextlib
import gzip
import importlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

try:
    importlib.import_module("opentelemetry.exporter.otlp.proto.http")
    importlib.import_module("opentelemetry.sdk")
except ModuleNotFoundError:
    INSTALLED = False  # the extra `otel`
else:
    INSTALLED = True


@dataclass(frozen=True)
class Seen:
    """A span. `links` are (trace id, span id); `facts` are its attributes, `resource` those of its process."""

    name: str
    trace: bytes
    id: bytes
    parent: bytes
    began: int
    ended: int
    facts: dict[str, Any]
    links: list[tuple[bytes, bytes]]
    error: str
    resource: dict[str, Any]


class Collector(ThreadingHTTPServer):
    """`status` is what it answers; spans of requests that were answered with 200 are kept."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Take)
        self.status = 200
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.raw = b""
        self._spans: list[Seen] = []
        self._lock = threading.Lock()

    @property
    def endpoint(self) -> str:
        """For OTEL_EXPORTER_OTLP_ENDPOINT."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def spans(self) -> list[Seen]:
        """What has come so far."""
        with self._lock:
            return list(self._spans)

    def named(self, name: str) -> list[Seen]:
        """The spans of a name."""
        return [span for span in self.spans if span.name == name]

    def take(self, path: str, headers: dict[str, str], body: bytes) -> None:
        """A request has come."""
        with self._lock:
            self.requests.append((path, headers))
            if self.status == 200:
                self.raw += body
                self._spans += _read(body)


class _Take(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        plain = gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
        self.server.take(self.path, dict(self.headers), plain)
        self.send_response(self.server.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Nothing."""


def _read(body: bytes) -> Iterator[Seen]:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    for of_process in ExportTraceServiceRequest.FromString(body).resource_spans:
        resource = _plain(of_process.resource.attributes)
        for span in (span for scope in of_process.scope_spans for span in scope.spans):
            yield Seen(
                span.name,
                span.trace_id,
                span.span_id,
                span.parent_span_id,
                span.start_time_unix_nano,
                span.end_time_unix_nano,
                _plain(span.attributes),
                [(link.trace_id, link.span_id) for link in span.links],
                span.status.message if span.status.code == 2 else "",
                resource,
            )


def _plain(attributes: Any) -> dict[str, Any]:
    return {item.key: getattr(item.value, item.value.WhichOneof("value")) for item in attributes}


@contextlib.contextmanager
def collecting() -> Iterator[Collector]:
    """One that listens, until the end of the block."""
    with Collector() as collector:
        thread = threading.Thread(target=collector.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield collector
        finally:
            collector.shutdown()
            thread.join()
