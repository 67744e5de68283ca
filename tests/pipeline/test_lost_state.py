"""A state store that loses everything: nothing is copied again, nothing is lost or doubled."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis

from tests.support.fix_deployment import Deployment, wait_for
from tests.support.fix_local_snowflake import sql_session

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

Lose = Callable[[], None]


@pytest.fixture(params=["redis", "postgres"])
def lose(request: pytest.FixtureRequest, deploy: Deployment) -> Lose:
    """Empties the state store of the deployment."""
    if request.param == "redis":
        return lambda: redis.Redis.from_url(deploy.environment["REDIS_URL"]).flushall()
    deploy.environment["STATE_STORE"] = "postgres"
    object.__setattr__(deploy.settings, "state_store", "postgres")
    tables = "etl.progress, etl.epoch, etl.report, etl.table_state, etl.copy_state, etl.resync"
    return lambda: deploy.config.execute(f"truncate {tables}") and None


def prepared(deploy: Deployment) -> None:
    deploy.source.execute("create table items (id int primary key, note text)")
    deploy.source.execute("create table keyless (n int)")
    deploy.source.execute("insert into items select g, 'n' || g from generate_series(1, 200) g")
    deploy.source.execute("insert into keyless select g from generate_series(1, 50) g")
    deploy.source.execute("create publication p for all tables")
    deploy.add("shop")
    deploy.start()
    deploy.ready("shop", 2)
    deploy.source.execute("alter table items add column price int default 5")
    deploy.source.execute("update items set note = 'streamed', price = 6 where id < 20")
    deploy.source.execute("insert into keyless values (51)")
    deploy.caught_up("shop")
    wait_for("the states to be kept", lambda: all(state.kept for state in deploy.states("shop").values()))


def landed(deploy: Deployment, table: str) -> int:
    name = f'"{deploy.destination.database}"."{deploy.destination.landing_schema}"."LANDING_{table.upper()}"'
    with sql_session(deploy.destination) as session, session.cursor() as cursor:
        return int(cursor.execute(f"SELECT COUNT(*) FROM {name}").fetchone()[0])


def goes_on(deploy: Deployment, copies: int, generations: dict[str, int]) -> None:
    """More changes arrive; nothing was copied again, no row was landed twice."""
    before = landed(deploy, "items")
    deploy.source.execute("update items set note = 'later' where id > 190")
    deploy.source.execute("delete from items where id = 1")
    deploy.source.execute("insert into keyless values (52)")
    deploy.caught_up("shop")
    deploy.same("shop", items=("id",))
    assert landed(deploy, "items") == before + 11
    assert landed(deploy, "keyless") == 52
    assert len(deploy.copied) == copies
    assert {name: state.generation for name, state in deploy.states("shop").items()} == generations


def test_a_store_that_is_emptied_while_everything_runs_is_written_again(deploy: Deployment, lose: Lose) -> None:
    prepared(deploy)
    generations = {name: state.generation for name, state in deploy.states("shop").items()}
    lose()
    wait_for("the state to be written again", lambda: deploy.events("state_written_again"))
    goes_on(deploy, 2, generations)
    assert deploy.stop() == 0
    deploy.start()
    wait_for("the second reader", lambda: len(deploy.events("reader_started")) == 2)
    deploy.source.execute("update items set note = 'in the second life' where id = 7")
    deploy.caught_up("shop")
    deploy.same("shop", items=("id",))
    assert len(deploy.copied) == 2
    assert not deploy.events("state_rebuilt")
    assert deploy.stop() == 0


@pytest.mark.parametrize("killed", [False, True], ids=["stopped", "killed"])
def test_a_store_that_is_emptied_while_nothing_runs_is_filled_from_snowflake(
    deploy: Deployment, lose: Lose, killed: bool
) -> None:
    prepared(deploy)
    generations = {name: state.generation for name, state in deploy.states("shop").items()}
    deploy.source.execute("update items set note = 'perhaps landed' where id between 100 and 110")
    if killed:
        deploy.kill()
    else:
        assert deploy.stop() == 0
    deploy.source.execute("update items set note = 'not landed yet' where id between 105 and 115")
    lose()
    deploy.start()
    (line,) = wait_for("the state to be rebuilt", lambda: deploy.events("state_rebuilt"))
    assert (line["tables"], line["copied_again"]) == (2, 0)
    deploy.caught_up("shop")
    goes_on(deploy, 2, generations)
    assert deploy.stop() == 0


def test_a_table_that_was_not_ready_and_is_gone_since_is_forgotten(deploy: Deployment, lose: Lose) -> None:
    prepared(deploy)
    assert deploy.stop() == 0
    there = f'"{deploy.destination.database}"."{deploy.destination.landing_schema}"'
    with sql_session(deploy.destination) as session, session.cursor() as cursor:
        cursor.execute(f"DELETE FROM {there}._ETL_STATE WHERE LANDING_TABLE = 'LANDING_ITEMS'")
    deploy.source.execute("update items set note = 'the last that is heard of it'")
    deploy.source.execute("drop table items")
    lose()
    deploy.start()
    (line,) = wait_for("the state to be rebuilt", lambda: deploy.events("state_rebuilt"))
    assert (line["tables"], line["copied_again"]) == (2, 1)
    deploy.source.execute("insert into keyless values (52)")
    deploy.caught_up("shop")
    wait_for("the row", lambda: landed(deploy, "keyless") == 52)
    assert deploy.states("shop").keys() == {"keyless"}
    assert deploy.stop() == 0


def test_a_table_that_was_not_ready_is_copied_again_and_the_others_are_not(deploy: Deployment, lose: Lose) -> None:
    prepared(deploy)
    generations = {name: state.generation for name, state in deploy.states("shop").items()}
    assert deploy.stop() == 0
    watermarks = f'"{deploy.destination.database}"."{deploy.destination.landing_schema}"'
    with sql_session(deploy.destination) as session, session.cursor() as cursor:
        cursor.execute(f"DELETE FROM {watermarks}._ETL_STATE WHERE LANDING_TABLE = 'LANDING_ITEMS'")
    deploy.source.execute("delete from items where id < 50")
    lose()
    deploy.start()
    (line,) = wait_for("the state to be rebuilt", lambda: deploy.events("state_rebuilt"))
    assert (line["tables"], line["copied_again"]) == (2, 1)
    deploy.ready("shop", 2)
    deploy.caught_up("shop")
    deploy.same("shop", items=("id",))
    assert deploy.states("shop")["items"].generation > generations["items"]
    assert deploy.states("shop")["keyless"].generation == generations["keyless"]
    assert deploy.stop() == 0
