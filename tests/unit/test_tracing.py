"""Spans: what is followed, how they hang together, and that nobody ever waits for a collector."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from etl_supervisor.ipc import wire
from etl_supervisor.ipc.messages import OpenTable, Segment
from etl_supervisor.model.pipeline import Destination
from etl_supervisor.model.position import Position
from etl_supervisor.model.table import Table, TableName
from etl_supervisor.model.trace import Trace
from etl_supervisor.monitor import metrics, tracing
from tests.support.collector import INSTALLED, collecting
from tests.support.fix_deployment import wait_for
from workers.snowflake.channel import Underway
from workers.snowflake.traces import LINKS_MAX, Followed, shared, stage

needs_otel = pytest.mark.skipif(not INSTALLED, reason="the extra `otel` is not installed")


@pytest.fixture
def begin(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Follow batches, with these standard variables; the rest of the environment is as it was afterwards."""
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    with contextlib.ExitStack() as stack:
        before = dict(os.environ)

        def begun(endpoint: str, **variables: str) -> None:
            os.environ.update(variables)
            tracing.begin(endpoint, "a-test")

        stack.callback(lambda: (os.environ.clear(), os.environ.update(before)))
        stack.callback(tracing.end)
        yield begun


def counted(result: str) -> float:
    return metrics.TRACE_SPANS.labels(result)._value.get()  # type: ignore[no-any-return]


def token(commit: int) -> str:
    return Position(7, commit, commit, 0).token


def segment(seq: int, trace: Trace | None) -> Segment:
    return Segment(1, seq, 0, 1, 4096, 5, token(seq * 10), token(seq * 10 + 5), 0, trace=trace)


def opening() -> OpenTable:
    there = Destination(1, "d", "snowflake", "a", "u", "DB", "RAW", None, None, "key.p8", None, None, "ETL", 1.0)
    return OpenTable(1, 1, "shop", "o/s", 1, 7, "channel-1", there, Table(TableName("public", "t"), 1, ()), "")


def test_without_a_collector_nothing_is_followed_and_nothing_is_imported() -> None:
    assert not tracing.on()
    assert tracing.record("decode", 0, {"rows": 1}) is None
    program = (
        "import sys, workers.reader.entry, workers.snowflake.process, etl_supervisor.supervision.supervisor;"
        "sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True)


def test_a_segment_takes_its_trace_through_the_mailbox() -> None:
    for trace in (None, Trace("00-7b06e365ca5736908bb29312d6f58a48-b6fc08e0f73d3921-01", 1795288695993588263)):
        assert wire.decode(wire.encode(segment(1, trace))) == segment(1, trace)


def test_without_the_packages_one_line_says_so_and_data_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "etl_supervisor.monitor.otel", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with capture_logs() as lines:
        tracing.begin("http://127.0.0.1:9", "a-test")
    assert lines == [
        {
            "event": "traces_off",
            "log_level": "error",
            "kind": "config",
            "place": "OTEL_EXPORTER_OTLP_ENDPOINT",
            "reason": "there is no module opentelemetry",
            "remedy": "pip install 'etl-supervisor[otel]', or do not set it; data goes on without traces",
        }
    ]
    assert not tracing.on()


@needs_otel
def test_what_the_sdk_can_not_take_is_one_line_and_no_reason_to_stop(begin: Callable[..., None]) -> None:
    with capture_logs() as lines:
        begin("http://127.0.0.1:9", OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT="many")
    said = [(line["event"], line["reason"], line["remedy"]) for line in lines]
    off = "or do not set it; data goes on without traces"
    assert said == [
        (
            "traces_off",
            "OpenTelemetry's SDK does not begin: ValueError",
            f"correct the OTEL_* variables, {off}",
        )
    ]
    assert not any(thread.name == "traces" for thread in threading.enumerate())
    begin("http://127.0.0.1:9", OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT="", OTEL_TRACES_SAMPLER="always_on")
    assert tracing.on()
    with capture_logs() as lines:
        broken = {"rows": object()}  # no attribute of the standard
        assert tracing.record("decode", "yesterday", broken) is None  # type: ignore[arg-type]
        assert tracing.record("decode", 0, {}) is None
    said = [(line["event"], line["reason"], line["remedy"]) for line in lines if line["event"] == "traces_off"]
    assert said == [("traces_off", "OpenTelemetry's SDK fails: TypeError", f"report it, {off}")]
    assert not tracing.on()


@needs_otel
def test_a_header_that_can_not_be_read_is_not_logged(
    begin: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    begin("http://127.0.0.1:9", OTEL_EXPORTER_OTLP_HEADERS="authorization: bearer-of-news")
    assert tracing.on()
    assert "bearer-of-news" not in caplog.text


@needs_otel
def test_the_defaults_are_ours_only_where_the_standard_variables_say_nothing() -> None:
    from etl_supervisor.monitor.otel import standard

    bare: dict[str, str] = {}
    standard(bare, "http://c:4318")
    assert bare == {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318",
        "OTEL_SERVICE_NAME": "etl-stream",
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": "0.01",
    }
    ratio = {"OTEL_TRACES_SAMPLER_ARG": "0.5"}
    standard(ratio, "http://c:4318")
    assert (ratio["OTEL_TRACES_SAMPLER"], ratio["OTEL_TRACES_SAMPLER_ARG"]) == ("parentbased_traceidratio", "0.5")
    theirs = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://theirs",
        "OTEL_RESOURCE_ATTRIBUTES": "team=data,service.name=etl",
        "OTEL_TRACES_SAMPLER": "traceidratio",
    }
    kept = dict(theirs)
    standard(theirs, "http://c:4318")
    assert theirs == kept


@needs_otel
def test_one_batch_in_a_hundred_is_followed_unless_told_otherwise(begin: Callable[..., None]) -> None:
    with collecting() as collector:
        begin(collector.endpoint, OTEL_BSP_MAX_QUEUE_SIZE="20000")
        followed = sum(tracing.record("decode", 0, {}) is not None for _ in range(10_000))
        assert 50 < followed < 170  # five standard deviations around 100
        tracing.end()
        assert len(collector.named("decode")) == followed


@needs_otel
def test_an_apply_is_followed_when_one_of_its_batches_is(begin: Callable[..., None]) -> None:
    with collecting() as collector:
        begin(collector.endpoint, OTEL_TRACES_SAMPLER_ARG="0")
        assert tracing.record("decode", 0, {}) is None
        followed = Trace("00-7b06e365ca5736908bb29312d6f58a48-b6fc08e0f73d3921-01", 5)
        assert tracing.record("apply", 0, {}, links=[followed]) is not None
        assert tracing.record("share", 0, {}, parent=followed) is not None
        tracing.end()
        (apply,) = collector.named("apply")
        assert apply.links == [
            (bytes.fromhex("7b06e365ca5736908bb29312d6f58a48"), bytes.fromhex("b6fc08e0f73d3921")),
        ]
        assert apply.trace != apply.links[0][0]
        (share,) = collector.named("share")
        assert (share.trace, share.parent) == apply.links[0]


@needs_otel
def test_the_steps_of_a_segment_hang_on_its_share(begin: Callable[..., None]) -> None:
    with collecting() as collector:
        begin(collector.endpoint, OTEL_TRACES_SAMPLER="always_on")
        batch = tracing.record("decode", time.time_ns(), {"rows": 5})
        come = shared(opening(), segment(1, batch))
        also = shared(opening(), segment(2, None))
        with pytest.raises(OSError, match="a value"), stage("append", opening(), [come], 10):
            raise OSError("a value")
        books = Followed()
        items = [Underway(come, None, come.last), Underway(also, None, also.last)]
        for item in items:
            books.took(item)
        books.durable(opening(), items)
        books.applied(opening(), 15, time.time_ns())  # the last row of the segment is at 15: not yet
        books.applied(opening(), 16, time.time_ns())
        books.applied(opening(), 30, time.time_ns())
        tracing.end()
        decode, share, append, durable, apply = collector.spans
        assert [span.name for span in collector.spans] == ["decode", "share", "append", "durable", "apply"]
        assert [share.parent, append.parent, durable.parent] == [decode.id, share.id, share.id]
        assert share.began == batch.at_ns if batch is not None else False
        assert (append.error, durable.error) == ("OSError", "")
        assert b"a value" not in collector.raw
        assert apply.links == [(durable.trace, durable.id)]
        where = {"etl.pipeline": "shop", "etl.table": "public.t", "etl.channel": "channel-1"}
        rows = {"etl.rows": 5, "etl.lsn.first": "0/A", "etl.lsn.last": "0/F"}
        assert share.facts == {**where, **rows, "etl.bytes": 4096}
        assert append.facts == {**where, **rows, "etl.rows.together": 10}
        assert durable.facts == {**where, **rows}
        assert apply.facts == {**where, "etl.lsn.fence": "0/10"}
        assert also.trace is None


@needs_otel
def test_a_table_that_is_not_applied_keeps_no_more_than_its_oldest_links(begin: Callable[..., None]) -> None:
    with collecting() as collector:
        begin(collector.endpoint, OTEL_TRACES_SAMPLER="always_on")
        books, trace = Followed(), tracing.record("decode", 0, {})
        for seq in range(1, LINKS_MAX + 50):
            item = Underway(segment(seq, trace), None, token(seq))
            books.took(item)
            books.durable(opening(), [item])
        books.applied(opening(), 1 << 40, 0)
        tracing.end()
        (apply,) = collector.named("apply")
        assert apply.links == [(span.trace, span.id) for span in collector.named("durable")[:LINKS_MAX]]


@needs_otel
def test_a_collector_that_hangs_keeps_nobody_waiting(begin: Callable[..., None]) -> None:
    before = counted("dropped")
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, never answers
        begin(
            f"http://127.0.0.1:{silent.getsockname()[1]}",
            OTEL_TRACES_SAMPLER="always_on",
            OTEL_EXPORTER_OTLP_TIMEOUT="2",
            OTEL_BSP_MAX_QUEUE_SIZE="8",
            OTEL_BSP_MAX_EXPORT_BATCH_SIZE="4",
        )
        slowest = 0.0
        for _ in range(500):
            began = time.perf_counter()
            assert tracing.record("decode", 0, {}) is not None
            slowest = max(slowest, time.perf_counter() - began)
        assert slowest < 1.0
        assert counted("dropped") - before >= 500 - 8 - 2 * 4
        began = time.perf_counter()
        tracing.end()
        assert time.perf_counter() - began < 4.0
    wait_for("its thread to end", lambda: not any(thread.name == "traces" for thread in threading.enumerate()))


@needs_otel
def test_an_outage_is_said_once_and_its_spans_are_counted(begin: Callable[..., None]) -> None:
    sent, dropped = counted("sent"), counted("dropped")
    with collecting() as collector, capture_logs() as lines:
        collector.status = 400  # it is not tried again
        begin(collector.endpoint, OTEL_TRACES_SAMPLER="always_on", OTEL_BSP_SCHEDULE_DELAY="20")
        for lost in range(1, 4):
            tracing.record("decode", 0, {})
            wait_for("it to be dropped", _is(lambda: counted("dropped") - dropped, lost), 10)
        collector.status = 200
        for arrived in range(1, 4):
            tracing.record("decode", 0, {})
            wait_for("it to be sent", _is(lambda: counted("sent") - sent, arrived), 10)
        assert len(collector.spans) == 3
        tracing.end()
    assert [(line["event"], line["spans"]) for line in lines if line["event"].startswith("traces_")] == [
        ("traces_not_delivered", 1),
        ("traces_delivered_again", 1),
    ]


@needs_otel
def test_headers_and_names_are_the_standards_variables(begin: Callable[..., None]) -> None:
    with collecting() as collector:
        begin(
            collector.endpoint,
            OTEL_TRACES_SAMPLER="always_on",
            OTEL_EXPORTER_OTLP_HEADERS="x-key=abc",
            OTEL_EXPORTER_OTLP_COMPRESSION="gzip",
            OTEL_RESOURCE_ATTRIBUTES="deployment.environment=staging",
        )
        tracing.record("decode", 0, {})
        tracing.end()
        ((path, headers),) = collector.requests
        assert path == "/v1/traces"
        assert headers["x-key"] == "abc"
        (span,) = collector.spans
        wanted = {"service.name": "etl-stream", "etl.process": "a-test", "deployment.environment": "staging"}
        assert wanted.items() <= span.resource.items()


def _is(value: Callable[[], Any], wanted: Any) -> Callable[[], bool]:
    return lambda: value() == wanted
