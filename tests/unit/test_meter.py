"""What is made of counters: increases by table and pipeline, percentiles, credits."""

import re
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram

from etl_supervisor.model.cost import CREDITS_PER_GB, credits_of
from etl_supervisor.model.latency import count, percentile, together
from etl_supervisor.monitor import metrics
from etl_supervisor.monitor.meter import Brought, counted, increase, sorted_out
from etl_supervisor.repository.metering import Flow, Usage

SNOWFLAKE_PAGE = (Path(__file__).parents[2] / "docs" / "snowflake.md").read_text()

STRANGE = 'public.é "\x1f\n,\\'


class Counters:
    """Metrics of the same names and labels as the program's, in a registry of the test."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._made: dict[str, Counter | Histogram] = {}

    def __getattr__(self, name: str) -> Counter | Histogram:
        if name not in self._made:
            like = getattr(metrics, name)
            self._made[name] = type(like)(like._name, "", like._labelnames, registry=self.registry)
        return self._made[name]

    @property
    def now(self) -> dict[str, float]:
        return counted(self.registry.collect())


@pytest.fixture
def counters() -> Counters:
    return Counters()


def test_an_increase_goes_to_its_table_and_its_pipeline(counters: Counters) -> None:
    counters.SNOWFLAKE_ROWS_INSERTED.labels("shop", "public.a").inc(5)
    before = counters.now
    counters.SNOWFLAKE_ROWS_INSERTED.labels("shop", "public.a").inc(10)
    counters.SNOWFLAKE_ROWS_INSERTED.labels("shop", STRANGE).inc(1)
    counters.SNOWFLAKE_BYTES.labels("shop", "public.a").inc(2000)
    counters.BILLED_BYTES.labels("shop", "public.a", "streaming").inc(900)
    counters.BILLED_BYTES.labels("files", "public.c", "snowpipe").inc(70)
    counters.FILE_BYTES.labels("files", "public.c", "snowpipe").inc(70)
    counters.FILES_STAGED.labels("files", "public.c", "snowpipe").inc()
    counters.FILE_BYTES.labels("files", "public.d", "copy").inc(80)
    counters.FILES_STAGED.labels("files", "public.d", "copy").inc(2)
    counters.APPLIED_ROWS.labels("shop", "public.a").inc(9)
    counters.APPLY_SECONDS.labels("shop").observe(1.5)
    brought = sorted_out(increase(before, counters.now))
    assert sorted(brought.usage, key=lambda usage: (usage.pipeline, usage.table_name)) == [
        Usage("files", "public.c", snowpipe_bytes=70, snowpipe_files=1),
        Usage("files", "public.d", copy_bytes=80, copy_files=2),
        Usage("shop", "", applies=1, apply_seconds=1.5),
        Usage("shop", "public.a", rows=10, billed_bytes=900, applied_rows=9),
        Usage("shop", STRANGE, rows=1),
    ]
    assert [(flow.pipeline, flow.rows, flow.bytes, flow.applies) for flow in brought.flow] == [
        ("files", 0, 150, 0),
        ("shop", 11, 2000, 1),
    ]


def test_nothing_new_is_nothing_to_write(counters: Counters) -> None:
    counters.SNOWFLAKE_ROWS_INSERTED.labels("shop", "public.a").inc(5)
    counters.DURABLE_SECONDS.labels("shop").observe(0.3)
    assert sorted_out(increase(counters.now, counters.now)) == Brought([], [])


def test_a_batch_that_arrived_is_in_the_flow_with_every_bound_of_its_histogram(counters: Counters) -> None:
    counters.DURABLE_SECONDS.labels("shop").observe(9.0)
    before = counters.now
    counters.DURABLE_SECONDS.labels("shop").observe(0.3)
    (flow,) = sorted_out(increase(before, counters.now)).flow
    assert isinstance(flow, Flow)
    assert (flow.rows, flow.latencies["accepted"], flow.latencies["applied"]) == (0, {}, {})
    durable = flow.latencies["durable"]
    assert (count(durable), durable["0.25"], durable["0.5"], durable["+Inf"]) == (1, 0, 1, 1)


def test_every_counter_that_is_read_exists() -> None:
    known = {
        sample for found in vars(metrics).values() if isinstance(found, Counter | Histogram) for sample in names(found)
    }
    from etl_supervisor.monitor.meter import _NAMES

    assert known >= _NAMES


def names(found: Counter | Histogram) -> set[str]:
    """What its samples are called."""
    ends = ("_total",) if isinstance(found, Counter) else ("_bucket", "_count", "_sum")
    return {found._name + end for end in ends}


def test_a_percentile_lies_evenly_between_two_bounds() -> None:
    way = {"0.1": 0, "0.2": 50, "0.4": 90, "+Inf": 100}
    assert percentile(way, 0.5) == 0.2
    assert percentile(way, 0.25) == pytest.approx(0.15)
    assert percentile(way, 0.7) == pytest.approx(0.3)
    assert percentile(way, 0.99) == 0.4
    assert percentile({"0.1": 0, "+Inf": 0}, 0.5) is None
    assert percentile({}, 0.5) is None


def test_histograms_of_other_bounds_are_not_mixed() -> None:
    assert together([{}, {"1": 1, "+Inf": 2}, {"1": 3, "+Inf": 3}, {"2": 9, "+Inf": 9}]) == {"1": 4, "+Inf": 5}
    assert together([{}]) == {}


def test_credits_are_those_of_the_page() -> None:
    assert f"{CREDITS_PER_GB} credits per GB" in SNOWFLAKE_PAGE
    month = re.search(r"^\| 100 GB \| ([\d.]+) \|", SNOWFLAKE_PAGE, re.MULTILINE)
    assert month is not None
    seen = credits_of(30 * 100 * 10**9, 10**9, 0, 0)
    assert round(seen.streaming) == float(month[1])
    assert (seen.snowpipe, seen.copy, seen.apply) == (CREDITS_PER_GB, 0.0, 0.0)
    assert (credits_of(0, 0, 1, 1).copy, credits_of(0, 0, 1, 1).apply) == (None, None)
