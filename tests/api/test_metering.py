"""Throughput and cost: what the meter writes, and what the API makes of it."""

import os
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from prometheus_client.mmap_dict import MmapedDict, mmap_key
from pydantic import BaseModel

from etl_supervisor.api.routes.metering import Throughput
from etl_supervisor.api.routes.verification import VerifyBody, VerifyRun
from etl_supervisor.embedded.ports import choose_port
from etl_supervisor.errors import EtlError
from etl_supervisor.monitor import meter
from etl_supervisor.repository import metering
from etl_supervisor.repository.connection import connect
from etl_supervisor.repository.metering import Flow, Usage
from tests.api.test_resources import error
from tests.support.fix_api import PIPELINE, Api
from tests.support.fix_deployment import Deployment, wait_for

THROUGHPUT, COST = "/api/v1/pipelines/1/throughput", "/api/v1/pipelines/1/cost"
PIPE = str(PIPELINE["name"])
DURABLE = {"0.1": 0, "0.2": 5, "0.4": 9, "+Inf": 10}
USAGE = [
    Usage(PIPE, "", applies=2, apply_seconds=1.5),
    Usage(PIPE, "public.a", rows=10, billed_bytes=10**9, applied_rows=9),
    Usage(PIPE, "public.b", rows=5, snowpipe_bytes=2 * 10**9, snowpipe_files=3),
    Usage("no such pipeline", "public.c", rows=7),
]


def look(api: Api, holder: str = "h", usage: Any = (), flow: Any = ()) -> None:
    """One look of a monitor."""
    with connect(api.settings.config_dsn()) as connection:
        metering.counted(connection, holder)
        metering.add_usage(connection, usage)
        metering.add_flow(connection, flow)
        metering.save(connection, holder, {"x": 1.0})
        metering.forget(connection)


def test_where_nobody_counts_nothing_is_known(api: Api) -> None:
    api.filled()
    assert api.get(THROUGHPUT).json() == {
        "from": None,
        "to": None,
        "rows_per_second": None,
        "bytes_per_second": None,
        "applied_rows_per_second": None,
        "batches": None,
        "applies": None,
        "apply_seconds": None,
        "latency": {"accepted": None, "durable": None, "applied": None},
    }
    cost = api.get(COST).json()
    assert (cost["counted_to"], cost["pipeline"], cost["tables"]) == (None, None, [])
    costs = api.get("/api/v1/cost").json()
    assert (costs["counted_to"], costs["items"], costs["next_cursor"]) == (None, [], None)


def test_rates_and_latencies_are_those_of_the_last_minutes(api: Api) -> None:
    api.filled()
    latencies = {"accepted": {}, "durable": DURABLE, "applied": {}}
    look(api, flow=[Flow(PIPE, latencies, rows=1200, bytes=6000, applied_rows=600, applies=2, apply_seconds=0.5)])
    look(api, flow=[Flow(PIPE, latencies, rows=1200, bytes=6000), Flow("no such pipeline", {}, rows=1)])
    api.database.execute("update app.metered set began_at = at - interval '1 hour'")
    found = api.get(THROUGHPUT, params={"minutes": 10}).json()
    seconds = (datetime.fromisoformat(found["to"]) - datetime.fromisoformat(found["from"])).total_seconds()
    assert seconds == 600
    assert (found["rows_per_second"], found["bytes_per_second"], found["applied_rows_per_second"]) == (4.0, 20.0, 1.0)
    assert (found["batches"], found["applies"], found["apply_seconds"]) == (20, 2, 0.5)
    assert found["latency"] == {
        "accepted": None,
        "durable": {"batches": 20, "p50": 0.2, "p95": 0.4, "p99": 0.4},
        "applied": None,
    }
    api.database.execute("update app.flow set at = at - interval '11 minutes'")
    calm = api.get(THROUGHPUT, params={"minutes": 10}).json()
    assert (calm["rows_per_second"], calm["batches"], calm["latency"]["durable"]) == (0.0, 0, None)
    api.database.execute("update app.metered set at = at - interval '46 seconds'")
    assert api.get(THROUGHPUT).json()["rows_per_second"] is None
    assert error(api.get(THROUGHPUT, params={"minutes": 61}))[:2] == (422, "ValidationError")
    with api.as_("viewer", "acme") as acme:
        assert acme.get(THROUGHPUT).status_code == 404


def test_rates_are_those_of_the_supervisor_that_has_the_source(api: Api) -> None:
    api.filled()
    look(api, "dead one")
    api.database.execute("update app.metered set at = at - interval '1 hour'")
    look(api, "stands by")
    assert api.get(THROUGHPUT).json()["rows_per_second"] == 0.0
    api.database.execute("insert into app.leases values (1, 'dead one', 1, now(), now() + interval '1 minute')")
    assert api.get(THROUGHPUT).json()["rows_per_second"] is None


def test_what_was_billed_is_told_by_pipeline_and_table(api: Api) -> None:
    api.filled()
    look(api, usage=USAGE)
    look(api, usage=USAGE)
    cost = api.get(COST).json()
    whole = cost["pipeline"]
    told = (
        "id",
        "name",
        "rows",
        "billed_bytes",
        "snowpipe_bytes",
        "snowpipe_files",
        "copy_files",
        "applies",
        "apply_seconds",
    )
    assert {name: whole[name] for name in told} == {
        "id": 1,
        "name": PIPE,
        "rows": 30,
        "billed_bytes": 2 * 10**9,
        "snowpipe_bytes": 4 * 10**9,
        "snowpipe_files": 6,
        "copy_files": 0,
        "applies": 4,
        "apply_seconds": 3.0,
    }
    assert whole["credits"] == pytest.approx({"streaming": 0.0074, "snowpipe": 0.0148, "copy": 0.0, "apply": None})
    assert [(table["table"], table["rows"], table["credits"]["streaming"]) for table in cost["tables"]] == [
        ("public.a", 20, pytest.approx(0.0074)),
        ("public.b", 10, 0.0),
    ]
    (item,) = api.get("/api/v1/cost").json()["items"]
    assert item == whole
    with api.as_("viewer", "acme") as acme:
        assert acme.get("/api/v1/cost").json()["items"] == []
        assert acme.get(COST).status_code == 404


def test_a_span_has_whole_hours_and_tables_come_page_by_page(api: Api) -> None:
    api.filled()
    look(api, usage=USAGE)
    api.database.execute("update app.usage set hour = '2026-01-01T12:00:00Z'")
    span = {"from": "2026-01-01T12:59:00Z", "to": "2026-01-01T13:00:00Z"}
    first = api.get(COST, params=span | {"limit": 1}).json()
    assert ([item["table"] for item in first["tables"]], first["pipeline"]["rows"]) == (["public.a"], 15)
    assert first["pipeline"]["counted_from"] == "2026-01-01T12:00:00Z"
    second = api.get(COST, params=span | {"limit": 1, "cursor": first["next_cursor"]}).json()
    assert ([item["table"] for item in second["tables"]], second["next_cursor"]) == (["public.b"], None)
    before = api.get(COST, params={"from": "2026-01-01T11:00:00Z", "to": "2026-01-01T12:00:00Z"}).json()
    assert (before["pipeline"]["rows"], before["pipeline"]["counted_from"], before["tables"]) == (0, None, [])
    assert error(api.get(COST, params={"from": span["to"], "to": span["from"]})) == (
        422,
        "ValidationError",
        "from: it is not before `to`",
        {"errors": [{"field": "from", "reason": "it is not before `to`"}]},
    )
    assert error(api.get(COST, params={"to": "0001-01-02T00:00:00Z"}))[:3] == (
        422,
        "ValidationError",
        "to: nothing was counted so long ago",
    )
    api.post("/api/v1/pipelines", json=PIPELINE | {"name": "second", "status": "PAUSE"})
    page = api.get("/api/v1/cost", params=span | {"limit": 1}).json()
    rest = api.get("/api/v1/cost", params=span | {"limit": 1, "cursor": page["next_cursor"]}).json()
    assert [(item["id"], item["rows"]) for item in page["items"] + rest["items"]] == [(1, 15), (2, 0)]
    assert rest["next_cursor"] is None


def test_what_is_old_is_forgotten_and_a_deleted_pipeline_takes_its_own_along(api: Api) -> None:
    api.filled()
    look(api, "old", usage=USAGE, flow=[Flow(PIPE, {}, rows=1)])
    api.database.execute(
        "update app.usage set hour = now() - interval '401 days' where table_name = 'public.a';"
        "update app.flow set at = now() - interval '61 minutes'; update app.metered set at = now() - interval '31 days'"
    )
    look(api, "new")
    assert api.database.execute("select table_name from app.usage order by 1") == [("",), ("public.b",)]
    assert api.database.execute("select count(*) from app.flow") == [(0,)]
    assert api.database.execute("select holder from app.metered") == [("new",)]
    api.delete("/api/v1/pipelines/1")
    assert api.database.execute("select count(*) from app.usage") == [(0,)]


def test_a_look_that_is_not_committed_is_made_up_for_by_the_next_and_a_second_one_waits(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.filled()
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    name, labels = "etl_snowflake_rows_inserted", ["pipeline", "table"]
    counter = mmap_key(name, f"{name}_total", labels, [PIPE, "public.a"], "as an actor writes it")
    actors = [MmapedDict(str(tmp_path / f"counter_actor-{number}.db")) for number in (0, 1)]
    first, second = meter.Meter(api.settings), meter.Meter(api.settings)

    def written() -> int:
        ((rows,),) = api.database.execute("select coalesce(sum(rows), 0)::bigint from app.usage")
        return int(rows)

    actors[0].write_value(counter, 10.0, 0.0)
    first.look()
    second.look()  # the monitor that follows has the same name
    assert written() == 10
    actors[1].write_value(counter, 15.0, 0.0)
    with psycopg.connect(api.settings.config_dsn()) as other:
        metering.counted(other, first._holder)  # as a monitor that died while its transaction was under way
        with pytest.raises(EtlError, match="statement timeout"):
            second.look()
        assert written() == 10
    second.look()
    assert written() == 25
    for actor in actors:
        actor.close()


def test_hours_that_are_old_are_summed_up_to_days(api: Api) -> None:
    api.filled()
    look(api, usage=USAGE)
    hours = "date_trunc('day', now(), 'UTC') - interval '40 days' + make_interval(hours => n)"
    sums = "billed_bytes, snowpipe_bytes, snowpipe_files, copy_bytes, copy_files, applied_rows, applies, apply_seconds"
    for table in ("public.a", "public.b"):
        api.database.execute(
            f"insert into app.usage (pipeline_id, hour, table_name, rows, {sums})"
            f" select 1, {hours}, '{table}', 2, 3, 0, 0, 0, 0, 0, 0, 0.5 from generate_series(0, 30) n"
        )
    for _ in range(2):
        look(api)
        old = api.database.execute(
            "select table_name, rows, billed_bytes, apply_seconds from app.usage where hour < now() - interval '1 day' order by 1, hour"
        )
        assert old == [
            ("public.a", 48, 72, 12.0),
            ("public.a", 14, 21, 3.5),
            ("public.b", 48, 72, 12.0),
            ("public.b", 14, 21, 3.5),
        ]
    recent = api.database.execute("select count(*) from app.usage where hour > now() - interval '1 day'")
    assert recent == [(3,)]


@pytest.mark.parametrize("model", [Throughput, VerifyRun, VerifyBody])
def test_the_examples_of_the_pages_are_what_is_answered(model: type[BaseModel]) -> None:
    example: Any = model.model_config["json_schema_extra"]
    told = model.model_validate(example["example"]).model_dump(mode="json", by_alias=True, exclude_unset=True)
    assert told == example["example"]


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_pipeline_tells_what_it_brings_and_after_a_stop_what_it_has_cost(deploy: Deployment) -> None:
    address = f"127.0.0.1:{choose_port()}"
    deploy.source.execute(
        "create table t (id int primary key, note text); insert into t select g, 'n' || g from generate_series(1, 500) g;"
        "create publication p for table t"
    )
    deploy.add("shop", batch_max_size=50)
    deploy.start(API_ADDR=address, API_AUTH="disabled")
    deploy.ready("shop", 1)
    deploy.source.execute("insert into t select g, 'n' || g from generate_series(501, 800) g")
    deploy.caught_up("shop")
    with httpx.Client(base_url=f"http://{address}", timeout=30) as client:

        def seen() -> Any:
            answer = client.get(THROUGHPUT, params={"minutes": 60})
            found = answer.json()
            return found if answer.status_code == 200 and found["applies"] and found["latency"]["applied"] else None

        found = wait_for("a look of the meter", seen)
        assert found["rows_per_second"] > 0
        assert found["bytes_per_second"] > found["rows_per_second"]
        assert found["batches"] > 0
        durable = found["latency"]["durable"]
        assert 0 < durable["p50"] <= durable["p95"] <= durable["p99"] <= 60
        deploy.source.execute("insert into t select g, 'n' || g from generate_series(801, 900) g")
        deploy.caught_up("shop")
        monitor = deploy.children()["etl-monitor"]
        os.kill(monitor, 9)
        wait_for("another monitor", lambda: len(deploy.events("metrics_served")) == 2)
        assert deploy.stop() == 0
    ((rows, billed, applied),) = deploy.config.execute(
        "select sum(rows)::int, sum(billed_bytes)::int, sum(applied_rows)::int from app.usage where table_name = 'public.t'"
    )
    assert (rows, applied) == (900, 900)
    assert billed > 900 * 5
    ((applies, seconds),) = deploy.config.execute(
        "select sum(applies)::int, sum(apply_seconds) from app.usage where table_name = ''"
    )
    assert applies > 0
    assert seconds > 0
