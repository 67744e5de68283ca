"""Pipelines that break for long, by real faults of a destination of their own: the source's slot keeps nothing for them, and they come back."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.support.fix_deployment import Deployment, wait_for
from tests.support.sharing import both_same, change, elsewhere, joined, slots, status, two

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

ALWAYS = 1_000_000


def refused(code: str, **where: str) -> dict[str, Any]:
    """Statements are answered with one of Snowflake's numbers."""
    data = {"errorCode": code, "sqlState": "XX000"}
    body = {"success": False, "code": code, "message": "no", "data": data}
    return {"path": "query-request", "count": ALWAYS, "status": 200, "body": body, **where}


FAULTS = {
    "a table's apply": lambda there: [refused("000904", sql=f"(?s)^EXECUTE IMMEDIATE.*{there}.*ITEMS")],
    "every statement": lambda there: [refused("003001", sql=there)],
}


@pytest.mark.parametrize("refuses", FAULTS)
def test_a_pipeline_whose_destination_refuses_is_parked_and_comes_back_by_itself(
    deploy: Deployment, refuses: str
) -> None:
    two(deploy, there := elsewhere(deploy), PARK_AFTER_SECONDS="12")
    deploy.source.execute("create table others (id int primary key, n int)")
    for name in ("shop", "other"):
        deploy.ready(name, 2)
        deploy.caught_up(name)
    before = {table: state.generation for table, state in deploy.states("other").items()}
    deploy.server.set(faults=FAULTS[refuses](there.database))
    change(deploy, 1)
    deploy.source.execute("insert into others values (1, 1)")
    wait_for("the copy of the slot", lambda: len(slots(deploy)) == 2)
    change(deploy, 2)
    deploy.caught_up("shop")  # the shared position goes on
    deploy.same("shop", items=("id",), others=("id",))
    wait_for("the broken one to be tried again", lambda: deploy.log.count('"source":"shop@other"') >= 2)
    assert '"pipeline_joined"' not in deploy.log
    deploy.server.set(faults=[])
    joined(deploy)
    change(deploy, 3)
    deploy.source.execute("insert into others values (2, 2)")
    both_same(deploy)
    deploy.same("other", others=("id",))
    assert deploy.log.count('"event":"pipeline_parked"') == 1
    assert {table: state.generation for table, state in deploy.states("other").items()} == before
    assert deploy.stop() == 0


def test_a_stop_while_a_pipeline_joins_does_not_wait_for_the_grace(deploy: Deployment) -> None:
    two(deploy, SHUTDOWN_GRACE_SECONDS="40")
    deploy.caught_up("other")
    status(deploy, "other", "PAUSE")
    wait_for("the copy of the slot", lambda: len(slots(deploy)) == 2)
    change(deploy, 1)
    deploy.caught_up("shop")
    deploy.server.set(commit_delay_s=4)
    status(deploy, "other", "START")
    wait_for("it to come near", lambda: '"source":"shop@other"' in deploy.log)
    began = time.monotonic()
    assert deploy.stop() == 0
    assert time.monotonic() - began < 25  # its rows become durable after 4 s
    assert '"pipeline_joined"' not in deploy.log
    assert '"child_killed"' not in deploy.log
    deploy.server.set(commit_delay_s=0)
    deploy.start()
    joined(deploy)
    change(deploy, 2)
    both_same(deploy)
    assert deploy.log.count('"copy_finished"') == 2
    assert deploy.stop() == 0
