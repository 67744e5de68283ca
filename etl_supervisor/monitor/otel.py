"""Spans by OpenTelemetry's SDK, as its standard variables (OTEL_*) say; imported only when a collector is set.

    record ─► sampler ─► queue (OTEL_BSP_MAX_QUEUE_SIZE) ─► thread ─► OTLP over HTTP

Who records never waits: a span that finds the queue full is dropped. One that the collector did not take in time is, too; the exporter has tried
again by then. Both are counted (`etl_trace_spans_total`), and the first failure after a success is a line of the log.

The defaults differ from the SDK's in two things: the service is called etl-stream, and one batch in a hundred is followed.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import MutableMapping, Sequence
from typing import Any

import structlog
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk import environment_variables as variables
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from etl_supervisor.model.trace import Trace
from etl_supervisor.monitor import metrics
from etl_supervisor.monitor.tracing import QUEUE_SPANS_MAX, Facts

BATCHES_FOLLOWED = "0.01"  # part of all: a few traces a minute on a busy source
EXPORT_SPANS_MAX = 512  # the standard's default
DELAY_MS = 5000  # the standard's default
CLOSE_SECONDS_MAX = 2.0  # at a child's end, whatever the collector does

# A line for each try, where ours is one for each outage; a header that it can't read, whole: it may be a key.
_SILENT = ("opentelemetry.exporter", "opentelemetry.util.re")

log = structlog.get_logger()


def standard(environment: MutableMapping[str, str], endpoint: str) -> None:
    """Our defaults, where the standard variables say nothing. A sampler that is named has the standard's argument."""
    environment.setdefault(variables.OTEL_EXPORTER_OTLP_ENDPOINT, endpoint)
    if f"{SERVICE_NAME}=" not in environment.get(variables.OTEL_RESOURCE_ATTRIBUTES, ""):
        environment.setdefault(variables.OTEL_SERVICE_NAME, "etl-stream")
    if variables.OTEL_TRACES_SAMPLER not in environment:
        environment[variables.OTEL_TRACES_SAMPLER] = "parentbased_traceidratio"
        environment.setdefault(variables.OTEL_TRACES_SAMPLER_ARG, BATCHES_FOLLOWED)


class Recorder:
    """Makes spans of what has ended. One per process, made after the fork."""

    def __init__(self, endpoint: str, process: str) -> None:
        standard(os.environ, endpoint)
        for name in _SILENT:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        provider = TracerProvider(resource=Resource.create({"etl.process": process}), shutdown_on_exit=False)
        provider.sampler = FollowsLinks(provider.sampler)
        self._delivery = Delivery(OTLPSpanExporter())  # begins a thread: after all that may fail
        provider.add_span_processor(self._delivery)
        self._tracer = provider.get_tracer("etl_stream")
        self._propagator = TraceContextTextMapPropagator()

    def record(
        self,
        name: str,
        times_ns: tuple[int, int],
        facts: Facts,
        *,
        parent: Trace | None,
        links: Sequence[Trace],
        error: str,
    ) -> str:
        """The traceparent of the span that lasted so long; empty when the sampler does not want it."""
        span = self._tracer.start_span(
            name,
            context=self._context(parent) if parent is not None else Context(),
            attributes={f"etl.{key}": value for key, value in facts.items()},
            links=[trace.Link(trace.get_current_span(self._context(link)).get_span_context()) for link in links],
            start_time=times_ns[0],
        )
        if not span.is_recording():
            return ""
        if error:
            span.set_status(trace.Status(trace.StatusCode.ERROR, error))
        span.end(end_time=times_ns[1])
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, trace.set_span_in_context(span))
        return carrier["traceparent"]

    def close(self) -> None:
        """Deliver what waits, within CLOSE_SECONDS_MAX."""
        self._delivery.shutdown()

    def _context(self, of: Trace) -> Context:
        return self._propagator.extract({"traceparent": of.parent}, Context())


class FollowsLinks(Sampler):
    """A span without a parent is followed when one that it links to is; otherwise `inner` decides."""

    def __init__(self, inner: Sampler) -> None:
        self._inner = inner

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: Any = None,
        attributes: Any = None,
        links: Sequence[trace.Link] | None = None,
        trace_state: Any = None,
    ) -> SamplingResult:
        """The SDK asks at each start of a span."""
        if links and any(link.context.trace_flags.sampled for link in links):
            return SamplingResult(Decision.RECORD_AND_SAMPLE, attributes)
        return self._inner.should_sample(parent_context, trace_id, name, kind, attributes, links, trace_state)

    def get_description(self) -> str:
        """For the SDK's own logs."""
        return f"FollowsLinks({self._inner.get_description()})"


class Delivery(SpanProcessor):
    """The queue and its thread."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._queue: queue.Queue[ReadableSpan] = queue.Queue(
            _number(variables.OTEL_BSP_MAX_QUEUE_SIZE, QUEUE_SPANS_MAX)
        )
        self._spans_max = _number(variables.OTEL_BSP_MAX_EXPORT_BATCH_SIZE, EXPORT_SPANS_MAX)
        self._delay = _number(variables.OTEL_BSP_SCHEDULE_DELAY, DELAY_MS) / 1000
        self._wanted = threading.Event()
        self._ending = self._failing = False
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)
        self._thread.start()

    def on_end(self, span: ReadableSpan) -> None:
        """Queue it, or drop it."""
        try:
            self._queue.put_nowait(span)
        except queue.Full:
            metrics.TRACE_SPANS.labels("dropped").inc()
        if self._queue.qsize() >= self._spans_max:
            self._wanted.set()

    def shutdown(self) -> None:
        """Deliver what waits, within CLOSE_SECONDS_MAX; what is left then is dropped."""
        deadline = time.monotonic() + CLOSE_SECONDS_MAX
        self._ending = True
        self._wanted.set()
        self._thread.join(CLOSE_SECONDS_MAX / 2)
        self._exporter.shutdown()  # ends the pause between two tries
        self._thread.join(max(0.0, deadline - time.monotonic()))
        metrics.TRACE_SPANS.labels("dropped").inc(self._queue.qsize())

    def _run(self) -> None:
        while not self._ending:
            self._wanted.wait(self._delay)
            self._wanted.clear()
            self._deliver()

    def _deliver(self) -> None:
        """Everything that waits now, so many spans at a time."""
        while not self._queue.empty():
            spans = [self._queue.get_nowait() for _ in range(min(self._spans_max, self._queue.qsize()))]
            good = self._export(spans)
            metrics.TRACE_SPANS.labels("sent" if good else "dropped").inc(len(spans))
            if good == self._failing:  # news
                self._failing = not good
                log.warning("traces_delivered_again" if good else "traces_not_delivered", spans=len(spans))

    def _export(self, spans: list[ReadableSpan]) -> bool:
        try:
            return self._exporter.export(spans) is SpanExportResult.SUCCESS
        except Exception:  # a fault of the exporter must not end its thread
            return False


def _number(variable: str, default: int) -> int:
    """A positive number of the environment; what is none counts as not set."""
    text = os.environ.get(variable, "")
    return int(text) if text.isdecimal() and int(text) > 0 else default
