#!/usr/bin/env python3
"""Writes scripts/grafana/etl-stream.json: one dashboard, from the rows below (a test compares the file with this, and its names with the program's).

Import it in Grafana (Dashboards, New, Import) and choose the Prometheus data source.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

WIDTH, HEIGHT, PER_LINE = 8, 8, 3  # of 24 columns
WAY = "histogram_quantile({q}, sum by (le, pipeline) (rate(etl_{name}_seconds_bucket[$__rate_interval])))"

# title -> panels; a panel is (title, unit, {legend: expression})
ROWS: dict[str, list[tuple[str, str, dict[str, str]]]] = {
    "Sources": [
        ("Rows decoded", "rowsps", {"{{source}}": "sum by (source) (rate(etl_reader_rows_total[$__rate_interval]))"}),
        ("Lag", "s", {"{{source}}": "etl_lag_seconds"}),
        ("WAL held back", "bytes", {"{{source}}": "etl_lag_bytes"}),
        ("Shared memory in use", "bytes", {"{{source}}": "etl_shared_memory_used_bytes"}),
        ("Transactions in progress", "bytes", {"{{source}}": "etl_reader_spooled_bytes"}),
        ("Rows of first copies", "rowsps", {"{{pipeline}}": "sum by (pipeline) (rate(etl_copy_rows_total[$__rate_interval]))"}),
        ("First copies under way, part done", "percentunit", {"{{pipeline}} {{table}}": "etl_copy_done_ratio < 1"}),
    ],
    "From commit to target": [
        (f"{title}, p50 and p99", "s", {f"p{round(q * 100)} {{{{pipeline}}}}": WAY.format(q=q, name=name) for q in (0.5, 0.99)})
        for title, name in (("Accepted", "accepted"), ("Durable", "durable"), ("Applied", "applied"))
    ],
    "Snowflake": [
        ("Rows committed", "rowsps", {"{{pipeline}}": "sum by (pipeline) (rate(etl_snowflake_rows_inserted_total[$__rate_interval]))"}),
        ("Bytes billed", "Bps", {"{{path}}": "sum by (path) (rate(etl_snowflake_billed_bytes_total[$__rate_interval]))"}),
        ("Rows applied", "rowsps", {"{{pipeline}}": "sum by (pipeline) (rate(etl_applied_rows_total[$__rate_interval]))"}),
        (
            "Duration of an apply, p50 and p99",
            "s",
            {f"p{round(q * 100)} {{{{pipeline}}}}": WAY.format(q=q, name="apply") for q in (0.5, 0.99)},
        ),
        (
            "Requests and errors",
            "reqps",
            {
                "{{step}}": "sum by (step) (rate(etl_snowflake_requests_total[$__rate_interval]))",
                "{{step}} failed": "sum by (step) (rate(etl_snowflake_errors_total[$__rate_interval]))",
            },
        ),
        ("Retries", "reqps", {"{{rule}}": "sum by (rule) (rate(etl_snowflake_retries_total[$__rate_interval]))"}),
        ("Dead rows, in an hour", "short", {"{{pipeline}} {{table}}": "sum by (pipeline, table) (increase(etl_dead_letter_rows_total[1h])) > 0"}),
        ("Segments waiting at actors", "short", {"segments": "etl_segments_waiting"}),
        ("Channels open", "short", {"channels": "etl_channels_open"}),
    ],
    "WAL": [
        ("Retained", "bytes", {"{{source}} {{slot}}": "etl_wal_retained_bytes"}),
        ("Growth", "Bps", {"{{source}} {{slot}}": "etl_wal_growth_bytes_per_second"}),
        ("Slot dies in", "s", {"{{source}} {{slot}}": "etl_wal_slot_dies_in_seconds < +Inf"}),
        ("Level (0 OK, 1 warning, 2 danger, 3 lost)", "short", {"{{source}}": "etl_wal_level"}),
        ("Lag of the slot", "s", {"{{source}} {{slot}}": "etl_wal_lag_seconds"}),
        ("Alerts", "short", {"{{channel}} {{result}}": "increase(etl_alerts_total[1h])"}),
    ],
    "REST API": [
        ("Requests", "reqps", {"{{method}} {{route}}": "sum by (method, route) (rate(etl_api_requests_total[$__rate_interval]))"}),
        (
            "Refused and failed",
            "reqps",
            {"{{status}} {{route}}": 'sum by (status, route) (rate(etl_api_requests_total{status=~"[45].."}[$__rate_interval]))'},
        ),
        (
            "Until the answer, p99",
            "s",
            {"{{route}}": "histogram_quantile(0.99, sum by (le, route) (rate(etl_api_seconds_bucket[$__rate_interval])))"},
        ),
        ("Connections to the config database", "short", {"{{state}}": "etl_api_pool_connections"}),
    ],
    "Processes": [
        ("Up", "short", {"{{child}}": "etl_child_up"}),
        ("Restarts", "short", {"{{child}}": "etl_child_restarts"}),
        (
            "Breakers (1 half-open, 2 open)",
            "short",
            {"{{child}}": "etl_child_breaker_state", "{{source}} to {{destination}}": "etl_destination_breaker_state"},
        ),
        ("Redis, p99", "s", {"{{operation}}": "histogram_quantile(0.99, sum by (le, operation) (rate(etl_redis_seconds_bucket[$__rate_interval])))"}),
        ("Spans of traces", "ops", {"{{result}}": "sum by (result) (rate(etl_trace_spans_total[$__rate_interval]))"}),
        ("Redis errors", "ops", {"{{operation}}": "sum by (operation) (rate(etl_redis_errors_total[$__rate_interval]))"}),
    ],
}  # fmt: skip


def dashboard() -> dict[str, Any]:
    """The whole as Grafana reads it."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in ROWS.items():
        panels.append({"type": "row", "title": title, "gridPos": {"x": 0, "y": y, "w": 24, "h": 1}, "panels": []})
        for place, (name, unit, expressions) in enumerate(row):
            grid = {"x": place % PER_LINE * WIDTH, "y": y + 1 + place // PER_LINE * HEIGHT, "w": WIDTH, "h": HEIGHT}
            panels.append(_panel(name, unit, expressions, grid))
        y += 1 + -(-len(row) // PER_LINE) * HEIGHT
    for number, panel in enumerate(panels, 1):
        panel["id"] = number
    return {
        "title": "ETL Stream",
        "uid": "etl-stream",
        "tags": ["etl-stream"],
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {
            "list": [{"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}]
        },
        "panels": panels,
    }


def _panel(title: str, unit: str, expressions: dict[str, str], grid: dict[str, int]) -> dict[str, Any]:
    source = {"type": "prometheus", "uid": "${datasource}"}
    return {
        "type": "timeseries",
        "title": title,
        "gridPos": grid,
        "datasource": source,
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + number), "datasource": source, "expr": expression, "legendFormat": legend}
            for number, (legend, expression) in enumerate(expressions.items())
        ],
    }


def page() -> str:
    """The file."""
    return json.dumps(dashboard(), indent=1) + "\n"


if __name__ == "__main__":
    Path(__file__).parent.joinpath("grafana", "etl-stream.json").write_text(page())
