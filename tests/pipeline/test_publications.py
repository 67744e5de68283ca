"""Publications that change while rows stream: what is published arrives, what is not any more stays as it is, and nothing is missed."""

from __future__ import annotations

import os
import signal

import pytest

from tests.support import least
from tests.support.fix_deployment import Deployment, wait_for
from tests.support.fix_local_snowflake import sql_session

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


def prepared(deploy: Deployment, publication: str) -> None:
    for table in ("a", "b"):
        deploy.source.execute(f"create table {table} (id int primary key, n int, note text)")
        deploy.source.execute(f"insert into {table} select g, g, 'n' || g from generate_series(1, 30) g")
    deploy.source.execute(f"create publication p {publication}")
    deploy.add("shop")
    deploy.start()
    deploy.ready("shop")


def same(deploy: Deployment, **keys: tuple[str, ...]) -> None:
    """Wait until source and target are the same (a table that is copied again is ready for a moment before)."""

    def equal() -> bool:
        deploy.ready("shop")
        return not any(difference.total for difference in deploy.differences("shop", **keys))

    wait_for("source and target to be the same", equal)


def ids(deploy: Deployment, table: str, column: str = "ID") -> list[int]:
    name = f'"{deploy.destination.database}"."{deploy.destination.schema}"."{table.upper()}"'
    with sql_session(deploy.destination) as session, session.cursor() as cursor:
        return [int(row[0]) for row in cursor.execute(f"SELECT {column} FROM {name} ORDER BY 1").fetchall()]


def reasons(deploy: Deployment) -> list[str]:
    return [line["reason"] for line in deploy.events("table_copied_again")]


@pytest.mark.parametrize(
    ("publication", "change"),
    [
        ("for table a", "alter publication p add table b"),
        ("for all tables", "create table c (id int primary key); insert into c select generate_series(1, 9)"),
        (
            "for tables in schema public",
            "create schema s; create table s.c (id int primary key); insert into s.c values (1); alter publication p add tables in schema s",
        ),
    ],
)
def test_a_table_that_is_added_is_copied_though_no_row_of_it_changes(
    deploy: Deployment, publication: str, change: str
) -> None:
    prepared(deploy, publication)
    before = deploy.states("shop")
    deploy.source.execute(change)
    least.source_role(deploy.source)  # a new schema needs grants of its own
    deploy.source.execute("update a set n = n + 1")
    wait_for("the new table", lambda: len(deploy.states("shop")) == len(before) + 1)
    (new,) = deploy.states("shop").keys() - before.keys()
    deploy.ready("shop", len(before) + 1)
    deploy.source.execute("delete from a where id < 5")
    deploy.caught_up("shop")
    deploy.same("shop", a=("id",))
    name = deploy.states("shop")[new].table
    expected = [row[0] for row in deploy.source.execute(f"select id from {name} order by 1")]
    assert ids(deploy, new if name.schema == "public" else f"{name.schema}__{new}") == expected
    assert deploy.states("shop")["a"].generation == before["a"].generation
    assert deploy.stop() == 0


@pytest.mark.parametrize("dead", [False, True], ids=["while it runs", "while all is dead"])
def test_a_table_that_is_removed_keeps_its_target_and_is_copied_when_it_comes_back(
    deploy: Deployment, dead: bool
) -> None:
    prepared(deploy, "for table a, b")
    deploy.ready("shop", 2)
    deploy.source.execute("insert into b values (100, 100, 'the last that is published')")
    if dead:
        deploy.kill()
    deploy.source.execute("alter publication p drop table b")
    deploy.source.execute("insert into b values (101, 101, 'not published')")
    deploy.source.execute("update a set n = n + 1")
    if dead:
        deploy.start()
    wait_for("the table to be let go", lambda: set(deploy.states("shop")) == {"a"})
    deploy.caught_up("shop")
    assert ids(deploy, "b") == [*range(1, 31), 100]
    deploy.source.execute("alter publication p add table b")
    wait_for("the table to come back", lambda: len(deploy.states("shop")) == 2)
    same(deploy, a=("id",), b=("id",))
    assert 101 in ids(deploy, "b")
    assert deploy.stop() == 0


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("alter publication p set table a where (n > 20), b", "its row filter is another one"),
        ("alter publication p drop table a; alter publication p add table a", "it was published anew"),
        ("drop publication p; create publication p for table a, b", "it was published anew"),
    ],
)
@pytest.mark.parametrize("dead", [False, True], ids=["while it runs", "while all is dead"])
def test_what_may_have_been_missed_is_copied_again(deploy: Deployment, change: str, reason: str, dead: bool) -> None:
    prepared(deploy, "for table a, b")
    deploy.ready("shop", 2)
    deploy.caught_up("shop")
    if dead:
        deploy.stop()
    deploy.source.execute(change)
    if dead:
        deploy.start()
    wait_for("the table to be copied again", lambda: reason in reasons(deploy))
    wait_for("it to be ready", lambda: deploy.states("shop")["a"].phase == "READY")
    expected = list(range(21, 31)) if "filter" in reason else list(range(1, 31))
    wait_for("the target", lambda: ids(deploy, "a") == expected)
    deploy.source.execute("insert into a values (200, 200, 'x'), (201, 2, 'y')")
    deploy.caught_up("shop")
    assert ids(deploy, "a") == [*expected, 200, *([] if "filter" in reason else [201])]
    assert deploy.stop() == 0


def test_column_lists_that_change_are_followed(deploy: Deployment) -> None:
    prepared(deploy, "for table a (id, n), b")
    deploy.ready("shop", 2)
    before = deploy.states("shop")["a"].generation
    deploy.source.execute("alter publication p set table a, b")  # no row changes afterwards
    wait_for("the table to be copied again", lambda: "more of its columns are published" in reasons(deploy))
    wait_for("its state to say so", lambda: deploy.states("shop")["a"].generation > before)
    same(deploy, a=("id",), b=("id",))
    count = len(reasons(deploy))
    deploy.source.execute("alter publication p set table a (id, note), b")
    deploy.source.execute("update a set n = 1000 where id = 1; update a set note = 'later' where id = 2")
    deploy.caught_up("shop")
    assert 1000 not in ids(deploy, "a", "COALESCE(N__DROPPED_2, 0)")
    assert len(reasons(deploy)) <= count + 1
    assert deploy.stop() == 0


def test_another_publication_beside_costs_no_copy(deploy: Deployment) -> None:
    prepared(deploy, "for table a, b")
    deploy.ready("shop", 2)
    before = deploy.states("shop")
    deploy.source.execute("alter publication p add tables in schema public")
    deploy.source.execute("insert into a values (300, 300, 'x')")
    for table in "ab":
        wait_for("the new way to be seen", lambda t=table: deploy.states("shop")[t].storage != before[t].storage)
    deploy.source.execute("alter publication p drop table a, b")
    deploy.source.execute("insert into a values (301, 301, 'x')")
    deploy.caught_up("shop")
    deploy.same("shop", a=("id",), b=("id",))
    assert reasons(deploy) == []
    assert deploy.stop() == 0


def test_a_reader_starts_and_streams_while_a_table_is_locked_for_long(deploy: Deployment) -> None:
    prepared(deploy, "for all tables")
    with deploy.source.connect() as busy, busy.transaction():
        busy.execute("lock table a in access exclusive mode")  # as VACUUM FULL and many an ALTER do
        os.kill(deploy.children()["etl-reader-shop"], signal.SIGKILL)
        deploy.source.execute(
            "update b set n = n + 1; alter table b add more text; insert into b values (31, 31, 'n', 'm')"
        )
        end = deploy.written("shop")
        wait_for("the rows of another table", lambda: deploy.confirmed("shop") >= end)
        busy.execute("update a set n = n + 1")
    deploy.caught_up("shop")
    same(deploy, a=("id",), b=("id",))
    assert not deploy.events("child_silent")
    assert deploy.stop() == 0
