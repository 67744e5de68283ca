"""Migrations forward and back with data, by many at once, alone on their own databases, and never unasked."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from etl_supervisor.api.app import create_app
from etl_supervisor.config.settings import Settings, load
from etl_supervisor.errors import EtlError
from etl_supervisor.repository import desired
from etl_supervisor.repository.migrations import migrate, revert, steps_of
from etl_supervisor.repository.newest import CHAINS, bring_up, newest, version
from etl_supervisor.repository.write import upsert
from etl_supervisor.state.postgres import PostgresStore
from tests.support import least
from tests.support.configured import DESTINATION, SOURCE
from tests.support.fix_postgres import Database

ROOT = Path(__file__).parents[2]
SECRET = "0123456789abcdef0123456789abcdef"
STARTERS = 10


def environment_of(database: Database, **more: str) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join([str(ROOT), *(path for path in sys.path if path)]),
        "DATABASE_URL": least.config_role(database),
        "SECRET_KEY": SECRET,
        **more,
    }


@pytest.fixture
def settings(database: Database, tmp_path: Path) -> Settings:
    return load(tmp_path, {"DATABASE_URL": least.config_role(database), "SECRET_KEY": SECRET})


def schemas(database: Database) -> list[str]:
    found = database.execute("select nspname::text from pg_namespace where nspname !~ '^(pg_|information_)' order by 1")
    return [name for (name,) in found]


def fill(database: Database, settings: Settings) -> None:
    with database.connect() as connection:
        keyring = settings.keyring()
        source = upsert(connection, keyring, "sources", name="shop", pg_password="geheim", **SOURCE)
        verified = {"pg_tls_ca": "/ca.pem"}
        upsert(connection, keyring, "sources", name="verified", pg_password="geheim", **SOURCE, **verified)
        destination = upsert(
            connection,
            keyring,
            "destinations",
            name="wh",
            **DESTINATION,
        )
        upsert(
            connection,
            keyring,
            "pipelines",
            name="pipe",
            source_id=source,
            destination_id=destination,
            status="START",
            batch_max_size=77,
        )


def rows(database: Database) -> dict[str, list[dict[str, Any]]]:
    """What the first step has columns for already."""
    first = {
        "sources": "id, name, pg_host, pg_port, pg_password, pg_tls_ca, replication_id",
        "destinations": "id, name, snowflake_account, settings",
        "pipelines": "id, name, source_id, destination_id, status, batch_max_size",
    }
    queries = {table: f"select to_jsonb(t) from (select {columns} from app.{table} order by id) t" for table, columns in first.items()}  # fmt: skip
    return {table: [row for (row,) in database.execute(query)] for table, query in queries.items()}


def test_the_config_database_goes_back_step_by_step_and_forward_again_with_its_data(
    settings: Settings, database: Database
) -> None:
    migrate(settings)
    fill(database, settings)
    before, newest = rows(database), steps_of(settings, "app")
    assert all(step.applied for step in newest)
    for count in range(1, len(newest)):
        left = newest[-count - 1].revision
        assert revert(settings, "app", 1) == f"app: {newest[-count].revision} -> {left}"
        assert rows(database) == before
    modes = "select name, pg_tls_mode from app.sources order by name"
    assert database.execute(modes) == [("shop", "prefer"), ("verified", "verify-full")]
    assert migrate(settings) == [f"app: 0001 -> {newest[-1].revision}"]
    assert rows(database) == before
    ((spec,),) = (desired.load(settings).specs,)
    assert (spec.source.name, spec.source.pg_tls_mode) == ("shop", "auto")
    assert revert(settings, "app", 1000) == f"app: {newest[-1].revision} -> nothing"
    assert revert(settings, "app", 1) == "app: nothing to take back"
    tables = "select relname from pg_class where relnamespace = 'app'::regnamespace and relkind = 'r'"
    assert database.execute(tables) == [("alembic_version",)]
    assert migrate(settings) == [f"app: nothing -> {newest[-1].revision}"]


def test_the_state_tables_go_back_step_by_step_and_forward_again_with_their_data(
    settings: Settings, database: Database
) -> None:
    migrate(settings, "etl")
    store = PostgresStore(least.config_role(database))
    epoch = store.next_epoch("shop")
    database.execute("insert into etl.table_state values ('shop', 'p', 'public', 't', '{}')")
    steps = steps_of(settings, "etl")
    for _ in steps[1:]:
        revert(settings, "etl", 1)
    assert [step.applied for step in steps_of(settings, "etl")] == [True] + [False] * (len(steps) - 1)
    migrate(settings, "etl")
    assert store.epoch("shop") == epoch
    assert database.execute("select table_name, value from etl.table_state") == [("t", "{}")]
    store.close()


def test_the_two_chains_run_on_two_databases(database: Database, second_database: Database, tmp_path: Path) -> None:
    two = load(tmp_path, environment_of(database, ETL_DATABASE_URL=least.config_role(second_database)))
    migrate(two)
    assert (schemas(database), schemas(second_database)) == (["app", "public"], ["etl", "public"])
    assert revert(two, "etl", 1000).endswith("-> nothing")
    assert all(step.applied for step in steps_of(two, "app"))


@pytest.mark.slow
def test_ten_processes_that_start_together_do_it_once(database: Database, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "etl_supervisor.cli.main", "migrate"]
    started = [
        subprocess.Popen(command, cwd=tmp_path, env=environment_of(database), stdout=-1, stderr=-1, text=True)
        for _ in range(STARTERS)
    ]
    done = [(process.communicate(timeout=100), process.returncode) for process in started]
    assert {code for _, code in done} == {0}, done
    said = [line for (out, _), _ in done for line in out.splitlines() if line != "nothing to do"]
    assert len(said) == 2  # each chain once
    assert {line.split(":")[0] for line in said} == {"app", "etl"}


def test_a_step_that_fails_leaves_the_steps_before_it_and_nobody_locked_out(
    settings: Settings, database: Database
) -> None:
    migrate(settings)
    newest = steps_of(settings, "app")[-1].revision
    revert(settings, "app", 1)
    before = steps_of(settings, "app")
    database.execute("create function app.refuse() returns event_trigger language plpgsql as $$ begin raise 'not now'; end $$")  # fmt: skip
    changes = "'ALTER TABLE', 'CREATE TABLE', 'CREATE INDEX'"
    database.execute(
        f"create event trigger refuse on ddl_command_end when tag in ({changes}) execute function app.refuse()"
    )
    with pytest.raises(EtlError, match="not now"):
        migrate(settings)
    assert steps_of(settings, "app") == before
    database.execute("drop event trigger refuse")
    assert migrate(settings) == [f"app: {before[-2].revision} -> {newest}"]


def test_a_database_of_a_newer_program_is_refused_in_one_line(settings: Settings, database: Database) -> None:
    migrate(settings)
    database.execute("update app.alembic_version set version_num = 'of_tomorrow'")
    for call in (migrate, lambda settings: revert(settings, "app", 1), lambda settings: steps_of(settings, "app")):
        with pytest.raises(EtlError) as caught:
            call(settings)
        assert caught.value.line == (
            "config_database at config database: schema app is at a version that this program does not know"
            " (run the program that made it, or a newer one)"
        )


def test_nothing_is_migrated_by_who_uses_it_as_a_library(settings: Settings, database: Database) -> None:
    create_app(settings)
    for chain in ("app", "etl"):
        assert not any(step.applied for step in steps_of(settings, chain))
    with pytest.raises(EtlError) as caught:
        desired.load(settings)
    assert caught.value.line == (
        'config_database at config database: its tables are not those that this program needs: relation "app.sources" does not exist'
        " (run `etl-supervisor migrate`)"
    )
    assert schemas(database) == ["public"]


def test_the_scripts_run_show_and_take_back(database: Database, tmp_path: Path) -> None:
    def script(*words: str) -> str:
        command = [str(ROOT / "scripts" / words[0]), *words[1:]]
        done = subprocess.run(command, cwd=tmp_path, env=environment_of(database), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert script("run_migrations", "etl").startswith("etl: nothing -> ")
    assert schemas(database) == ["etl", "public"]
    shown = script("show_migrations").splitlines()
    assert "- app 0001: Sources, destinations, pipelines, WAL metrics." in shown
    assert "+ etl 0001: The PostgreSQL state store." in shown
    assert "- app" in script("show_migrations", "app")
    assert script("revert_migration", "etl", "2").startswith("etl: ")
    assert script("show_migrations", "etl").count("- etl") == 2
    script("run_migrations")
    assert "-" not in {line[0] for line in script("show_migrations").splitlines()}


def test_a_new_migration_follows_the_newest(settings: Settings, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "migrations", tmp_path / "migrations")
    (tmp_path / "scripts").mkdir()
    script = shutil.copy(ROOT / "scripts" / "add_migration", tmp_path / "scripts")
    made = subprocess.run([script, "app", "colours", "Colours of things."], check=True, capture_output=True, text=True)
    text = Path(made.stdout.strip()).read_text()
    assert text.startswith('"""Colours of things."""\n')
    assert f'down_revision = "{steps_of(settings, "app")[-1].revision}"' in text
    again = subprocess.run([script, "app", "colours", "x"], capture_output=True, text=True, check=False)
    assert (again.returncode, again.stderr.endswith("colours.py is there already\n")) == (1, True)
    assert subprocess.run([script, "shop", "x", "y"], capture_output=True, check=False).returncode == 1


def test_alembic_is_imported_only_where_a_step_is_missing(database: Database, settings: Settings) -> None:
    code = "import sys; from etl_supervisor.config.settings import load; from etl_supervisor.repository.newest import bring_up;"
    code += " bring_up(load()); print('alembic' in sys.modules)"

    def imported() -> str:
        command, environment = [sys.executable, "-c", code], environment_of(database)
        return subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, check=True).stdout

    assert imported() == "True\n"
    assert imported() == "False\n"
    revert(settings, "app", 1)
    assert imported() == "True\n"
    assert {chain: newest(chain) for chain in CHAINS} == {
        chain: steps_of(settings, chain)[-1].revision for chain in CHAINS
    }
    assert version(settings, "app") == newest("app")


def test_a_version_that_nobody_knows_is_told_before_anything_is_done(database: Database, settings: Settings) -> None:
    migrate(settings)
    database.execute("update app.alembic_version set version_num = 'of tomorrow'")
    with pytest.raises(EtlError, match="does not know"):
        bring_up(settings)
