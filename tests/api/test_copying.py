"""First copies, as the API tells them."""

import contextlib
from typing import Any

import orjson

from etl_supervisor.cli.status import as_json
from etl_supervisor.model.copy_state import CopiedRange, CopyState
from etl_supervisor.model.table import TableName
from etl_supervisor.model.table_state import Phase, TableState
from etl_supervisor.state.choose import open_store
from tests.api.test_live import PIPE, SHOP
from tests.api.test_resources import error
from tests.support.fix_api import Api

BACKFILLS = "/api/v1/pipelines/1/backfills"
RANGES = (CopiedRange(2, 2, 0, 50, 1, 500), CopiedRange(2, 2, 60, 70, 1, 100))


def table(name: str, phase: Phase, copy: CopyState | None = None, **state: Any) -> tuple[TableState, CopyState | None]:
    return TableState(TableName("public", name), 1, 2, phase, **state), copy


def copied(name: str, generation: int = 2, **changes: Any) -> CopyState:
    known = {"ranges": RANGES, "pages_total": 120, "rows_total": 1200, "began": 1000.0, "reported_at": 1010.0}
    return CopyState(
        TableName("public", name), generation, **{**known, "began_rows": 500, "began_pages": 50, **changes}
    )


def written(api: Api) -> None:
    """One table in each stage."""
    tables = [
        table("a_ready", Phase.READY, copied("a_ready", copy_lsn=77), rows_copied=600),
        table("b_runs", Phase.DATASYNC, copied("b_runs")),
        table("c_waits", Phase.INIT, copied("c_waits", generation=1, copy_lsn=66)),
        table("d_held", Phase.ERRORED, copied("d_held"), resume=Phase.DATASYNC, trouble="copy at d_held: no"),
        table("e_held_later", Phase.ERRORED, copied("e_held_later", copy_lsn=77), resume=Phase.READY),
        table("f_forgotten", Phase.READY, rows_copied=9),
    ]
    with contextlib.closing(open_store(api.settings)) as store:
        for state, copy in tables:
            store.save_table(SHOP, PIPE, state)
            if copy is not None:
                store.save_copy(SHOP, PIPE, copy)


def test_each_stage_of_a_copy_is_told(api: Api) -> None:
    api.filled()
    assert api.get(BACKFILLS).json() == {"items": [], "next_cursor": None}
    written(api)
    found = {item["table"]: item for item in api.get(BACKFILLS).json()["items"]}
    assert {name: item["stage"] for name, item in found.items()} == {
        "a_ready": "complete",
        "b_runs": "copying",
        "c_waits": "waiting",
        "d_held": "stopped",
        "e_held_later": "complete",
        "f_forgotten": "complete",
    }
    assert found["b_runs"] == {
        "schema": "public",
        "table": "b_runs",
        "state": "DATASYNC",
        "stage": "copying",
        "rows_copied": 0,
        "trouble": "",
        "copy": {
            "rows": 600,
            "rows_total": 1200,
            "rows_before": 500,
            "bytes": 60 * 8192,
            "bytes_total": 120 * 8192,
            "pages": 60,
            "pages_total": 120,
            "done": 0.5,
            "rows_per_second": 10.0,
            "seconds_left": 60.0,
            "began_at": 1000.0,
            "finished_at": None,
            "reported_at": 1010.0,
            "trouble": "",
        },
    }
    over = found["a_ready"]["copy"]
    assert (over["done"], over["finished_at"], over["seconds_left"]) == (1.0, 1010.0, 0.0)
    assert (found["a_ready"]["rows_copied"], found["f_forgotten"]["copy"]) == (600, None)
    assert (found["c_waits"]["copy"], found["d_held"]["trouble"]) == (None, "copy at d_held: no")


def test_copies_come_page_by_page_and_by_stage(api: Api) -> None:
    api.filled()
    written(api)
    seen, cursor = [], None
    for _ in range(3):
        page = api.get(BACKFILLS, params={"limit": 2} | ({"cursor": cursor} if cursor else {})).json()
        seen += [item["table"] for item in page["items"]]
        cursor = page["next_cursor"]
    assert (seen, cursor) == (["a_ready", "b_runs", "c_waits", "d_held", "e_held_later", "f_forgotten"], None)
    stopped = api.get(BACKFILLS, params={"stage": "stopped"}).json()
    assert ([item["table"] for item in stopped["items"]], stopped["next_cursor"]) == (["d_held"], None)
    for nonsense in ("x", "e30=", "WzFd"):
        assert error(api.get(BACKFILLS, params={"cursor": nonsense})) == (
            422,
            "ValidationError",
            "cursor: it is not a next_cursor of this list",
            {"errors": [{"field": "cursor", "reason": "it is not a next_cursor of this list"}]},
        )
    with api.as_("viewer", "acme") as acme:
        assert acme.get(BACKFILLS).status_code == 404


def test_status_and_the_api_tell_the_same_of_a_copy(api: Api) -> None:
    api.filled(status="START")
    written(api)
    theirs = {item["table"]: item["copy"] for item in orjson.loads(as_json(api.settings))["tables"]}
    ours = {item["table"]: item["copy"] for item in api.get(BACKFILLS).json()["items"]}
    assert theirs["b_runs"] == ours["b_runs"]
    tables = {item["table"]: item["copying"] for item in api.get("/api/v1/pipelines/1/tables").json()}
    assert tables["b_runs"] == ours["b_runs"]
    assert {name for name, copy in theirs.items() if copy is not None} == {"b_runs"}
    assert {name for name, copy in tables.items() if copy is not None} == {"b_runs"}
