"""Pipelines that come, go and are wrong; schemas that change; what `status` and the metrics say."""

from __future__ import annotations

import subprocess
import sys
import urllib.request

import pytest

from tests.support.fix_deployment import Deployment, drop_slot, wait_for
from tests.support.fix_postgres import Database

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


def simple(database: Database, rows: int = 10) -> None:
    database.execute("create table items (id int primary key, note text)")
    database.execute(f"insert into items select g, 'n' || g from generate_series(1, {rows}) g")
    database.execute("create publication p for all tables")


def test_wrong_sources_are_one_clear_line_each_and_the_good_one_goes_on(deploy: Deployment) -> None:
    simple(deploy.source)
    deploy.add("wrong-password", pg_password="not-the-password", pg_username="nobody_here")
    deploy.add("wrong-database", pg_database="nowhere")
    deploy.add("wrong-publication", publication_name="missing")
    deploy.add("unreachable", pg_port=1)
    deploy.add("good")
    deploy.start()
    deploy.ready("good")
    deploy.source.execute("insert into items values (1000, 'later')")
    expected = {
        "reader-wrong-password": ("source_auth", "correct pg_username"),
        "reader-wrong-database": ("source_setup", "correct pg_database"),
        "reader-wrong-publication": ("source_setup", "CREATE PUBLICATION missing FOR ALL TABLES"),
        "reader-unreachable": ("source_unreachable", "check pg_host"),
    }
    wait_for("all four lines", lambda: {line["process"] for line in deploy.events("child_failed")} >= set(expected))
    for line in deploy.events("child_failed"):
        kind, remedy = expected[line["process"]]
        assert line["kind"] == kind
        assert remedy in line["remedy"]
    deploy.caught_up("good")
    deploy.same("good", items=("id",))
    assert deploy.stop() == 0
    assert "not-the-password" not in deploy.log
    assert "child_crashed" not in deploy.log
    assert str(deploy.source.server.dsn("x")).split("password=")[-1].split()[0] not in deploy.log


def test_a_pipeline_is_added_paused_and_started_again_while_others_run(
    deploy: Deployment, second_source: Database
) -> None:
    simple(deploy.source)
    second_source.execute("create table others (id int primary key, note text)")
    second_source.execute("insert into others values (1, 'a')")
    second_source.execute("create publication p for all tables")
    deploy.add("first")
    deploy.start()
    deploy.ready("first")
    deploy.add("second", second_source)
    deploy.ready("second")
    deploy.config.execute("update app.pipelines set status = 'PAUSE' where name = 'second'")
    wait_for("the reader to go", lambda: "etl-reader-seco" not in deploy.children())
    second_source.execute("insert into others values (2, 'while paused')")
    deploy.config.execute("update app.pipelines set status = 'START' where name = 'second'")
    deploy.caught_up("second")
    deploy.same("second", others=("id",))
    deploy.same("first", items=("id",))
    assert deploy.copied == ["public.items", "public.others"]
    assert deploy.stop() == 0


def test_a_poll_that_fails_changes_nothing(deploy: Deployment) -> None:
    simple(deploy.source)
    deploy.add("shop")
    deploy.start(LEASE_SECONDS="60")  # a machine that stands still for seconds restarts nobody
    deploy.ready("shop")
    before = deploy.settled()
    deploy.config.execute("alter table app.pipelines rename to hidden")
    wait_for("the trouble to be said", lambda: deploy.events("configuration_trouble"))
    deploy.source.execute("insert into items values (77, 'still running')")
    deploy.caught_up("shop")
    assert deploy.children() == before
    assert len(deploy.events("configuration_trouble")) == 1
    deploy.config.execute("alter table app.hidden rename to pipelines")
    deploy.same("shop", items=("id",))
    assert deploy.stop() == 0


def test_columns_and_tables_that_come_later_are_followed(deploy: Deployment) -> None:
    simple(deploy.source)
    deploy.add("shop")
    deploy.start()
    deploy.ready("shop")
    with deploy.source.connect(autocommit=False) as connection:
        connection.execute("insert into items values (100, 'before')")
        connection.execute("alter table items add column price numeric(10,2) default 9.50")
        connection.execute("alter table items add column doc jsonb")
        connection.execute(
            """insert into items values (101, 'after', 1.25, '{"a": null}'), (102, 'nulls', null, 'null')"""
        )
    deploy.source.execute("create table fresh (id int primary key, t text)")
    deploy.source.execute("insert into fresh select g, 'f' || g from generate_series(1, 50) g")
    deploy.ready("shop", 2)
    deploy.source.execute("update items set note = 'changed' where id = 1")
    deploy.caught_up("shop")
    deploy.same("shop", items=("id",), fresh=("id",))
    assert deploy.stop() == 0


def test_an_idle_database_confirms_and_its_slot_holds_nothing(deploy: Deployment) -> None:
    simple(deploy.source)
    deploy.add("shop")
    deploy.start()
    deploy.ready("shop")
    deploy.config.execute("create table noise as select g, repeat('x', 500) t from generate_series(1, 20000) g")
    deploy.caught_up("shop")
    slot = "select pg_current_wal_lsn() - confirmed_flush_lsn from pg_replication_slots where slot_name like 'etl_stream_%%'"
    wait_for("the slot to move", lambda: deploy.source.execute(slot)[0][0] < 1_000_000)
    assert deploy.stop() == 0


def test_a_table_without_a_key_is_landed_and_says_so(deploy: Deployment) -> None:
    deploy.source.execute("create table log (at int, t text); alter table log replica identity full")
    deploy.source.execute("insert into log select g, 'x' from generate_series(1, 20) g")
    deploy.source.execute("create publication p for all tables")
    deploy.add("shop")
    deploy.start()
    deploy.ready("shop")
    assert deploy.states("shop")["log"].rows_copied == 20
    assert deploy.stop() == 0


def test_status_sql_and_metrics_tell_what_runs(deploy: Deployment) -> None:
    simple(deploy.source)
    deploy.add("shop")
    deploy.start()
    deploy.ready("shop")
    deploy.caught_up("shop")

    def command(*words: str) -> str:
        program = [sys.executable, "-m", "etl_supervisor.cli.main", *words]
        done = subprocess.run(
            program, env=deploy.environment, cwd=deploy.folder, capture_output=True, text=True, check=True
        )
        return done.stdout

    shown = command("status")
    assert "streaming" in shown
    assert "public.items" in shown
    assert "READY" in shown
    assert "10" in command("sql", f'select count(*) from "{deploy.destination.database}".PUBLIC.ITEMS')
    address = deploy.environment["METRICS_ADDR"]
    text = urllib.request.urlopen(f"http://{address}/metrics", timeout=30).read().decode()
    assert 'etl_snowflake_rows_inserted_total{pipeline="shop",table="public.items"} 10.0' in text
    assert 'etl_throughput_rows{source="shop"}' in text
    assert 'etl_child_up{child="reader-shop"} 1.0' in text
    assert deploy.stop() == 0


def test_a_wrong_key_is_one_line_and_is_tried_again(deploy: Deployment) -> None:
    simple(deploy.source)
    deploy.add("shop")
    deploy.config.execute("update app.destinations set snowflake_private_key_path = 'missing.p8'")
    deploy.start()
    (line, *_) = wait_for("the line", lambda: deploy.events("table_stopped"))
    assert line["kind"] == "config"
    assert line["reason"] == "private key missing.p8 can't be read: No such file or directory"
    assert line["remedy"] == "correct snowflake_private_key_path, or the file's permissions"
    deploy.config.execute(
        "update app.destinations set snowflake_private_key_path = %s", deploy.allowed.private_key_path
    )
    deploy.ready("shop")
    deploy.caught_up("shop")
    deploy.same("shop", items=("id",))
    assert deploy.stop() == 0


def test_a_second_source_that_was_forgotten_is_slot_lost_and_not_silently_copied(deploy: Deployment) -> None:
    simple(deploy.source)
    deploy.add("shop")
    deploy.start()
    deploy.ready("shop")
    assert deploy.stop() == 0
    ((slot,),) = deploy.source.execute(
        "select slot_name from pg_replication_slots where slot_name like 'etl_stream_%%'"
    )
    drop_slot(deploy.source, slot)
    deploy.start()
    (line, *_) = wait_for("the line", lambda: deploy.events("child_failed"))
    assert (line["kind"], line["reason"]) == ("slot_lost", f"slot {slot} does not exist any more")
    assert deploy.stop() == 0
