"""Shapes that change while rows stream: source and target are the same afterwards, also when everything is killed in between."""

from __future__ import annotations

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

COPIED_AGAIN = {
    "wider number",
    "values changed by using",
    "another kind of value",
    "volatile default",
    "another key",
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


def same(deploy: Deployment, key: str = "id", table: str = "t") -> None:
    """Wait until the table is ready and shows what the source has (a table that is copied again is ready for a moment before)."""
    end = deploy.written("shop")

    def equal() -> bool:
        if deploy.confirmed("shop") < end:
            return False
        deploy.ready("shop")
        return not any(difference.total for difference in deploy.differences("shop", **{table: (key,)}))

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
    same(deploy, "k2" if change == "another key" else "id")
    assert bool(deploy.events("table_copied_again")) == (change in COPIED_AGAIN)
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
    same(deploy)
    assert deploy.stop() == 0


def test_changes_that_follow_each_other_in_one_transaction_keep_large_values(deploy: Deployment) -> None:
    prepared(deploy)
    deploy.source.execute("alter table t alter a set storage external, alter b set storage external")
    deploy.source.execute("update t set a = repeat('a', 5000), b = repeat('b', 5000) where id < 10")
    with deploy.source.connect(autocommit=False) as connection:
        connection.execute("update t set n = 100 where id = 1")  # a and b are not sent
        connection.execute("alter table t rename column a to c")
        connection.execute("update t set n = 101 where id = 2")
        connection.execute("alter table t add column a text default 'added'")
        connection.execute("update t set id = 1003 where id = 3")
        connection.execute("alter table t drop column b")
        connection.execute("update t set a = null where id = 4")
    same(deploy)
    assert not deploy.events("table_copied_again")
    assert deploy.stop() == 0


def test_a_rewrite_without_any_row_is_noticed_and_one_that_changes_nothing_is_not(deploy: Deployment) -> None:
    prepared(deploy)
    deploy.source.execute("alter table t add column price int default 5")
    deploy.source.execute("update t set price = 6 where id = 1")
    same(deploy)
    deploy.source.execute("vacuum full t")
    deploy.source.execute("cluster t using t_pkey")
    deploy.source.execute("update t set price = 7 where id = 1")
    same(deploy)
    deploy.source.execute("alter table t alter a type text using upper(a)")
    wait_for("the rewrite to be noticed", lambda: deploy.events("table_copied_again"))
    same(deploy)
    (line,) = deploy.events("table_copied_again")
    assert line["reason"] == "its rows were rewritten"
    assert deploy.stop() == 0


def test_a_rewritten_table_is_held_where_the_policy_says_so(deploy: Deployment) -> None:
    deploy.environment["ON_REWRITE"] = "hold"
    prepared(deploy)
    deploy.source.execute("alter table t alter n type bigint using n * 2")
    deploy.source.execute("update t set n = 7 where id = 1")
    (line,) = wait_for("the table to be held", lambda: deploy.events("table_held"))
    assert line["reason"] in ("column n is of another type", "its rows were rewritten"), (
        "the stream or a look at the catalog was first"
    )
    wait_for("the state to say so", lambda: deploy.states("shop")["t"].phase == "ERRORED")
    deploy.config.execute("update app.pipelines set status = 'PAUSE'")
    wait_for("the reader to go", lambda: "etl-reader-shop" not in deploy.children())
    deploy.config.execute("update app.pipelines set status = 'START'")
    deploy.ready("shop")
    deploy.caught_up("shop")
    (difference,) = deploy.differences("shop", t=("id",))
    assert (difference.missing, difference.extra, difference.doubled) == (0, 0, 0)
    assert deploy.stop() == 0


def test_a_table_that_is_renamed_goes_on_under_its_new_name(deploy: Deployment) -> None:
    prepared(deploy)
    with deploy.source.connect(autocommit=False) as connection:
        connection.execute("update t set b = 'before' where id = 5")
        connection.execute("alter table t rename to r")
        connection.execute("update r set b = 'after' where id = 6")
    wait_for("the new name", lambda: "r" in deploy.states("shop"))
    same(deploy, table="r")
    assert list(deploy.states("shop")) == ["r"]
    deploy.kill()
    deploy.source.execute("update r set b = 'then' where id = 7")
    deploy.source.execute("alter table r rename to s")
    deploy.start()
    deploy.source.execute("update s set b = 'again' where id = 8")
    wait_for("the newest name", lambda: "s" in deploy.states("shop"))
    same(deploy, table="s")
    assert deploy.stop() == 0


@pytest.mark.parametrize("killed", [False, True])
def test_a_table_made_anew_under_its_name_replaces_the_old_rows(deploy: Deployment, killed: bool) -> None:
    prepared(deploy)
    if killed:
        deploy.kill()
    deploy.source.execute("update t set b = 'last' where id = 5")
    deploy.source.execute("drop table t")
    deploy.source.execute("create table t (b int, id int primary key, fresh text)")
    deploy.source.execute("insert into t select g, g, 'f' from generate_series(20, 40) g")
    if killed:
        deploy.start()
    wait_for("the second copy", lambda: len(deploy.events("copy_finished")) == 2)
    same(deploy)
    assert deploy.stop() == 0


def test_a_table_that_is_dropped_is_let_go_and_its_target_stays(deploy: Deployment) -> None:
    prepared(deploy)
    deploy.source.execute("create table u (id int primary key)")
    deploy.source.execute("insert into u values (1)")
    deploy.ready("shop", 2)
    deploy.source.execute("update t set b = 'last' where id = 5")
    deploy.source.execute("drop table t")
    wait_for("the table to be let go", lambda: list(deploy.states("shop")) == ["u"])
    deploy.source.execute("insert into u values (2)")
    deploy.caught_up("shop")
    deploy.same("shop", u=("id",))
    assert not deploy.events("table_stopped")
    assert deploy.stop() == 0


PARTITIONS = {
    "a partition was attached": "alter table m attach partition other for values from (200) to (300)",
    "a partition was detached or dropped": "alter table m detach partition m1",
    "a partition was truncated": "truncate m1",
}


@pytest.mark.parametrize("reason", PARTITIONS)
def test_partitions_that_change_without_an_event_are_noticed(deploy: Deployment, reason: str) -> None:
    deploy.source.execute("create table m (id int primary key, t text) partition by range (id)")
    deploy.source.execute("create table m1 partition of m for values from (0) to (100)")
    deploy.source.execute("create table m2 partition of m for values from (100) to (200)")
    deploy.source.execute("create table other (id int primary key, t text)")
    deploy.source.execute("insert into other select g, 'o' from generate_series(200, 220) g")
    deploy.source.execute("insert into m select g, 'm' from generate_series(90, 110) g")
    deploy.source.execute("create publication p for table m with (publish_via_partition_root)")
    deploy.add("shop")
    deploy.start()
    deploy.ready("shop")
    deploy.source.execute("create table m3 partition of m for values from (300) to (400)")
    deploy.source.execute("insert into m values (300, 'new partition')")
    deploy.source.execute("vacuum full m2")
    deploy.caught_up("shop")
    deploy.same("shop", m=("id",))
    deploy.source.execute(PARTITIONS[reason])
    (line,) = wait_for("it to be noticed", lambda: deploy.events("table_copied_again"))
    assert line["reason"] == reason
    same(deploy, table="m")
    assert deploy.stop() == 0


@pytest.mark.parametrize("in_order", [True, False], ids=["seen as it happens", "seen later"])
def test_a_key_that_a_table_of_full_identity_gets_or_loses_is_noticed(deploy: Deployment, in_order: bool) -> None:
    """Its messages are the same with and without the key: the catalog tells."""
    deploy.source.execute("create table t (id int, note text); alter table t replica identity full")
    deploy.source.execute("insert into t select g, 'n' from generate_series(1, 20) g")
    deploy.source.execute("create publication p for all tables")
    deploy.add("shop")
    deploy.start()
    deploy.ready("shop")
    if not in_order:
        deploy.kill()
    deploy.source.execute("update t set note = 'before' where id = 1; delete from t where id = 2")
    deploy.source.execute("alter table t add primary key (id)")
    deploy.source.execute("update t set note = 'after' where id = 3; update t set id = 104 where id = 4")
    if not in_order:
        deploy.start()
    wait_for("the line", lambda: deploy.events("table_copied_again"))
    same(deploy)
    deploy.source.execute("delete from t where id = 5; insert into t values (21, 'new')")
    same(deploy)
    assert [line["reason"] for line in deploy.events("table_copied_again")] == ["its key is another one"]
    deploy.source.execute("alter table t drop constraint t_pkey; insert into t values (21, 'twice')")
    wait_for("the second line", lambda: len(deploy.events("table_copied_again")) == 2)
    deploy.ready("shop")
    assert deploy.stop() == 0
