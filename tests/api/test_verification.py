"""Verifications by the API: one of a pipeline at a time, what they found, and that they are those of the command."""

import contextlib
import subprocess
import sys
import time
from typing import Any

import httpx
import orjson
import pytest

from etl_supervisor.embedded.ports import choose_port
from etl_supervisor.model.verified import Verified
from etl_supervisor.monitor import verification
from etl_supervisor.repository import verify_runs
from etl_supervisor.repository.verify_runs import LOST_SECONDS, Outcome
from etl_supervisor.state.choose import open_store
from tests.api.test_inspection import over
from tests.api.test_live import ORDERS, PIPE, SHOP, reported
from tests.api.test_resources import error
from tests.support.fix_api import CONNECT_RETRIES, Api
from tests.support.fix_deployment import Deployment, wait_for
from tests.support.fix_local_snowflake import sql_session

VERIFY, RUNS = "/api/v1/pipelines/1/verify", "/api/v1/pipelines/1/verify-runs"


def test_what_can_not_be_verified_is_refused_with_its_reason(api: Api) -> None:
    api.filled()
    assert error(api.post(VERIFY, json={})) == (
        409,
        "ConflictError",
        f"Pipeline {PIPE} is not started",
        {"entity_type": "Pipeline", "entity_id": "1"},
    )
    api.post("/api/v1/pipelines/1/start")
    reported(api)
    assert error(api.post(VERIFY, json={"tables": ["nothing"]})) == (
        422,
        "ConfigError",
        f"pipeline {PIPE}: it has no table nothing",
        {"kind": "config", "place": f"pipeline {PIPE}", "remedy": "see `status` for the tables it has"},
    )
    assert error(api.post(VERIFY, json={"tables": []}))[0] == 422
    assert error(api.post(VERIFY, json={"keys": 1001}))[:2] == (422, "ValidationError")
    assert error(api.post("/api/v1/pipelines/9/verify", json={}))[:2] == (404, "EntityNotFoundError")
    assert api.get(RUNS).json() == {"items": [], "next_cursor": None}
    with api.as_("operator", "acme") as acme:
        assert acme.post(VERIFY, json={}).status_code == 404
        assert acme.get(RUNS).status_code == 404


def test_one_verification_of_a_pipeline_runs_at_a_time_and_one_that_fell_silent_is_lost(api: Api) -> None:
    api.filled(status="START")
    reported(api)
    first = verify_runs.claim(api.settings, 1, "somebody", repair=False, tables=2)
    assert first == 1
    assert verify_runs.claim(api.settings, 1, "somebody else", repair=False, tables=2) is None
    remedy = "wait for its end; when its process died it is given up by itself"
    assert error(api.post(VERIFY, json={})) == (
        409,
        "ConflictError",
        f"Pipeline {PIPE} is being verified already",
        {"entity_type": "Pipeline", "entity_id": "1", "remedy": remedy},
    )
    with pytest.raises(verification.VerifiedNowError) as told_to_the_command:
        verification.begin(api.settings, verification.Wish(PIPE, "the command"))
    line = f"config at pipeline {PIPE}: it is being verified already ({remedy})"
    assert told_to_the_command.value.line == line
    (running,) = api.get(RUNS).json()["items"]
    told = ("id", "status", "who", "repair", "tables", "equal", "findings", "error", "finished_at")
    assert {name: running[name] for name in told} == {
        "id": 1,
        "status": "running",
        "who": "somebody",
        "repair": False,
        "tables": 2,
        "equal": None,
        "findings": None,
        "error": None,
        "finished_at": None,
    }
    silent = f"update app.verify_runs set beat_at = now() - interval '{LOST_SECONDS + 1} seconds' where id = 1"
    api.database.execute(silent)
    assert api.get(RUNS).json()["items"][0]["status"] == "lost"
    second = verify_runs.claim(api.settings, 1, "somebody else", repair=False, tables=2)
    assert second is not None
    assert second > first
    assert not verify_runs.beat(api.settings, 1)
    assert not verify_runs.finish(api.settings, 1, Outcome(2, []))
    assert verify_runs.finish(api.settings, second, Outcome(2, []))
    page = api.get(RUNS, params={"limit": 1}).json()
    assert [(item["id"], item["status"], item["equal"]) for item in page["items"]] == [(second, "succeeded", 2)]
    rest = api.get(RUNS, params={"limit": 1, "cursor": page["next_cursor"]}).json()
    assert [(item["id"], item["status"], rest["next_cursor"]) for item in rest["items"]] == [(1, "lost", None)]


def test_a_verification_that_can_not_reach_the_destination_fails_in_both_books_and_another_may_begin(api: Api) -> None:
    api.filled(status="START")
    reported(api)
    for number in (1, 2):
        done = over(api, api.post(VERIFY, json={"tables": ["orders"]}))
        assert (done["kind"], done["target"], done["status"]) == ("verify", "pipeline 1", "failed")
        assert done["error"]["error"] == "ConfigError"
        newest = api.get(RUNS).json()["items"][0]
        assert (newest["id"], newest["status"], newest["tables"], newest["equal"]) == (number, "failed", 1, 0)
        assert done["error"]["message"].partition(": ")[2] in newest["error"]


def test_up_to_where_a_table_is_known_to_be_equal_is_told_with_the_tables(api: Api) -> None:
    api.filled()
    reported(api)
    with contextlib.closing(open_store(api.settings)) as store:
        store.save_verified(SHOP, PIPE, Verified(ORDERS, 0x1A2B3C8, 1_700_000_000.5, 10))
    orders, lines = api.get("/api/v1/pipelines/1/tables").json()
    assert (orders["verified_through"], orders["verified_at"]) == ("0/1A2B3C8", 1_700_000_000.5)
    assert (lines["verified_through"], lines["verified_at"]) == (None, None)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_the_api_finds_names_and_repairs_what_the_command_finds(deploy: Deployment) -> None:
    address = f"127.0.0.1:{choose_port()}"
    deploy.source.execute(
        "create table items (id int primary key, note text); insert into items select g, 'n' || g from generate_series(1, 100) g;"
        "create table others (id int primary key); insert into others values (1); create publication p for all tables"
    )
    deploy.add("shop")
    deploy.start(API_ADDR=address, API_AUTH="disabled")
    deploy.ready("shop", 2)
    deploy.caught_up("shop")
    schema = f'"{deploy.destination.database}"."{deploy.destination.schema}"'
    with sql_session(deploy.destination) as session, session.cursor() as cursor:
        cursor.execute(f"UPDATE {schema}.ITEMS SET NOTE = 'spoilt' WHERE ID = 7")
        cursor.execute(f"DELETE FROM {schema}.ITEMS WHERE ID IN (11, 12)")
    calls = httpx.HTTPTransport(retries=CONNECT_RETRIES)  # it may listen later than the tables are READY
    with httpx.Client(base_url=f"http://{address}", timeout=30, transport=calls) as client:

        def verified(**body: Any) -> Any:
            asked = client.post(VERIFY, json=body)
            assert asked.status_code == 202, asked.text
            path = f"/api/v1/operations/{asked.json()['id']}"
            wait_for("the verification", lambda: client.get(path).json()["status"] != "running")
            found = client.get(path).json()
            assert found["status"] == "succeeded", found
            return found["result"]

        command = [sys.executable, "-m", "etl_supervisor.cli.main", "verify", "shop", "--json"]
        printed = subprocess.run(command, env=deploy.environment, cwd=deploy.folder, capture_output=True, text=True)
        theirs = [orjson.loads(line) for line in printed.stdout.splitlines()]
        ours = verified()
        assert (ours["run"], ours["equal"]) == (2, False)
        plain = [{name: value for name, value in item.items() if name != "lsn"} for item in ours["tables"]]
        assert plain == [{name: value for name, value in item.items() if name != "lsn"} for item in theirs]
        assert (plain[0]["missing_keys"], plain[0]["different_keys"]) == ([["11"], ["12"]], [["7"]])
        generation = deploy.states("shop")["items"].generation
        ours = verified(tables=["public.items"], repair=True, keys=1)
        assert (ours["tables"][0]["missing"], ours["tables"][0]["missing_keys"]) == (2, [["11"]])
        assert [(item["table"], item["equal"], item["repaired"]) for item in ours["tables"]] == [
            ("public.items", False, 3),
            ("public.items", True, None),
        ]
        assert deploy.states("shop")["items"].generation == generation
        assert verified()["equal"] is True
        runs = client.get(RUNS).json()["items"]
        assert [(run["id"], run["tables"], run["equal"], run["repair"]) for run in runs] == [
            (4, 2, 2, False),
            (3, 1, 1, True),
            (2, 2, 1, False),
            (1, 2, 1, False),
        ]
        (item,) = runs[2]["findings"]
        assert (item["table"], item["missing"], item["different"]) == ("public.items", 2, 1)
        assert runs[3]["who"].startswith("etl-supervisor verify on ")
        assert "spoilt" not in deploy.log
        stated = client.get("/api/v1/pipelines/1/tables").json()
        assert all(time.time() - table["verified_at"] < 60 for table in stated)
    assert deploy.stop() == 0
