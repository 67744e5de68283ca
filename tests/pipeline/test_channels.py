"""Several channels per table: every row once, by the channel of its key, in the order of positions."""

from __future__ import annotations

import random

import pytest

from tests.chaos.test_crashes import KEYS, change, make_tables
from tests.support.fix_deployment import Deployment, wait_for
from tests.support.load import load_on

HOUR_SECONDS = 3600.0


def channels(deploy: Deployment, table: str) -> dict[str, int]:
    """The channels of a table's stream, with the rows that came in by them."""
    found = {}
    for name, status in deploy.server.state()["channels"].items():
        database, _, pipe, channel = name.split("|")
        if database == deploy.destination.database and f"LANDING_{table}-" in pipe and "-copy-" not in channel:
            found[channel] = status["rows_inserted"]
    return found


@pytest.mark.parametrize("transfer", ["text", "binary"])
def test_rows_are_spread_over_the_channels_and_arrive_once(deploy: Deployment, transfer: str) -> None:
    make_tables(deploy.source)
    deploy.source.execute("create table loose (v int)")
    deploy.add("shop", channels_per_table=3, transfer=transfer)
    deploy.start()
    deploy.ready("shop", 3)
    chance = random.Random(5)
    with deploy.source.connect() as connection:
        for number in range(60):
            change(connection, chance)
            if number % 20 == 10:
                connection.execute("truncate pairs; insert into pairs values (1, 'after', 1)")
                connection.execute("insert into loose values (1)")
            connection.commit()
    deploy.caught_up("shop")
    deploy.same("shop", **KEYS)
    spread = channels(deploy, "ITEMS")
    assert len(spread) == 3
    assert min(spread.values()) > 0
    assert len(channels(deploy, "LOOSE")) == 1, "rows without a key have one channel"
    assert deploy.stop() == 0


@pytest.mark.slow
def test_another_number_of_channels_begins_with_another_copy(deploy: Deployment) -> None:
    make_tables(deploy.source)
    deploy.add("shop", channels_per_table=2)
    deploy.start()
    deploy.ready("shop", 2)
    deploy.source.execute("update items set n = n + 1 where id < 300")
    deploy.caught_up("shop")
    deploy.config.execute("update app.pipelines set channels_per_table = 4")
    wait_for("another reader", lambda: deploy.log.count('"event":"reader_started"') == 2)
    deploy.source.execute("update items set n = n + 1 where id < 300")
    deploy.caught_up("shop")
    assert len(channels(deploy, "ITEMS")) == 2, "the generation keeps its channels"
    deploy.source.execute("alter table items alter n type bigint using n + 1")
    deploy.source.execute("update items set n = n + 1 where id < 300")
    deploy.caught_up("shop")
    deploy.ready("shop", 2)
    deploy.source.execute("update items set n = n + 1 where id < 300")
    deploy.caught_up("shop")
    deploy.same("shop", **KEYS)
    assert len({name.rsplit("-", 1)[1] for name in channels(deploy, "ITEMS")}) == 4
    assert deploy.stop() == 0


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_deaths_between_the_appends_of_a_segment_lose_and_double_nothing(deploy: Deployment) -> None:
    names = {"shards.between_appends", "actor.after_open", "actor.before_append", "actor.before_durable"}
    make_tables(deploy.source)
    deploy.server.set(commit_delay_s=0.3)
    deploy.add("shop", channels_per_table=3, table_error_retry_max_attempts=20)
    visits = {"shards.between_appends": 20, "actor.after_open": 3, "actor.before_append": 8, "actor.before_durable": 6}
    deploy.start(ETL_FAILPOINTS=",".join(f"{name}=kill@{visits[name]}" for name in names))

    def landed() -> set[str]:
        path = deploy.folder / "failpoints.log"
        return {line.split()[0] for line in path.read_text().splitlines()} if path.exists() else set()

    with load_on(deploy.source, change) as done:
        wait_for("all kills", lambda: landed() == names, 150)
        before = done[0]
        wait_for("load afterwards", lambda: done[0] > before + 50)
    deploy.ready("shop", 2)
    deploy.caught_up("shop")
    deploy.same("shop", **KEYS)
    assert deploy.stop() == 0


def pending(deploy: Deployment) -> int:
    """Pieces that the server has taken and not committed."""
    return sum(int(channel["pending"]) for channel in deploy.server.state()["channels"].values())


@pytest.mark.slow
def test_rows_that_died_with_the_server_are_sent_again_though_no_other_follows(deploy: Deployment) -> None:
    make_tables(deploy.source)
    deploy.add("shop")
    deploy.start()
    deploy.ready("shop", 2)
    deploy.server.set(commit_delay_s=HOUR_SECONDS)
    deploy.source.execute("update items set n = n + 1 where id < 300")
    wait_for("rows to be pending", lambda: pending(deploy))
    deploy.server.stop()
    deploy.server.start()
    deploy.caught_up("shop", 30)
    deploy.same("shop", **KEYS)
    assert deploy.stop() == 0


@pytest.mark.slow
def test_rows_that_snowflake_took_and_forgot_are_sent_again(deploy: Deployment) -> None:
    """Its status goes on to say that the channel is well."""
    make_tables(deploy.source)
    deploy.add("shop")
    deploy.start(SNOWFLAKE_COMMIT_SECONDS_MAX="3")
    deploy.ready("shop", 2)
    taken = {"path": "/rows$", "count": 1, "status": 200, "body": {"next_continuation_token": "1_1"}}
    deploy.server.set(faults=[taken])
    deploy.source.execute("update items set n = n + 1 where id = 1")
    deploy.caught_up("shop", 30)
    deploy.same("shop", **KEYS)
    (stopped,) = deploy.events("table_stopped")
    assert stopped["kind"] == "channel"
    assert stopped["reason"] == "Snowflake has taken rows and committed none of them for 3 s"
    assert deploy.stop() == 0
