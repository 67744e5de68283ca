"""Migrations and the reading of the configuration, on a real PostgreSQL."""

import concurrent.futures
from importlib import resources
from pathlib import Path

import alembic.command
import psycopg
import pytest
import sqlalchemy
from alembic.config import Config

from etl_supervisor.config.settings import Settings
from etl_supervisor.config.settings import load as load_settings
from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.model.apply_policy import ApplyMode, ApplyPolicy
from etl_supervisor.model.table import TableName
from etl_supervisor.repository.desired import load
from etl_supervisor.repository.migrations import migrate
from etl_supervisor.repository.write import upsert
from tests.support import least
from tests.support.configured import DESTINATION, SOURCE
from tests.support.fix_postgres import Database

SECRET = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def settings(database: Database, tmp_path: Path) -> Settings:
    return load_settings(tmp_path, {"DATABASE_URL": least.config_role(database), "SECRET_KEY": SECRET})


def fill(database: Database, settings: Settings, *, status: str = "START", kind: str = "snowflake") -> None:
    with database.connect() as connection:
        keyring = settings.keyring()
        source = upsert(
            connection,
            keyring,
            "sources",
            name="shop",
            pg_password="geheim",
            **SOURCE,
        )
        destination = upsert(
            connection,
            keyring,
            "destinations",
            name="wh",
            destination_type=kind,
            **DESTINATION,
            settings={"ca_file": "x"},
        )
        upsert(
            connection, keyring, "pipelines", name="pipe", source_id=source, destination_id=destination, status=status
        )


def test_migrations_run_once_and_may_run_again(settings: Settings) -> None:
    assert migrate(settings) == ["app: nothing -> alerting", "etl: nothing -> verified"]
    assert migrate(settings) == []


def test_each_chain_runs_alone(settings: Settings, database: Database) -> None:
    assert migrate(settings, "etl") == ["etl: nothing -> verified"]
    assert database.execute("select to_regclass('app.sources')") == [(None,)]


def test_two_supervisors_that_start_together_take_turns(settings: Settings) -> None:
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        done = [future.result(60) for future in [pool.submit(migrate, settings) for _ in range(4)]]
    assert sum(len(steps) for steps in done) == 2  # each chain once, by whoever came first


def test_only_started_pipelines_are_desired(settings: Settings, database: Database) -> None:
    migrate(settings)
    fill(database, settings, status="PAUSE")
    assert load(settings).specs == ()
    fill(database, settings)
    (spec,) = load(settings).specs
    assert (spec.source.name, spec.source.replication_id, spec.source.pg_port) == ("shop", spec.source.id, 5432)
    (pipeline,) = spec.pipelines
    assert (pipeline.batch_max_size, pipeline.batch_max_fill_ms, pipeline.max_table_sync_workers) == (1000, 5000, 4)
    assert (pipeline.destination.landing_schema, pipeline.destination.settings) == ("ETL_SCHEMA", {"ca_file": "x"})
    assert settings.keyring().decrypt(spec.source.pg_password) == "geheim"


@pytest.mark.parametrize(
    "change",
    [
        "update app.sources set pg_port = 7",
        "update app.destinations set snowflake_role = 'other'",
        "update app.pipelines set retries = retries + 1",
        "delete from app.pipelines",
        "insert into app.sources (name, pg_host, pg_database, pg_username, publication_name) values ('s', 'h', 'd', 'u', 'p')",
    ],
)
def test_rows_are_read_again_only_when_one_has_changed(settings: Settings, database: Database, change: str) -> None:
    migrate(settings)
    fill(database, settings)
    known = load(settings)
    assert load(settings, known) is known
    database.execute(change)
    after = load(settings, known)
    assert after.mark != known.mark
    assert after == load(settings)
    assert load(settings, after) is after


def test_a_password_written_in_clear_is_encrypted_at_the_next_poll(settings: Settings, database: Database) -> None:
    migrate(settings)
    fill(database, settings)
    database.execute("update app.sources set pg_password = 'in clear: v1'")
    (spec,) = load(settings).specs
    ((stored,),) = database.execute("select pg_password from app.sources")
    assert stored.startswith("v1:")
    assert "in clear" not in stored
    assert settings.keyring().decrypt(spec.source.pg_password) == "in clear: v1"


def test_a_secret_moved_to_another_row_does_not_open(settings: Settings, database: Database) -> None:
    migrate(settings)
    fill(database, settings)
    database.execute("update app.sources set name = 'other'")
    (spec,) = load(settings).specs
    with pytest.raises(EtlError, match=r"^config at sources/other/pg_password: the stored secret does not open"):
        settings.keyring().decrypt(spec.source.pg_password)


def test_a_wrong_row_leaves_only_its_pipeline_out(settings: Settings, database: Database) -> None:
    migrate(settings)
    fill(database, settings, kind="parrot")
    loaded = load(settings)
    assert loaded.specs == ()
    assert [trouble.line for trouble in loaded.troubles] == [
        "config at destination wh: destination_type parrot is not known (use one of: snowflake)"
    ]


@pytest.mark.parametrize(
    ("column", "value"), [("status", "'RUN'"), ("batch_max_size", "0"), ("max_table_sync_workers", "65")]
)
def test_values_out_of_range_are_refused_by_the_database(
    settings: Settings, database: Database, column: str, value: str
) -> None:
    migrate(settings)
    fill(database, settings)
    with pytest.raises(psycopg.errors.CheckViolation):
        database.execute(f"update app.pipelines set {column} = {value}")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"password": "not-the-one"}, "wrong user or password"),
        ({"dbname": "nowhere"}, "the database does not exist"),
        ({"port": "1"}, "the server does not answer"),
    ],
)
def test_an_unreachable_config_database_is_one_clear_line(
    settings: Settings, database: Database, change: dict[str, str], reason: str
) -> None:
    dsn = psycopg.conninfo.make_conninfo(database.dsn, **change)
    parts = psycopg.conninfo.conninfo_to_dict(dsn)
    url = f"postgresql://{parts['user']}:{parts['password']}@{parts['host']}:{parts['port']}/{parts['dbname']}"
    broken = load_settings(settings.directory, {"DATABASE_URL": url, "SECRET_KEY": SECRET})
    for call in (migrate, load):
        with pytest.raises(EtlError) as caught:
            call(broken)
        assert caught.value.kind is Kind.CONFIG_DATABASE
        assert caught.value.reason == reason
        assert parts["password"] not in str(caught.value)


def test_how_a_source_is_read_has_its_defaults(settings: Settings, database: Database) -> None:
    migrate(settings)
    fill(database, settings)
    (spec,) = load(settings).specs
    source = spec.source
    assert (source.stream_in_progress, source.transfer, source.heartbeat_seconds) == (True, "auto", 60)
    assert (source.primary_url, source.slot_failover) == (None, False)


def test_a_primarys_url_is_a_secret(settings: Settings, database: Database) -> None:
    migrate(settings)
    fill(database, settings)
    url = "postgresql://u:geheim@primary/d"
    database.execute("update app.sources set primary_url = %s", url)
    (spec,) = load(settings).specs
    ((stored,),) = database.execute("select primary_url from app.sources")
    assert stored.startswith("v1:")
    assert "geheim" not in repr(spec)
    assert settings.keyring().decrypt(spec.source.primary_url) == url


@pytest.mark.parametrize(
    ("column", "value", "line"),
    [
        ("transfer", "pigeon", "config at sources shop: a value breaks the rule: transfer is auto, text or binary"),
        (
            "heartbeat_seconds",
            -1,
            "config at sources shop: a value breaks the rule: heartbeat_seconds is 0 (off) or 0.1 to 86400",
        ),
    ],
)
def test_a_setting_of_a_source_that_is_not_allowed_is_one_line(
    settings: Settings, database: Database, column: str, value: object, line: str
) -> None:
    migrate(settings)
    fill(database, settings)
    values = {"name": "shop", "pg_host": "h", "pg_database": "d", "pg_username": "u", "publication_name": "p"}
    with database.connect() as connection, pytest.raises(EtlError) as caught:
        upsert(connection, settings.keyring(), "sources", **values, **{column: value})
    assert caught.value.line == line


def test_the_newest_migration_of_the_configuration_can_be_taken_back(settings: Settings, database: Database) -> None:
    migrate(settings)
    columns = "select count(*) from information_schema.columns where table_schema = 'app' and table_name = 'sources'"
    ((newest,),) = database.execute(columns)
    engine = sqlalchemy.create_engine("postgresql+psycopg://", creator=database.connect, poolclass=sqlalchemy.NullPool)
    chain = Config()
    chain.set_main_option("script_location", str(resources.files("migrations") / "app"))
    chain.set_main_option("path_separator", "os")
    with engine.connect() as connection:
        chain.attributes["connection"] = connection
        alembic.command.downgrade(chain, "0001")
        connection.commit()
    ((before,),) = database.execute(columns)
    assert newest - before == 10
    assert migrate(settings, "app") == ["app: 0001 -> alerting"]


OF_THE_ROW = {"id", "created_at", "updated_at"}
OF_THE_PIPELINE = {"source_id", "destination_id", "status", "retries"}  # what it is, not how it does it


@pytest.mark.parametrize(("table", "told"), [("sources", OF_THE_ROW), ("pipelines", OF_THE_ROW | OF_THE_PIPELINE)])
def test_every_column_is_documented(settings: Settings, database: Database, table: str, told: set[str]) -> None:
    migrate(settings)
    page = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
    found = database.execute(
        "select column_name::text from information_schema.columns where table_schema = 'app' and table_name = %s",
        table,
    )
    for (column,) in found:
        assert column in told or f"**`{column}`**" in page, column


def test_tables_are_applied_as_the_pipeline_says_or_in_ways_of_their_own(
    settings: Settings, database: Database
) -> None:
    migrate(settings)
    fill(database, settings)
    database.execute(
        "update app.pipelines set apply = 'view', landing_retention_hours = 24,"
        """ apply_tables = '{"public.a.b": {"apply": "merge", "apply_history": true, "cluster_by": ["at"]}, "s.log": {"apply": "append"}}'"""
    )
    ((pipeline,),) = (spec.pipelines for spec in load(settings).specs)
    assert pipeline.policy == ApplyPolicy(ApplyMode.VIEW, retention_hours=24.0)
    own = pipeline.policy_of(TableName("public", "a.b"))
    assert (own.mode, own.history, own.retention_hours) == (ApplyMode.MERGE, True, 24.0)
    assert (own.cluster_by, pipeline.policy.cluster_by) == (("at",), ())
    assert pipeline.policy_of(TableName("s", "log")).mode is ApplyMode.APPEND
    assert pipeline.policy_of(TableName("s", "other")) is pipeline.policy


def test_all_tables_of_a_pipeline_are_applied_together_or_none(settings: Settings, database: Database) -> None:
    migrate(settings)
    fill(database, settings)
    database.execute(
        """update app.pipelines set consistency = 'transaction', apply_tables = '{"s.t": {"apply_delete": "soft"}}'"""
    )
    ((pipeline,),) = (spec.pipelines for spec in load(settings).specs)
    assert pipeline.policy.together
    assert pipeline.policy_of(TableName("s", "t")).together


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            """apply_tables = '{"t": {"apply": "merge"}}'""",
            "config at pipeline pipe, table t: apply_tables can't be read: the name has no schema (write"
            ' {"<schema>.<table>": {…}} with: apply, apply_delete, apply_history, apply_interval_seconds_max,'
            " cluster_by, landing_retention_hours)",
        ),
        (
            """apply_tables = '{"s.t": {"apply": "often"}}'""",
            "config at pipeline pipe, table s.t: 'often' is not a valid ApplyMode (see docs/configuration.md, Pipelines)",
        ),
        (
            """apply_tables = '{"s.t": {"cluster_by": "a"}}'""",
            "config at pipeline pipe, table s.t: cluster_by is no list of column names (see docs/configuration.md, Pipelines)",
        ),
        (
            "apply = 'append', apply_history = true",
            "config at pipeline pipe: apply append keeps no target of its own, so neither deleted rows nor a history (use"
            " apply merge, view or task for it)",
        ),
        (
            """consistency = 'transaction', apply_tables = '{"s.t": {"apply": "task"}}'""",
            "config at pipeline pipe, table s.t: with apply task tables can't become visible together (consistency"
            " transaction) (use apply merge, or consistency table)",
        ),
        (
            "consistency = 'transaction', apply = 'append'",
            "config at pipeline pipe: with apply append tables can't become visible together (consistency transaction)"
            " (use apply merge, or consistency table)",
        ),
    ],
)
def test_a_way_to_apply_that_can_not_be_leaves_its_pipeline_out(
    settings: Settings, database: Database, change: str, line: str
) -> None:
    migrate(settings)
    fill(database, settings)
    database.execute(f"update app.pipelines set {change}")
    loaded = load(settings)
    assert (loaded.specs, [error.line for error in loaded.troubles]) == ((), [line])
