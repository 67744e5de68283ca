#!/usr/bin/env python3
"""Writes docs/metrics.md: names, kinds, labels and meanings come out of the program's own code (a test compares the page with this)."""

from __future__ import annotations

from pathlib import Path

from etl_supervisor.monitor import metrics
from etl_supervisor.monitor.catalog import catalog

HEAD = """# Metrics

`METRICS_ADDR` answers `/metrics` in Prometheus' text form. Children count in files named by the child, so a restart loses nothing.
Rules for alerts are in [scripts/prometheus/](../scripts/prometheus/etl-stream.rules.yml), a dashboard for Grafana in
[scripts/grafana/](../scripts/grafana/etl-stream.json).

| metric | type | labels | meaning |
|---|---|---|---|
"""
FOOT = f"""
The label `table` names the first {metrics.TABLE_LABELS_MAX:,} tables that a process brings rows of; those beyond share the label \
`{metrics.OTHER_TABLES}`. `etl_snowflake_billed_bytes_total` in GB times the credits of [snowflake.md](snowflake.md#cost) is what loading costs. \
`etl_wal_…` come from the WAL monitor, every `WAL_MONITOR_INTERVAL_SECONDS`, for every source; `etl_slot_…` and `etl_lag_…` from the readers that run.
`etl_api_…` are of the API: beside a supervisor among all others, alone (`etl-supervisor api`) by themselves where `METRICS_ADDR` is set.
Traces of batches: [traces.md](traces.md).
"""


def page() -> str:
    """The page."""
    rows = (
        f"| `{item.name}` | {item.kind} | {', '.join(item.labels) or '-'} | {item.meaning} |\n" for item in catalog()
    )
    return HEAD + "".join(rows) + FOOT


if __name__ == "__main__":
    Path(__file__).parents[1].joinpath("docs", "metrics.md").write_text(page())
