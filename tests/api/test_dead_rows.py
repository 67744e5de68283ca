"""Dead rows by the API, at the local Snowflake."""

from dataclasses import replace
from typing import Any

import pytest

from etl_supervisor.ipc.messages import OpenTable
from etl_supervisor.model.pipeline import Destination
from etl_supervisor.model.table import TableName
from tests.api.test_inspection import over
from tests.api.test_resources import error
from tests.snowflake.test_dead_letter import TABLE, row
from tests.support.fix_api import PIPELINE, SOURCE, Api, body_of
from tests.support.fix_local_snowflake import sql_session
from workers.snowflake import ddl, dead_letter

DEAD = "/api/v1/pipelines/1/dead-letters"


@pytest.fixture
def pipeline(api: Api, destination: Destination) -> None:
    """A pipeline with three dead rows of public.things and one of sales.things."""
    api.post("/api/v1/sources", json=SOURCE)
    assert api.post("/api/v1/destinations", json=body_of(destination)).status_code == 201
    api.post("/api/v1/pipelines", json=PIPELINE | {"status": "PAUSE"})
    other = replace(TABLE, name=TableName("sales", "things"))
    with sql_session(destination) as session:
        for table, ordinals in ((TABLE, (0, 2, 4)), (other, (6,))):
            opening = OpenTable(1, 1, str(PIPELINE["name"]), "sys/slot", 1, 100, "channel", destination, table, "")
            ddl.ensure(session, opening)
            dead_letter.write(session, opening, [row(ordinal) for ordinal in ordinals])


def listed(api: Api) -> list[tuple[str, str]]:
    return [(item["table"], item["id"]) for item in api.get(DEAD).json()]


@pytest.mark.usefixtures("pipeline")
def test_dead_rows_are_forgotten_by_id_by_table_or_all(api: Api) -> None:
    (_, first), second, third, fourth = listed(api)
    with api.as_("operator") as operator:
        done = over(api, operator.post(f"{DEAD}/drop", json={"ids": [first]}))
        assert (done["status"], done["result"]) == ("succeeded", {"dropped": 1, "ids": [first]})
        assert (done["kind"], done["target"]) == ("drop dead rows", "pipeline 1")
        assert listed(api) == [second, third, fourth]
        done = over(api, operator.post(f"{DEAD}/drop", json={"schema": "sales", "table": "things"}))
        assert done["result"]["dropped"] == 1
        assert {table for table, _ in listed(api)} == {"public.things"}
        assert over(api, operator.post(f"{DEAD}/drop", json={"table": "nothing"}))["result"]["dropped"] == 0
        assert over(api, operator.post(f"{DEAD}/drop", json={"all": True}))["result"]["dropped"] == 2
    assert listed(api) == []
    newest = api.get("/api/v1/audit-log").json()["items"][0]
    assert (newest["action"], newest["entity"], newest["entity_id"]) == ("drop dead rows", "Operation", "pipeline 1")


@pytest.mark.usefixtures("pipeline")
def test_an_id_that_no_dead_row_has_drops_nothing(api: Api) -> None:
    (_, first), *_ = before = listed(api)
    done = over(api, api.post(f"{DEAD}/drop", json={"ids": [first, "nothing"]}))
    told = {key: value for key, value in done["error"].items() if key != "timestamp"}
    assert (done["status"], told) == (
        "failed",
        {
            "error": "EntityNotFoundError",
            "message": "DeadRow with id 'nothing' not found",
            "details": {"entity_type": "DeadRow", "entity_id": "nothing"},
        },
    )
    assert listed(api) == before


@pytest.mark.parametrize("body", [{}, {"ids": ["x"], "all": True}, {"ids": ["x"], "table": "t"}])
def test_what_is_forgotten_is_said_in_one_way(api: Api, body: dict[str, Any]) -> None:
    assert error(api.post(f"{DEAD}/drop", json=body)) == (
        422,
        "ValidationError",
        "body: give ids, or table, or all",
        {"errors": [{"field": "body", "reason": "give ids, or table, or all"}]},
    )
