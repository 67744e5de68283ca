"""Pipelines that are deleted: what they leave goes after a grace, whatever dies meanwhile, and they go on or begin anew when they come back."""

from __future__ import annotations

import pytest

from etl_supervisor.state.choose import open_store
from tests.support.fix_deployment import Deployment, wait_for
from tests.support.sharing import both_same, change, elsewhere, joined, slots, status, two

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def delete(deploy: Deployment, name: str) -> None:
    """Delete its row, and keep it in a table of its own."""
    deploy.config.execute(f"create table kept as select * from app.pipelines where name = '{name}'")
    deploy.config.execute("delete from app.pipelines where name = %s", name)


def test_a_deleted_pipeline_leaves_nothing_behind_after_its_grace_and_the_last_takes_the_slot_along(
    deploy: Deployment,
) -> None:
    two(deploy, DELETE_GRACE_SECONDS="4", SHUTDOWN_GRACE_SECONDS="5")
    deploy.config.execute("delete from app.pipelines where name = 'other'")
    wait_for("the copy of the slot", lambda: len(slots(deploy)) == 2)
    change(deploy, 1)
    deploy.caught_up("shop")
    wait_for("the parked slot to go", lambda: len(slots(deploy)) == 1)
    wait_for("its state to go", lambda: not deploy.states("other"))
    deploy.same("shop", items=("id",))
    deploy.config.execute("delete from app.pipelines where name = 'shop'; delete from app.sources")
    wait_for(
        "the rows to go", lambda: deploy.config.execute("select count(*) from app.removed") == [(0,)]
    )  # the last step
    assert not slots(deploy)
    assert not deploy.states("shop")
    assert deploy.confirmed("shop") == 0
    assert deploy.stop() == 0


def test_a_pipeline_that_is_deleted_by_mistake_goes_on_when_its_row_comes_back(deploy: Deployment) -> None:
    two(deploy)
    delete(deploy, "other")
    wait_for("the copy of the slot", lambda: len(slots(deploy)) == 2)
    change(deploy, 1)
    deploy.caught_up("shop")
    deploy.config.execute("insert into app.pipelines select * from kept")
    joined(deploy)
    change(deploy, 2)
    both_same(deploy)
    assert deploy.log.count('"copy_finished"') == 2
    assert deploy.stop() == 0


def parked_position(deploy: Deployment) -> int | None:
    store = open_store(deploy.settings)
    try:
        found = store.progress("shop@other")
        return None if found is None else found.confirmed
    finally:
        store.close()


@pytest.mark.parametrize("place", ["removal.after_tables", "removal.after_slots"])
def test_a_crash_while_a_parked_pipeline_is_cleaned_up_leaves_nothing_behind(deploy: Deployment, place: str) -> None:
    two(deploy, ETL_FAILPOINTS=f"{place}=kill@1", DELETE_GRACE_SECONDS="4", SHUTDOWN_GRACE_SECONDS="5")
    status(deploy, "other", "PAUSE")
    wait_for("the copy of the slot", lambda: len(slots(deploy)) == 2)
    delete(deploy, "other")
    wait_for("the row to go", lambda: deploy.config.execute("select count(*) from app.removed") == [(0,)])
    assert place in (deploy.folder / "failpoints.log").read_text()
    assert len(slots(deploy)) == 1
    assert deploy.states("other") == {}
    assert parked_position(deploy) is None
    change(deploy, 1)
    deploy.caught_up("shop")
    deploy.same("shop", items=("id",))
    assert len(slots(deploy)) == 1
    assert deploy.stop() == 0


def test_a_parked_pipeline_whose_clean_up_had_begun_comes_back_without_a_gap(deploy: Deployment) -> None:
    two(deploy, DELETE_GRACE_SECONDS="4", SHUTDOWN_GRACE_SECONDS="5")
    deploy.caught_up("other")
    wait_for("its state to be kept", lambda: deploy.states("other")["items"].kept)
    before = deploy.states("other")["items"].generation
    status(deploy, "other", "PAUSE")
    wait_for("the copy of the slot", lambda: len(slots(deploy)) == 2)
    change(deploy, 1)  # these rows are in its own slot alone, once the others are beyond them
    deploy.caught_up("shop")
    assert deploy.stop() == 0
    delete(deploy, "other")
    store = open_store(deploy.settings)
    for table in store.tables("shop", "other"):
        store.drop_table("shop", "other", table)  # as far as `removal.after_tables`
    store.close()
    deploy.config.execute("insert into app.pipelines select * from kept; update app.pipelines set status = 'START'")
    deploy.start()
    joined(deploy)
    change(deploy, 2)
    both_same(deploy)
    assert deploy.states("other")["items"].generation == before
    assert deploy.log.count('"copy_finished"') == 2
    assert deploy.stop() == 0


def test_a_new_pipeline_of_a_deleted_ones_name_begins_anew_when_that_is_cleaned_up(deploy: Deployment) -> None:
    two(deploy, SHUTDOWN_GRACE_SECONDS="5")
    before = deploy.states("other")["items"].generation
    deploy.caught_up("other")
    there = elsewhere(deploy, name="another")
    with deploy.config.connect() as connection:
        connection.execute("delete from app.pipelines where name = 'other'")
        connection.commit()
    deploy.share("other", "shop", there)
    change(deploy, 1)
    wait_for("the older one to be cleaned up", lambda: '"pipeline_removed"' in deploy.log)
    wait_for("the new one", lambda: "items" in (found := deploy.states("other")) and found["items"].generation > before)
    deploy.ready("other")
    change(deploy, 2)
    both_same(deploy)
    assert "was deleted and is not cleaned up yet" in deploy.log
    assert deploy.log.count('"copy_finished"') == 3
    assert len(slots(deploy)) == 1
    assert deploy.stop() == 0
