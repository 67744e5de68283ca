"""Shapes that change while rows stream: source and target are the same afterwards, also when everything is killed in between."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from tests.support.fix_deployment import Deployment, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

CHANGES = {
    "add with default": ("alter table t add column price numeric(10,2) default 9.50", "price", "1.25"),
    "rename": ("alter table t rename column a to c", "c", "'new'"),
    "drop": ("alter table t drop column a", "b", "'new'"),
    "drop and add again": ("alter table t drop column a; alter table t add column a text default 'd'", "a", "'new'"),
    "names change places": (
        "alter table t rename a to x; alter table t rename b to a; alter table t rename x to b",
        "a",
        "'new'",
    ),
    "wider number": ("alter table t alter n type bigint", "n", "5000000000"),
    "values changed by using": ("alter table t alter n type int using n * 2", "n", "7"),
    "another kind of value": ("alter table t alter n type text using 'n' || n", "n", "'new'"),
    "volatile default": ("alter table t add column r text default gen_random_uuid()::text", "r", "'new'"),
    "another key": ("alter table t drop constraint t_pkey; alter table t add primary key (k2)", "b", "'new'"),
    "longer varchar": ("alter table t alter v type varchar(40)", "v", "repeat('v', 40)"),
    "enum grown": ("alter type mood add value 'grown'", "m", "'sad'"),
    "domain changed": ("alter domain positive drop constraint positive_check", "d", "-4"),
}


def prepared(deploy: Deployment) -> None:
    deploy.source.execute("create type mood as enum ('sad', 'happy')")
    deploy.source.execute("create domain positive as int constraint positive_check check (value > 0)")
    deploy.source.execute(
        "create table t (id int primary key, k2 int not null unique, a text, b text, n int, v varchar(20), m mood, d positive)"
    )
    deploy.source.execute(
        "insert into t select g, -g, 'a' || g, case when g % 3 > 0 then 'b' || g end, g, 'v', 'happy', 1 from generate_series(1, 30) g"
    )
    deploy.source.execute("create publication p for all tables")
    deploy.add("shop")
    deploy.start()
    deploy.ready("shop")
    deploy.source.execute("update t set n = n + 1 where id < 4")
    deploy.caught_up("shop")


def lines(deploy: Deployment, event: str) -> list[dict[str, Any]]:
    found = [orjson.loads(line) for line in deploy.log.splitlines()]
    return [line for line in found if line["event"] == event]


def same(deploy: Deployment, key: str = "id") -> None:
    """Wait until the table is ready and shows what the source has (a table that is copied again is ready for a moment before)."""

    def equal() -> bool:
        deploy.ready("shop")
        deploy.caught_up("shop")
        return all(difference.total == 0 for difference in deploy.differences("shop", t=(key,)))

    wait_for("source and target to be the same", equal)


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_followed_between_two_changes_of_a_transaction(deploy: Deployment, change: str) -> None:
    prepared(deploy)
    ddl, column, value = CHANGES[change]
    with deploy.source.connect(autocommit=False) as connection:
        connection.execute("update t set b = 'before' where id = 5")
        connection.execute("delete from t where id = 6")
        connection.execute(ddl.encode())
        connection.execute(f"update t set {column} = {value} where id = 7".encode())
        connection.execute("update t set m = 'sad' where id = 5")
    deploy.source.execute(f"update t set {column} = {value} where id = 8")
    deploy.caught_up("shop")
    same(deploy, "k2" if change == "another key" else "id")
    assert deploy.stop() == 0


@pytest.mark.parametrize("change", ["add with default", "rename", "drop and add again", "another kind of value"])
def test_a_change_while_everything_is_dead_is_followed(deploy: Deployment, change: str) -> None:
    prepared(deploy)
    deploy.kill()
    ddl, column, value = CHANGES[change]
    deploy.source.execute("update t set b = 'before' where id = 5")
    deploy.source.execute(ddl)
    deploy.start()
    deploy.ready("shop")
    deploy.source.execute(f"update t set {column} = {value} where id = 7")
    deploy.caught_up("shop")
    same(deploy)
    assert deploy.stop() == 0
