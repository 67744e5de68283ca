"""Pipelines of one source that pause, break and come back: the others never wait, nothing is lost and nothing comes twice."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis

from etl_supervisor.embedded.snowflake.launch import LocalSnowflake
from tests.support.fix_deployment import Deployment, wait_for
from tests.support.sharing import both_same, change, elsewhere, joined, slots, status, two

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def test_a_paused_pipeline_is_parked_and_catches_up_and_joins_again(deploy: Deployment) -> None:
    two(deploy)
    before = deploy.states("other")["items"].generation
    change(deploy, 1)
    status(deploy, "other", "PAUSE")
    wait_for("the copy of the slot", lambda: len(slots(deploy)) == 2)
    change(deploy, 2)
    deploy.caught_up("shop")  # the shared position goes on
    deploy.same("shop", items=("id",))
    status(deploy, "other", "START")
    change(deploy, 3)
    joined(deploy)
    change(deploy, 4)
    both_same(deploy)
    assert deploy.states("other")["items"].generation == before  # nothing was copied again
    assert deploy.log.count('"copy_finished"') == 2
    assert deploy.stop() == 0


@pytest.mark.parametrize("place", ["parking.after_slot_copy", "parking.after_join"])
def test_a_crash_while_a_pipeline_parks_or_joins_loses_nothing(deploy: Deployment, place: str) -> None:
    two(deploy, ETL_FAILPOINTS=f"{place}=kill@1")
    status(deploy, "other", "PAUSE")
    change(deploy, 1)
    wait_for("the copy of the slot", lambda: len(slots(deploy)) == 2)
    deploy.caught_up("shop")
    change(deploy, 2)
    status(deploy, "other", "START")
    change(deploy, 3)
    joined(deploy)
    change(deploy, 4)
    both_same(deploy)
    assert place in (deploy.folder / "failpoints.log").read_text()
    assert deploy.log.count('"copy_finished"') == 2
    assert deploy.stop() == 0


def test_a_pipeline_that_paused_while_nothing_ran_is_parked_by_the_next_reader(deploy: Deployment) -> None:
    two(deploy)
    deploy.config.execute(
        "update app.pipelines set status = 'PAUSE'"
    )  # at once: one after the other, the first is parked
    wait_for("the reader to go", lambda: not any(name.startswith("etl-reader") for name in deploy.children()))
    assert len(slots(deploy)) == 1  # all are paused: there is nobody to wait for
    change(deploy, 1)
    status(deploy, "shop", "START")
    deploy.caught_up("shop")
    assert len(slots(deploy)) == 2
    deploy.kill()
    deploy.start()
    change(deploy, 2)
    deploy.caught_up("shop")
    status(deploy, "other", "START")
    joined(deploy)
    both_same(deploy)
    assert deploy.log.count('"copy_finished"') == 2
    assert deploy.stop() == 0


def test_a_pipeline_whose_destination_is_gone_is_parked_and_the_others_go_on(
    deploy: Deployment, tmp_path: Path
) -> None:
    with LocalSnowflake(tmp_path / "elsewhere" / "snowflake") as server:
        two(deploy, elsewhere(deploy, server), PARK_AFTER_SECONDS="5")
        for name in ("shop", "other"):
            deploy.caught_up(name)
        server.stop()
        change(deploy, 1)
        wait_for("the copy of the slot", lambda: len(slots(deploy)) == 2)
        change(deploy, 2)
        deploy.caught_up("shop")
        deploy.same("shop", items=("id",))
        assert '"pipeline_joined"' not in deploy.log
        server.start()
        joined(deploy)
        change(deploy, 3)
        both_same(deploy)
        assert deploy.log.count('"copy_finished"') == 2
        assert deploy.stop() == 0


@pytest.mark.parametrize("started", [False, True], ids=["while it is paused", "while it catches up"])
def test_a_parked_pipeline_outlives_the_loss_of_the_state_store(
    deploy: Deployment, redis_url: str, started: bool
) -> None:
    two(deploy)
    deploy.caught_up("other")
    status(deploy, "other", "PAUSE")
    wait_for("the copy of the slot", lambda: len(slots(deploy)) == 2)
    change(deploy, 1)
    deploy.caught_up("shop")
    if started:
        status(deploy, "other", "START")
    redis.Redis.from_url(redis_url).flushall()
    noticed = (
        '"state_written_again"',
        '"state_rebuilt"',
    )  # by the reader that runs; by the next, if it was just ending
    wait_for("the loss to be noticed", lambda: any(event in deploy.log for event in noticed))
    status(deploy, "other", "START")
    change(deploy, 2)
    joined(deploy)
    change(deploy, 3)
    both_same(deploy)
    assert deploy.log.count('"copy_finished"') == 2
    assert deploy.stop() == 0
