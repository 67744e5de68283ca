"""Every metric that processes count; those that are read from what the monitor knows are in `collectors`. docs/metrics.md is written from both.

prometheus-client in multiprocess mode: each child writes files of its own, the monitor adds them up. Files are named by the child (reader-shop,
actor-0), not by its pid: a restarted child goes on counting in its predecessor's file, so that nothing is lost and nothing leaks.

Imported in children only, after `PROMETHEUS_MULTIPROC_DIR` is set (`prepare`, by the parent's process before it forks).
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Iterable
from urllib.parse import quote

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, values
from prometheus_client import multiprocess as prometheus_multiprocess
from prometheus_client.exposition import start_http_server
from prometheus_client.registry import Collector

from etl_supervisor.model.child import BREAKER_LEVELS
from etl_supervisor.model.progress import SourceReport
from etl_supervisor.model.table import TableName
from etl_supervisor.model.verified import Verified
from etl_supervisor.monitor.counting import ReservedDict

TABLE_LABELS_MAX = 1000  # a series costs Prometheus some kB, in each metric; nobody looks at a thousand lines
OTHER_TABLES = "(others)"

_process = "unnamed"
_tables: set[str] = set()


def identify(name: str) -> None:
    """This process's files carry this name from now on. Names that differ stay different: a file has one writer."""
    global _process
    _process = quote(name, safe="").replace("_", "%5F")  # prometheus-client splits file names at "_"


def _value_class() -> type:
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return values.ValueClass  # type: ignore[no-any-return]
    made: type = values.MultiProcessValue(process_identifier=lambda: _process)  # type: ignore[no-untyped-call]
    return made


values.MmapedDict = ReservedDict  # type: ignore[attr-defined]
values.ValueClass = _value_class()  # prometheus_client.metrics looks it up in this module at each use

READER_ROWS = Counter("etl_reader_rows", "Change-log rows decoded", ["source"])
READER_BATCHES = Counter("etl_reader_batches", "Batches sealed", ["source"])
READER_PIECES = Counter("etl_reader_pieces", "Pieces of transactions that came before their commit", ["source"])
SPOOLED_BYTES = Gauge(
    "etl_reader_spooled_bytes",
    "What transactions in progress hold, in memory and on disk",
    ["source"],
    multiprocess_mode="mostrecent",
)
THROUGHPUT_ROWS = Gauge(
    "etl_throughput_rows",
    "Rows decoded per second, over the last report interval",
    ["source"],
    multiprocess_mode="mostrecent",
)
RECEIVED_LSN = Gauge("etl_received_lsn", "End of the last frame read", ["source"], multiprocess_mode="mostrecent")
DURABLE_LSN = Gauge(
    "etl_durable_lsn", "Everything below is committed in Snowflake", ["source"], multiprocess_mode="mostrecent"
)
CONFIRMED_LSN = Gauge(
    "etl_confirmed_lsn", "Position confirmed to PostgreSQL", ["source"], multiprocess_mode="mostrecent"
)
LAG_BYTES = Gauge("etl_lag_bytes", "WAL that the source holds back for us", ["source"], multiprocess_mode="mostrecent")
LAG_SECONDS = Gauge(
    "etl_lag_seconds", "Age of the oldest change that is not durable", ["source"], multiprocess_mode="mostrecent"
)
SLOT_WAL_STATUS = Gauge(
    "etl_slot_wal_status",
    "What PostgreSQL keeps for our slot: 0 reserved, 1 extended, 2 unreserved, 3 lost",
    ["source"],
    multiprocess_mode="mostrecent",
)
SLOT_SAFE_WAL_BYTES = Gauge(
    "etl_slot_safe_wal_bytes",
    "WAL that may be written until the slot is lost; +Inf without a limit",
    ["source"],
    multiprocess_mode="mostrecent",
)
DESTINATION_BREAKER_STATE = Gauge(
    "etl_destination_breaker_state",
    "A source's breaker of a destination: 0 closed, 1 half-open (one of its failed tables tries), 2 open (they wait)",
    ["source", "destination"],
    multiprocess_mode="mostrecent",
)
SHARED_MEMORY_BYTES = Gauge("etl_shared_memory_used_bytes", "Slab in use", ["source"], multiprocess_mode="mostrecent")
VERIFIED_LSN = Gauge(
    "etl_verified_through_lsn",
    "The target was seen to be equal to its source at this LSN",
    ["pipeline", "table"],
    multiprocess_mode="mostrecent",
)
COPY_ROWS = Counter("etl_copy_rows", "Rows of first copies handed over", ["pipeline", "table"])
COPY_DONE = Gauge(
    "etl_copy_done_ratio",
    "Part of a first copy that is durable, by finished ranges: 0 to 1",
    ["pipeline", "table"],
    multiprocess_mode="mostrecent",
)
SNOWFLAKE_ROWS_INSERTED = Counter(
    "etl_snowflake_rows_inserted", "Rows committed in landing tables", ["pipeline", "table"]
)
DEAD_LETTER_ROWS = Counter("etl_dead_letter_rows", "Rows written to the dead letter", ["pipeline", "table"])
SNOWFLAKE_BYTES = Counter("etl_snowflake_bytes", "NDJSON bytes handed to the SDK", ["pipeline", "table"])
FILES_STAGED = Counter("etl_snowflake_files", "Parquet files brought to the stage", ["pipeline", "table", "path"])
FILE_BYTES = Counter("etl_snowflake_file_bytes", "Bytes of Parquet brought to the stage", ["pipeline", "table", "path"])
BILLED_BYTES = Counter(
    "etl_snowflake_billed_bytes",
    "Bytes that Snowflake bills for loading: values by streaming, Parquet by Snowpipe",
    ["pipeline", "table", "path"],
)
SNOWFLAKE_RETRIES = Counter(
    "etl_snowflake_retries", "Jobs of SQL that were repeated, by what had failed", ["destination", "rule"]
)
SNOWFLAKE_REQUESTS = Counter(
    "etl_snowflake_requests", "Jobs of SQL, by their step, and appends, repeated ones too", ["destination", "step"]
)
SNOWFLAKE_ERRORS = Counter("etl_snowflake_errors", "Those of them that failed", ["destination", "step"])
APPLIED_ROWS = Counter(
    "etl_applied_rows", "Rows of the change log that apply blocks have brought to targets", ["pipeline", "table"]
)
APPLY_SECONDS = Histogram(
    "etl_apply_seconds",
    "Duration of an apply block",
    ["pipeline"],
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
)
_WAY_SECONDS = (
    0.01,
    0.02,
    0.03,
    0.04,
    0.05,
    0.06,
    0.08,
    0.1,
    0.125,
    0.15,
    0.2,
    0.25,
    0.3,
    0.4,
    0.5,
    0.75,
    1,
    1.5,
    2,
    3,
    5,
    7.5,
    10,
    15,
    30,
    60,
)
ACCEPTED_SECONDS = Histogram(
    "etl_accepted_seconds",
    "From a commit in the source to Snowflake's answer to the append, oldest row of a batch; pipelines that want their rows soon",
    ["pipeline"],
    buckets=_WAY_SECONDS,
)
DURABLE_SECONDS = Histogram(
    "etl_durable_seconds",
    "From a commit in the source until the row is known to be durable, oldest row of a batch",
    ["pipeline"],
    buckets=_WAY_SECONDS,
)
APPLIED_SECONDS = Histogram(
    "etl_applied_seconds",
    "From a commit in the source until an apply has brought the row to its target, oldest row of a batch",
    ["pipeline"],
    buckets=(*_WAY_SECONDS, 120, 300, 600, 1800, 3600, 14400),
)
REDIS_SECONDS = Histogram(
    "etl_redis_seconds",
    "Duration of an operation on the state store in Redis, with its repetitions",
    ["operation"],
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)
REDIS_ERRORS = Counter("etl_redis_errors", "Operations on the state store in Redis that failed", ["operation"])
SEGMENTS_WAITING = Gauge(
    "etl_segments_waiting",
    "Segments that actors have received and not yet appended (mailbox depth), looked at every few seconds",
    multiprocess_mode="livesum",
)
CHANNELS_OPEN = Gauge("etl_channels_open", "Streaming channels open", multiprocess_mode="livesum")
API_REQUESTS = Counter(
    "etl_api_requests",
    "Requests of the REST API, by the route's template; (none): nothing is there",
    ["route", "method", "status"],
)
API_SECONDS = Histogram(
    "etl_api_seconds",
    "From a request to the begin of its answer",
    ["route", "method"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
API_POOL = Gauge(
    "etl_api_pool_connections",
    "The REST API's connections to the config database: in_use, idle, and limit, which is how many there may be",
    ["state"],
    multiprocess_mode="mostrecent",
)
TRACE_SPANS = Counter(
    "etl_trace_spans",
    "Spans of batches that are followed: sent to the collector, or dropped because it is slow or away",
    ["result"],
)
ALERTS = Counter("etl_alerts", "Tries to deliver WAL alerts: delivered or failed", ["channel", "result"])

_WAL_STATUS = {"reserved": 0, "extended": 1, "unreserved": 2, "lost": 3}
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_last: dict[str, tuple[float, int]] = {}


def table_label(table: TableName) -> str:
    """The label of a table: its name, for the first `TABLE_LABELS_MAX` of this process."""
    name = str(table)
    if name in _tables or len(_tables) < TABLE_LABELS_MAX:
        _tables.add(name)
        return name
    return OTHER_TABLES


def observe_since(histogram: Histogram, moments: Iterable[float]) -> None:
    """The time from each of these moments (Unix seconds) until now; the source's clock may be ahead of ours."""
    now = time.time()
    for moment in moments:
        histogram.observe(max(0.0, now - moment))


def source_report(source: str, report: SourceReport, shared_memory_used: int) -> None:
    """The reader's gauges, from the same facts as `status`."""
    before_at, before_rows = _last.get(source, (report.reported_at, report.rows))
    seconds = report.reported_at - before_at
    THROUGHPUT_ROWS.labels(source).set((report.rows - before_rows) / seconds if seconds > 0 else 0.0)
    _last[source] = (report.reported_at, report.rows)
    RECEIVED_LSN.labels(source).set(report.received)
    DURABLE_LSN.labels(source).set(report.durable)
    CONFIRMED_LSN.labels(source).set(report.confirmed)
    LAG_BYTES.labels(source).set(report.lag_bytes)
    LAG_SECONDS.labels(source).set(report.lag_seconds)
    SHARED_MEMORY_BYTES.labels(source).set(shared_memory_used)
    for destination, state in report.breakers.items():
        DESTINATION_BREAKER_STATE.labels(source, destination).set(BREAKER_LEVELS[state])
    if report.wal_status:
        SLOT_WAL_STATUS.labels(source).set(_WAL_STATUS.get(report.wal_status, 3))
        SLOT_SAFE_WAL_BYTES.labels(source).set(math.inf if report.safe_wal_bytes is None else report.safe_wal_bytes)


def verified(pipeline: str, found: Iterable[Verified]) -> None:
    """Up to where targets were seen to be equal to their source."""
    for item in found:
        VERIFIED_LSN.labels(pipeline, table_label(item.table)).set(item.lsn)


def snowflake_request(destination: str, step: str, *, failed: bool = False) -> None:
    """A job of SQL, or an append, has ended."""
    SNOWFLAKE_REQUESTS.labels(destination, step).inc()
    if failed:
        SNOWFLAKE_ERRORS.labels(destination, step).inc()


def redis_operation(operation: str, seconds: float, good: bool) -> None:
    """An operation of the state store has ended."""
    REDIS_SECONDS.labels(operation).observe(seconds)
    if not good:
        REDIS_ERRORS.labels(operation).inc()


def api_request(route: str, method: str, status: int, seconds: float) -> None:
    """A request is being answered. `route` is a template; a method that is none of HTTP's own is `(other)`, as anybody may send any."""
    known = method if method in _METHODS else "(other)"
    API_REQUESTS.labels(route, known, str(status)).inc()
    API_SECONDS.labels(route, known).observe(seconds)


def alert_tried(channel: str, result: str) -> None:
    """A try to deliver an alert: `delivered` or `failed`."""
    ALERTS.labels(channel, result).inc()


def spool_report(source: str, spooled_bytes: int, pieces: int) -> None:
    """Transactions in progress; `pieces` came since the last report."""
    SPOOLED_BYTES.labels(source).set(spooled_bytes)
    READER_PIECES.labels(source).inc(pieces)


def serve(address: str, collectors: Iterable[Collector]) -> None:
    """Answer `/metrics` on `address` (`[::]:9000` is every interface of both families). OSError when it is taken."""
    host, _, port = address.rpartition(":")
    registry = CollectorRegistry()
    with contextlib.suppress(KeyError, ValueError):
        prometheus_multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    for collector in collectors:
        registry.register(collector)
    start_http_server(int(port), addr=host.strip("[]") or "::", registry=registry)
