"""Pipelines at work, as their readers tell it; operations; events; the whole thing beside a supervisor."""

import contextlib
import json
import time
from typing import Any

import httpx
import pytest

from etl_supervisor.embedded.ports import choose_port
from etl_supervisor.model.copy_state import CopiedRange, CopyState
from etl_supervisor.model.progress import SourceReport
from etl_supervisor.model.table import TableName
from etl_supervisor.model.table_state import Phase, TableState
from etl_supervisor.repository.desired import load
from etl_supervisor.state.choose import open_store
from tests.api.test_inspection import over
from tests.api.test_resources import error
from tests.support.fix_api import DESTINATION, PIPELINE, SOURCE, Api, body_of
from tests.support.fix_deployment import Deployment, wait_for

SHOP, PIPE = str(SOURCE["name"]), str(PIPELINE["name"])
ORDERS, LINES = TableName("public", "orders"), TableName("sales", "lines")


def reported(api: Api, **changes: Any) -> None:
    """What a reader would have written."""
    report = {"state": "streaming", "received": 0x300, "durable": 0x200, "confirmed": 0x100, "wal_end": 0x400}
    with contextlib.closing(open_store(api.settings)) as store:
        store.save_report(SHOP, SourceReport(**{**report, "reported_at": time.time(), **changes}))
        store.save_table(
            SHOP, PIPE, TableState(ORDERS, 1, 1, Phase.ERRORED, trouble="schema at orders: no", attempts=5)
        )
        store.save_table(SHOP, PIPE, TableState(LINES, 2, 1, Phase.DATASYNC))
        copied = CopiedRange(2, 2, 0, 50, 1, 500)
        store.save_copy(SHOP, PIPE, CopyState(LINES, 1, ranges=(copied,), pages_total=100, rows_total=1000))


def test_a_pipeline_that_has_not_run_has_nothing_to_tell(api: Api) -> None:
    api.filled()
    status = api.get("/api/v1/pipelines/1/status").json()
    assert (status["status"], status["reader"], status["fresh"], status["lag_bytes"]) == ("PAUSE", "", False, None)
    assert api.get("/api/v1/pipelines/1/tables").json() == []


def test_lag_states_copies_and_errors_are_told(api: Api) -> None:
    api.filled()
    reported(api, trouble="stream at shop: broken off")
    status = api.get("/api/v1/pipelines/1/status").json()
    told = ("reader", "fresh", "confirmed_lsn", "durable_lsn", "lag_bytes", "tables", "errors")
    assert {key: status[key] for key in told} == {
        "reader": "streaming",
        "fresh": True,
        "confirmed_lsn": "0/100",
        "durable_lsn": "0/200",
        "lag_bytes": 0x300,
        "tables": {"ERRORED": 1, "DATASYNC": 1},
        "errors": ["stream at shop: broken off", "schema at orders: no"],
    }
    orders, lines = api.get("/api/v1/pipelines/1/tables").json()
    assert (orders["table"], orders["state"], orders["attempts"], orders["copying"]) == ("orders", "ERRORED", 5, None)
    assert (lines["schema"], lines["copying"]["done"], lines["copying"]["rows"]) == ("sales", 0.5, 500)
    held = api.get("/api/v1/pipelines/1/tables", params={"state": "ERRORED"}).json()
    assert [item["table"] for item in held] == ["orders"]


def test_a_resync_is_asked_for_and_written_down(api: Api) -> None:
    api.filled()
    reported(api)
    with api.as_("operator") as operator:
        answer = operator.post("/api/v1/pipelines/1/resync", json={"table": "orders"})
        assert (answer.status_code, answer.json()["asked"]) == (202, "public.orders")
        assert operator.post("/api/v1/pipelines/1/resync", json={}).json()["asked"] == "every table"
        unknown = operator.post("/api/v1/pipelines/1/resync", json={"table": "nothing"})
        assert error(unknown)[2] == "Table with id 'public.nothing' not found"
    with contextlib.closing(open_store(api.settings)) as store:
        assert set(store.resyncs(SHOP, PIPE)) == {ORDERS, None}
    newest = api.get("/api/v1/audit-log").json()["items"][0]
    assert (newest["action"], newest["entity_id"]) == ("resync", f"1 {PIPE}: every table")


def test_a_retry_changes_what_the_supervisor_wants_and_so_starts_the_reader_again(api: Api) -> None:
    api.filled(status="START")
    before = load(api.settings).specs
    assert api.post("/api/v1/pipelines/1/retry").status_code == 202
    after = load(api.settings).specs
    assert before != after
    assert after[0].pipelines[0].retries == 1


def test_an_operation_whose_process_died_is_told_as_failed(api: Api) -> None:
    key = "00000000-0000-0000-0000-000000000001"
    api.database.execute(
        "insert into app.operations (id, tenant, who, kind, target, status, beat_at)"
        f" values ('{key}', 'default', 'x', 'replay', 'pipeline 1', 'running', now() - interval '31 seconds')"
    )
    found = api.get(f"/api/v1/operations/{key}").json()
    assert (found["status"], found["error"]["error"]) == ("failed", "OperationLostError")
    assert api.get("/api/v1/operations").json() == {"items": [found], "next_cursor": None}
    with api.as_("viewer", "acme") as acme:
        assert acme.get("/api/v1/operations").json()["items"] == []
        assert acme.get(f"/api/v1/operations/{key}").status_code == 404


def test_operations_are_listed_page_by_page(api: Api) -> None:
    api.database.execute(
        "insert into app.operations (id, tenant, who, kind, target, status, created_at) select gen_random_uuid(), 'default', 'x', 'replay',"
        " 'pipeline ' || g, (array['succeeded', 'failed'])[1 + g % 2], now() - g / 2 * interval '1 minute' from generate_series(1, 5) g"
    )

    def pages(**asked: object) -> list[list[str]]:
        found, cursor = [], None
        while not found or cursor is not None:
            page = api.get("/api/v1/operations", params=asked | ({"cursor": cursor} if cursor else {})).json()
            found.append([item["target"] for item in page["items"]])
            cursor = page["next_cursor"]
        return found

    every = pages(limit=2)
    assert [len(page) for page in every] == [2, 2, 1]
    assert sorted(name for page in every for name in page) == [f"pipeline {n}" for n in range(1, 6)]
    assert every[0][0] == "pipeline 1"
    assert sorted(name for page in pages(limit=1, status="failed") for name in page) == [
        "pipeline 1",
        "pipeline 3",
        "pipeline 5",
    ]
    for cursor in ("nonsense", "MTIz", "MS54"):  # no base64; no moment with an id; an id that is none
        assert error(api.get("/api/v1/operations", params={"cursor": cursor}))[:2] == (422, "ValidationError")


def test_a_destination_is_tested_and_its_dead_rows_are_listed(api: Api, destination: Any) -> None:
    api.post("/api/v1/sources", json=SOURCE | {"pg_host": "127.0.0.1", "pg_port": 1})
    assert api.post("/api/v1/destinations", json=body_of(destination)).status_code == 201
    api.post("/api/v1/pipelines", json=PIPELINE | {"status": "PAUSE"})
    done = over(api, api.post("/api/v1/destinations/1/test"))
    assert (done["status"], done["result"]["ok"]) == ("succeeded", True), done
    assert api.get("/api/v1/pipelines/1/dead-letters").json() == []
    checked = over(api, api.post("/api/v1/pipelines/1/validate"))["result"]
    wrong = [item for item in checked["findings"] if item["weight"] == "wrong"]
    assert (checked["ok"], [item["kind"] for item in wrong]) == (False, ["source_unreachable"])
    assert wrong[0]["remedy"] == "check pg_host, pg_port and the network"
    everything = over(api, api.post("/api/v1/doctor"))["result"]
    assert "source_unreachable" not in {item["kind"] for item in everything["findings"]}  # its pipeline is paused
    with api.as_("admin", tenant="default") as admin_of_a_tenant:
        assert admin_of_a_tenant.post("/api/v1/doctor").status_code == 403
    api.patch("/api/v1/destinations/1", json={"snowflake_private_key_path": "nothing.p8"})
    broken = over(api, api.post("/api/v1/destinations/1/test"))["result"]
    assert broken["ok"] is False
    assert broken["findings"][0]["place"] in ("destination local", "nothing.p8")


def test_events_tell_changes_and_sources_and_go_on_where_a_client_was(api: Api) -> None:
    api.filled()
    reported(api)
    seen: list[tuple[str, Any]] = []
    with api.stream("GET", "/api/v1/events", headers={"Last-Event-ID": "2"}) as stream:
        assert stream.headers["Content-Type"].startswith("text/event-stream")
        kind = ""
        for line in stream.iter_lines():
            if line.startswith("event: "):
                kind = line.removeprefix("event: ")
            if line.startswith("data: "):
                seen.append((kind, json.loads(line.removeprefix("data: "))))
                if len(seen) == 2:
                    with api.as_("operator") as operator:
                        operator.post("/api/v1/pipelines/1/start")
            if len(seen) == 3:
                break
    changes = [(data["action"], data["entity"]) for kind, data in seen if kind == "change"]
    assert changes == [("create", "Pipeline"), ("start", "Pipeline")]
    assert [data for kind, data in seen if kind == "source"] == [{"source": SHOP, "state": "streaming", "trouble": ""}]


REPORTS_KEPT = """
create table reports (children jsonb);
grant insert on reports to public;
create function kept() returns trigger language plpgsql as 'begin insert into public.reports values (new.children); return new; end';
create trigger kept before insert or update on app.supervisor_report for each row execute function kept()
"""


@pytest.mark.slow
def test_beside_a_supervisor_data_flows_from_what_was_sent_and_ready_is_honest(deploy: Deployment) -> None:
    address = f"127.0.0.1:{choose_port()}"
    deploy.source.execute(
        "create table t (id int primary key, v text); insert into t values (1, 'a'); create publication p for table t"
    )
    deploy.config.execute(REPORTS_KEPT)
    deploy.start(API_ADDR=address, API_AUTH="disabled")
    with httpx.Client(base_url=f"http://{address}", timeout=30) as client:

        def answers() -> bool:
            with contextlib.suppress(httpx.TransportError):
                return client.get("/health").status_code == 200
            return False

        wait_for("the API", answers)
        wait_for("monitor and actors", lambda: client.get("/ready").status_code == 200)
        names = {check["name"] for check in client.get("/ready").json()["checks"]}
        assert {"config_database", "state_store", "supervisor", "child monitor", "child actor-0"} <= names
        without = 'not children @> \'[{"name": "monitor"}, {"name": "actor-0"}, {"name": "actor-1"}]\''
        told = deploy.config.execute(f"select count(*), count(*) filter (where {without}) from reports")
        assert told[0][0] > 0
        assert told[0][1] == 0, "a report without children would be ready"
        deploy.add("shop", status="PAUSE")
        client.post("/api/v1/pipelines/1/start").raise_for_status()
        deploy.ready("shop", 1)
        deploy.source.execute("insert into t values (2, 'b')")
        deploy.caught_up("shop")
        deploy.same("shop", t=("id",))
        wait_for("the reader to be reported", lambda: client.get("/ready").status_code == 200)
        assert client.get("/api/v1/pipelines/1/status").json()["tables"] == {"READY": 1}
        pids = deploy.children()
        client.post("/api/v1/pipelines/1/retry").raise_for_status()
        wait_for(
            "another reader", lambda: deploy.children().get("etl-reader-shop") not in (None, pids["etl-reader-shop"])
        )
        deploy.ready("shop", 1)
        assert deploy.children()["etl-api"] == pids["etl-api"]
        deploy.source.execute("drop publication p")
        client.patch("/api/v1/sources/1", json={"heartbeat_seconds": 30}).raise_for_status()

        def told() -> Any:
            checks = client.get("/ready").json()["checks"]
            return [check for check in checks if check["name"] == "source shop" and not check["ok"]]

        assert wait_for("the trouble", told)[0]["reason"] == "its reader has stopped"
    assert deploy.stop() == 0


def test_destinations_are_made_as_sent(api: Api) -> None:
    made = api.post("/api/v1/destinations", json=DESTINATION | {"snowflake_private_key_passphrase": "geheim"})
    assert made.json()["snowflake_private_key_passphrase_set"] is True
    assert "geheim" not in made.text
