"""Pipelines that are parked while slots are lost: each comes back by itself, with everything that was deleted in the gap gone."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from etl_supervisor.embedded.snowflake.launch import LocalSnowflake
from tests.support.fix_deployment import Deployment, drop_slot, wait_for
from tests.support.sharing import both_same, change, elsewhere, joined, slots, status, two

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def by_policy(deploy: Deployment) -> None:
    deploy.config.execute("update app.sources set on_slot_lost = 'resync'")


def parked(deploy: Deployment) -> tuple[str, str]:
    """Pause the pipeline other; the source's slot, and its own."""
    status(deploy, "other", "PAUSE")
    wait_for("the copy of the slot", lambda: len(slots(deploy)) == 2)
    change(deploy, 1)
    deploy.caught_up("shop")
    shared, own = slots(deploy)
    return shared, own


def dropped(deploy: Deployment, slot: str) -> bool:
    """Drop a slot, whoever reads it; False when its reader was back too soon."""
    deploy.source.execute(
        "select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = %s", slot
    )
    try:
        deploy.source.execute("select pg_drop_replication_slot(%s)", slot)
    except psycopg.errors.ObjectInUse:
        return False
    return True


def begun_anew(deploy: Deployment, name: str, before: int) -> None:
    wait_for(f"a generation of {name}", lambda: deploy.states(name)["items"].generation > before)
    deploy.ready(name)


def test_a_pipeline_that_is_paused_while_its_source_gets_a_new_slot_begins_anew_with_it(deploy: Deployment) -> None:
    two(deploy)
    by_policy(deploy)
    before = deploy.states("other")["items"].generation
    shared, _ = parked(deploy)
    assert deploy.stop() == 0
    drop_slot(deploy.source, shared)
    deploy.source.execute("delete from items where id between 20 and 40")
    deploy.start(ETL_FAILPOINTS="parking.after_leave=kill@1")
    wait_for("the slot to be replaced", lambda: '"slot_replaced"' in deploy.log)
    wait_for("the older slot to go", lambda: '"pipeline_begins_anew"' in deploy.log and slots(deploy) == [shared])
    change(deploy, 2)
    deploy.ready("shop")
    deploy.caught_up("shop")
    assert slots(deploy) == [shared]  # nothing is kept for it: it begins anew whenever it starts
    status(deploy, "other", "START")
    begun_anew(deploy, "other", before)
    change(deploy, 3)
    both_same(deploy)
    assert "parking.after_leave" in (deploy.folder / "failpoints.log").read_text()
    assert slots(deploy) == [shared]
    assert deploy.stop() == 0


def test_a_pipeline_that_is_broken_while_its_source_loses_the_slot_comes_back(
    deploy: Deployment, tmp_path: Path
) -> None:
    with LocalSnowflake(tmp_path / "elsewhere" / "snowflake") as server:
        two(deploy, elsewhere(deploy, server), PARK_AFTER_SECONDS="5")
        by_policy(deploy)
        before = deploy.states("other")["items"].generation
        for name in ("shop", "other"):
            deploy.caught_up(name)
        (shared,) = slots(deploy)
        server.stop()
        change(deploy, 1)
        wait_for("the copy of the slot", lambda: len(slots(deploy)) == 2)
        wait_for("the slot to be dropped", lambda: dropped(deploy, shared))
        deploy.source.execute("delete from items where id between 20 and 40")
        wait_for("the slot to be replaced", lambda: '"slot_replaced"' in deploy.log)
        wait_for("the older slot to go", lambda: '"pipeline_begins_anew"' in deploy.log)
        change(deploy, 2)
        begun_anew(deploy, "shop", before)
        deploy.caught_up("shop")
        deploy.same("shop", items=("id",))
        server.start()
        begun_anew(deploy, "other", before)
        wait_for("all to stream together", lambda: slots(deploy) == [shared])
        change(deploy, 3)
        both_same(deploy)
        assert deploy.stop() == 0


def test_a_parked_pipeline_whose_own_slot_was_dropped_is_copied_again_and_joins(deploy: Deployment) -> None:
    two(deploy)
    by_policy(deploy)
    before = {name: deploy.states(name)["items"].generation for name in ("shop", "other")}
    _, own = parked(deploy)
    assert dropped(deploy, own)
    deploy.source.execute("delete from items where id between 20 and 40")
    deploy.caught_up("shop")
    status(deploy, "other", "START")
    begun_anew(deploy, "other", before["other"])
    joined(deploy)
    change(deploy, 2)
    both_same(deploy)
    assert deploy.states("shop")["items"].generation == before["shop"]
    assert deploy.stop() == 0
