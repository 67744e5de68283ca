"""Spans of batches, when a collector is set (OTEL_EXPORTER_OTLP_ENDPOINT). Without one nothing is imported, and a batch costs a comparison.

    reader   decode                             the sampler decides here, once per batch
    actor    share, encode, append, durable     parent: the context that came with the segment (`model.trace`)
    actor    apply                              links to the batches that it moved; followed when one of them is

A span is recorded when it has ended, with the time at which it began: nothing is left open by a crash, and no object crosses threads. What delivers
the spans is `otel`: it is begun in each child after the fork, has a thread and a bounded queue of its own, and never makes anybody wait.

Facts are numbers and names: never a row's value, never a secret.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import structlog

from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.model.trace import Trace
from etl_supervisor.monitor import logs

if TYPE_CHECKING:
    from etl_supervisor.monitor.otel import Recorder

Facts = Mapping[str, str | int]
QUEUE_SPANS_MAX = 2048  # the standard's default: some MB

_recorder: Recorder | None = None

log = structlog.get_logger()


def begin(endpoint: str, process: str) -> None:
    """Follow batches from now on. Without the packages that takes one line of the log says so, and data goes on."""
    global _recorder
    try:
        _recorder = importlib.import_module("etl_supervisor.monitor.otel").Recorder(endpoint, process)
    except ModuleNotFoundError as error:
        _tell_off(f"there is no module {error.name}", "pip install 'etl-supervisor[otel]'")
    except Exception as error:  # whatever the SDK makes of its variables: rows do not wait for it
        _tell_off(f"OpenTelemetry's SDK does not begin: {type(error).__name__}", "correct the OTEL_* variables")


def end() -> None:
    """Deliver what waits, within a limit."""
    global _recorder
    recorder, _recorder = _recorder, None
    if recorder is not None:
        recorder.close()


def on() -> bool:
    """Whether batches may be followed."""
    return _recorder is not None


def record(
    name: str,
    began_ns: int,
    facts: Facts,
    *,
    parent: Trace | None = None,
    links: Sequence[Trace] = (),
    error: str = "",
) -> Trace | None:
    """A span that began then (Unix nanoseconds) and ends now. What hangs on it; None when it is not followed."""
    recorder = _recorder
    if recorder is None:
        return None
    now = time.time_ns()
    try:
        span = recorder.record(name, (began_ns, max(began_ns, now)), facts, parent=parent, links=links, error=error)
    except Exception as fault:  # of the SDK, not of the rows
        end()
        _tell_off(f"OpenTelemetry's SDK fails: {type(fault).__name__}", "report it")
        return None
    return Trace(span, now) if span else None


def _tell_off(reason: str, remedy: str) -> None:
    remedy = f"{remedy}, or do not set it; data goes on without traces"
    logs.error_line(log, "traces_off", EtlError(Kind.CONFIG, "OTEL_EXPORTER_OTLP_ENDPOINT", reason, remedy))
