"""Whatever dies, every row is either loaded or in the dead letter, once."""

from __future__ import annotations

import random

import orjson
import pytest

from tests.support.fix_deployment import Deployment, wait_for
from tests.support.fix_local_snowflake import sql_session

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

TOO_LARGE = (16 << 20) + 1
KILLS = ("dead_letter.before_write", "dead_letter.after_write")


def landed(deploy: Deployment) -> set[str]:
    path = deploy.folder / "failpoints.log"
    return {line.split()[0] for line in path.read_text().splitlines()} if path.exists() else set()


def ids(deploy: Deployment) -> tuple[list[int], list[int]]:
    """Of the landing table and of the dead letter."""
    schema = f'"{deploy.destination.database}"."{deploy.destination.landing_schema}"'
    with sql_session(deploy.destination) as session, session.cursor() as cursor:
        loaded = [int(row[0]) for row in cursor.execute(f"SELECT ID FROM {schema}.LANDING_ITEMS").fetchall()]
        cursor.execute(f"SELECT ROW_KEY FROM {schema}._ETL_DEAD_LETTER WHERE PART = 0")
        return loaded, [orjson.loads(row[0])["id"] for row in cursor.fetchall()]


def prepare(deploy: Deployment) -> None:
    deploy.source.execute("create table items (id int primary key, note text)")
    deploy.source.execute("create publication p for all tables")
    deploy.server.set(commit_delay_s=0.3, reject=[{"table": "LANDING_ITEMS", "column": "NOTE", "like": "bad%"}])
    deploy.add("shop", table_error_retry_max_attempts=20)


@pytest.mark.parametrize("bad", ["'bad'", f"repeat('x', {TOO_LARGE})"], ids=["refused", "too large"])
def test_an_actor_may_die_before_and_after_a_dead_row_is_written(deploy: Deployment, bad: str) -> None:
    prepare(deploy)
    deploy.start(ETL_FAILPOINTS=",".join(f"{name}=kill" for name in KILLS))
    deploy.ready("shop")
    deploy.source.execute("insert into items select g, 'n' from generate_series(1, 500) g")
    deploy.source.execute(f"insert into items values (1000, 'n'), (1001, {bad}), (1002, 'n')")
    deploy.source.execute("insert into items select g, 'n' from generate_series(2001, 2500) g")
    wait_for("both kills", lambda: landed(deploy) == set(KILLS))
    deploy.source.execute(f"insert into items values (3000, {bad})")
    deploy.caught_up("shop")
    loaded, dead = ids(deploy)
    assert sorted(dead) == [1001, 3000]
    assert sorted(loaded) == [*range(1, 501), 1000, 1002, *range(2001, 2501)]
    assert deploy.stop() == 0
    assert deploy.log.count('"event":"row_dead_lettered"') >= 2


def test_refused_rows_are_found_after_kills_of_everything(deploy: Deployment) -> None:
    prepare(deploy)
    deploy.start()
    deploy.ready("shop")
    chance, bad, last = random.Random(5), set(), 0
    for round_number in range(6):
        for _ in range(10):
            some = range(last + 1, last + 40)
            last = some[-1]
            worst = set(chance.sample(some, chance.choice([0, 0, 1, 3])))
            bad |= worst
            rows = ", ".join(f"({n}, '{'bad' if n in worst else 'n'}')" for n in some)
            deploy.source.execute(f"insert into items values {rows}")
        if round_number % 2:
            before = deploy.confirmed("shop")
            wait_for("a step", lambda b=before: deploy.confirmed("shop") > b)  # type: ignore[misc]
        deploy.kill()
        deploy.start()
    last += 1
    deploy.source.execute(f"insert into items values ({last}, 'n')")
    deploy.caught_up("shop")
    loaded, dead = ids(deploy)
    assert sorted(dead) == sorted(bad)
    assert sorted(loaded) == sorted(set(range(1, last + 1)) - bad)
    assert deploy.stop() == 0
