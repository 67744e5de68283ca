"""WAL that waits for a destination which is gone is told, and so is the end of it; metrics say how long rows were on their way."""

from __future__ import annotations

import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.fix_deployment import Deployment, wait_for
from tests.support.receiver import http_receiver


def scraped(deploy: Deployment) -> dict[tuple[str, tuple[str, ...]], float]:
    """(name, label values in the order of the labels' names) -> value."""
    with urllib.request.urlopen(f"http://{deploy.settings.metrics_addr}/metrics", timeout=10) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    return {(s.name, tuple(s.labels.values())): s.value for family in families for s in family.samples}


@pytest.mark.slow
def test_a_destination_that_is_gone_is_told_by_its_wal_and_its_return_too(deploy: Deployment) -> None:
    deploy.source.execute(
        "create table t (id bigint primary key, v text); insert into t select g, 'a' from generate_series(1, 10) g;"
        "create publication p for table t"
    )
    deploy.add("shop", warning_wal_mb=6, danger_wal_mb=1000, heartbeat_seconds=1)
    with http_receiver() as there:
        deploy.start(
            WAL_MONITOR_INTERVAL_SECONDS="1",
            TIME_CHECK_NOTIFICATION="0",
            ALERT_WAL_URL=f"http://127.0.0.1:{there.port}/",
        )
        deploy.ready("shop", 1)
        deploy.source.execute("insert into t values (11, 'b')")
        deploy.caught_up("shop")
        wait_for("what was measured", lambda: ("etl_wal_retained_bytes", ("etl_stream_1", "shop")) in scraped(deploy))
        deploy.server.set(blackhole=True)
        deploy.source.execute("insert into t values (12, 'c')")
        for _ in range(8):
            deploy.source.execute("select pg_logical_emit_message(false, 'test', repeat('x', 1 << 20))")
        wait_for("the alert", lambda: there.bodies)
        deploy.server.set(blackhole=False)
        deploy.caught_up("shop")

        def over() -> bool:
            deploy.source.execute("checkpoint")  # restart_lsn moves with the snapshots that this writes
            return len(there.bodies) > 1

        wait_for("the end of it", over)
        assert [body["status"] for body in there.bodies] == ["WARNING", "OK"]
        assert {body["source_name"] for body in there.bodies} == {"shop"}
        values = scraped(deploy)
        assert values["etl_alerts_total", ("webhook", "delivered")] == 2
        assert values["etl_wal_level", ("shop",)] == 0
        assert values["etl_applied_seconds_count", ("shop",)] >= 1
        assert values["etl_applied_rows_total", ("shop", "public.t")] >= 2
        assert values["etl_snowflake_requests_total", (deploy.destination.name, "append")] >= 1
        assert values["etl_snowflake_requests_total", (deploy.destination.name, "apply")] >= 1
        assert values["etl_redis_seconds_count", ("save_progress",)] >= 1
        assert ("etl_segments_waiting", ()) in values
    assert deploy.stop() == 0
    deploy.same("shop", t=("id",))
