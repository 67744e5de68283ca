"""What pipelines bring and spend, written into the config database every LOOK_SECONDS, so that it is known wherever the API runs, and later.

    look      the counters of all children, as `/metrics` adds them up
    increase  against what this supervisor had counted when it was last written down (app.metered)
    write     app.usage (by the hour, for costs), app.flow (each look of the last hour, for rates and latencies) and app.metered, in one transaction

A crash before the commit leaves it to the next look, one after it has counted it; a restarted monitor goes on from the same row, as the supervisor's
name is the same. What was counted after the last look of a supervisor that is killed is not written down: LOOK_SECONDS at most. Two supervisors add
to the same hours, each what its own children have brought.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import orjson
import psycopg
from prometheus_client import multiprocess
from prometheus_client.core import Metric

from etl_supervisor.errors import EtlError
from etl_supervisor.model import latency
from etl_supervisor.monitor.holder import holder_of
from etl_supervisor.monitor.rounds import Rounds
from etl_supervisor.repository import metering
from etl_supervisor.repository.connection import connect, trouble
from etl_supervisor.repository.metering import LOOK_SECONDS, Flow, Usage

if TYPE_CHECKING:
    from etl_supervisor.config.settings import Settings

FORGET_SECONDS = 3600.0
_OPTIONS = "-c statement_timeout=5s"  # a look is milliseconds; the last one must not hold up the end
WAY = ("accepted", "durable", "applied")
_BUCKETS = {f"etl_{name}_seconds_bucket": name for name in WAY}
_OF_TABLES = {
    ("etl_snowflake_rows_inserted_total", ""): "rows",
    ("etl_snowflake_billed_bytes_total", "streaming"): "billed_bytes",
    ("etl_snowflake_file_bytes_total", "snowpipe"): "snowpipe_bytes",
    ("etl_snowflake_files_total", "snowpipe"): "snowpipe_files",
    ("etl_snowflake_file_bytes_total", "copy"): "copy_bytes",
    ("etl_snowflake_files_total", "copy"): "copy_files",
    ("etl_applied_rows_total", ""): "applied_rows",
}
_OF_PIPELINES = {"etl_apply_seconds_count": "applies", "etl_apply_seconds_sum": "apply_seconds"}
_IN_FLOW = frozenset({"rows", "applied_rows", *_OF_PIPELINES.values()})
_FLOWING_BYTES = frozenset({"etl_snowflake_bytes_total", "etl_snowflake_file_bytes_total"})
_NAMES = frozenset(
    {name for name, _ in _OF_TABLES} | set(_OF_PIPELINES) | set(_BUCKETS) | {"etl_snowflake_bytes_total"}
)
_LABELS = ("pipeline", "table", "path", "le")


class Meter:
    """Looks again and again, in a thread of its own, once the migrations have run."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._holder = holder_of(os.getppid())
        self._next_forgetting = 0.0
        self._rounds = Rounds("meter", LOOK_SECONDS, "usage_not_written", self._round)

    def start(self) -> None:
        """Begin, with a look at once."""
        self._rounds.start()

    def close(self) -> None:
        """End, with a last look."""
        self._rounds.close()
        with contextlib.suppress(EtlError):
            self.look()

    def look(self) -> None:
        """Write down what has come since the last one. EtlError(CONFIG_DATABASE)."""
        now = counted(multiprocess.MultiProcessCollector(None).collect())  # type: ignore[no-untyped-call]
        try:
            with connect(self._settings.config_dsn(), options=_OPTIONS) as connection:
                grown = increase(metering.counted(connection, self._holder), now)
                brought = sorted_out(grown)
                metering.add_usage(connection, brought.usage)
                metering.add_flow(connection, brought.flow)
                metering.save(connection, self._holder, now if any(grown.values()) else None)
        except psycopg.Error as error:
            raise trouble(error) from None

    def _round(self) -> None:
        self.look()
        if time.monotonic() >= self._next_forgetting:
            self._next_forgetting = time.monotonic() + FORGET_SECONDS
            self._forget()

    def _forget(self) -> None:
        """Apart from the look: what is old may be much, and must not keep the new from being written."""
        try:
            with connect(self._settings.config_dsn()) as connection:
                metering.forget(connection)
        except psycopg.Error as error:
            raise trouble(error) from None


@dataclass(slots=True)
class Brought:
    """What has come: by (pipeline, table) and by pipeline."""

    usage: list[Usage] = field(default_factory=list)
    flow: list[Flow] = field(default_factory=list)


def counted(families: Iterable[Metric]) -> dict[str, float]:
    """The counters that are written down, by name and labels as a JSON array: a table's name may have any character."""
    return {
        orjson.dumps([sample.name, *(sample.labels.get(label, "") for label in _LABELS)]).decode(): sample.value
        for family in families
        for sample in family.samples
        if sample.name in _NAMES
    }


def increase(before: Mapping[str, float], now: Mapping[str, float]) -> dict[str, float]:
    """By how much counters have grown; 0 too, as a histogram is read with the bounds that nothing fell under."""
    return {name: max(0.0, value - before.get(name, 0)) for name, value in now.items()}


def sorted_out(grown: Mapping[str, float]) -> Brought:
    """The increase, as the tables have it; pipelines and tables of which nothing came are left out."""
    usage: dict[tuple[str, str], dict[str, float]] = defaultdict(lambda: defaultdict(float))
    flow: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    ways: dict[str, dict[str, dict[str, float]]] = defaultdict(lambda: {name: {} for name in WAY})
    for key, value in grown.items():
        name, pipeline, table, path, bound = orjson.loads(key)
        if name in _BUCKETS:
            ways[pipeline][_BUCKETS[name]][bound] = value
            continue
        column = _OF_TABLES.get((name, path)) or _OF_PIPELINES.get(name)
        if value and column is not None:
            usage[pipeline, table][column] += value
        if value and column in _IN_FLOW:
            flow[pipeline][str(column)] += value
        if value and name in _FLOWING_BYTES:
            flow[pipeline]["bytes"] += value
    moved = flow.keys() | {pipeline for pipeline, way in ways.items() if any(map(latency.count, way.values()))}
    return Brought(
        [Usage(pipeline, table, **_whole(values)) for (pipeline, table), values in usage.items()],
        [Flow(pipeline, ways[pipeline], **_whole(flow[pipeline])) for pipeline in sorted(moved)],
    )


def _whole(values: Mapping[str, float]) -> dict[str, float]:
    """Counts as integers: only a duration is none."""
    return {name: value if name == "apply_seconds" else int(value) for name, value in values.items()}
