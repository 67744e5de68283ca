"""A whole deployment for one test: config database, source, state store, destination, and a supervisor as a process of its own.

Its roles may do exactly what scripts/sql grants, in all three places.

deploy   a function that starts one; everything of it ends with the test
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import psycopg
import pytest

from etl_supervisor.cli.compare import Difference, compare_table
from etl_supervisor.config.settings import Settings, load
from etl_supervisor.embedded.ports import choose_port
from etl_supervisor.embedded.snowflake.launch import LocalSnowflake
from etl_supervisor.model import lsn
from etl_supervisor.model.pipeline import Destination
from etl_supervisor.model.table import TableName
from etl_supervisor.model.table_state import Phase
from etl_supervisor.repository.migrations import migrate
from etl_supervisor.repository.write import upsert
from etl_supervisor.state.choose import open_store
from tests.support import least
from tests.support.fix_local_snowflake import sql_session
from tests.support.fix_postgres import Database
from workers.snowflake.identifiers import quoted

WAIT_SECONDS = 60.0
POLL_SECONDS = 0.1
SOURCE_COLUMNS = (
    "pg_",
    "publication",
    "replication_id",
    "stream_",
    "transfer",
    "heartbeat",
    "primary",
    "slot_",
    "on_slot_lost",
    "warning_wal",
    "danger_wal",
)  # how they begin
SECRET_KEY = "a secret key of a test, 32 characters or more"


def wait_for(what: str, done: Callable[[], Any], seconds: float = WAIT_SECONDS) -> Any:
    """Wait until `done()` is true; its value."""
    deadline = time.monotonic() + seconds
    while not (found := done()):
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what}"
        time.sleep(POLL_SECONDS)
    return found


def drop_slot(database: Database, name: str) -> None:
    """Drop a replication slot, once its walsender has noticed that its reader has gone."""
    free = "select 1 from pg_replication_slots where slot_name = %s and not active"
    wait_for("the walsender to end", lambda: database.execute(free, name))
    database.execute("select pg_drop_replication_slot(%s)", name)


@dataclass
class Deployment:
    """One deployment; `environment` is what its supervisor is started with. At `destination` everything may be done: so tests look at it; `allowed`
    is the same place as its pipelines know it."""

    config: Database
    source: Database
    server: LocalSnowflake
    destination: Destination
    allowed: Destination
    settings: Settings
    environment: dict[str, str]
    folder: Path
    supervisor: subprocess.Popen[bytes] | None = None
    pipelines: dict[str, Database] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)  # pipeline -> source, where their names differ
    others: dict[str, Destination] = field(
        default_factory=dict
    )  # pipeline -> destination, where it is not `destination`

    @property
    def log(self) -> str:
        """Everything that its supervisors have logged."""
        return (self.folder / "supervisor.log").read_text()

    def add(
        self, name: str, database: Database | None = None, destination: Destination | None = None, **changes: Any
    ) -> None:
        """A source of this name with a started pipeline; `changes` overwrite columns of the source or the pipeline."""
        database = database or self.source
        asked = database.as_source if "pg_username" in changes else least.source(database)
        source = {"name": name, **asked}
        pipeline: dict[str, Any] = {
            "name": name,
            "status": "START",
            "batch_max_size": 200,
            "batch_max_fill_ms": 100,
            "table_error_retry_delay_ms": 300,
        }
        for key, value in changes.items():
            (source if key.startswith(SOURCE_COLUMNS) else pipeline)[key] = value
        with self.config.connect() as connection:
            keyring = self.settings.keyring()
            source_id = upsert(connection, keyring, "sources", **source)
            destination_id = self._destination(connection, destination)
            upsert(connection, keyring, "pipelines", source_id=source_id, destination_id=destination_id, **pipeline)
        self.pipelines[name] = database
        if destination is not None:
            self.others[name] = destination

    def share(self, name: str, source: str, destination: Destination, **changes: Any) -> None:
        """One more pipeline of a source, into another destination."""
        like = self.config.execute(
            "select source_id, batch_max_size, batch_max_fill_ms, table_error_retry_delay_ms from app.pipelines where name = %s",
            source,
        )
        columns = ("source_id", "batch_max_size", "batch_max_fill_ms", "table_error_retry_delay_ms")
        values = dict(zip(columns, like[0], strict=True))
        with self.config.connect() as connection:
            there = self._destination(connection, destination)
            wanted = {**values, "status": "START", **changes}
            upsert(connection, self.settings.keyring(), "pipelines", name=name, destination_id=there, **wanted)
        self.pipelines[name], self.sources[name], self.others[name] = self.pipelines[source], source, destination

    def _destination(self, connection: psycopg.Connection[Any], there: Destination | None = None) -> int:
        there = there or self.allowed
        return upsert(
            connection,
            self.settings.keyring(),
            "destinations",
            name=there.name,
            snowflake_account=there.account,
            snowflake_user=there.user,
            snowflake_database=there.database,
            snowflake_schema=there.schema,
            snowflake_private_key_path=there.private_key_path,
            snowflake_host=there.host,
            snowflake_role=there.role,
            snowflake_warehouse=there.warehouse,
            snowflake_apply_interval_seconds=there.apply_interval_seconds,
            settings=there.settings,
            identifier_case=there.naming.case,
            schema_mapping=there.naming.mapping,
        )

    def keep_state_in(self, store: str) -> None:
        """Choose the state store: redis or postgres."""
        self.environment["STATE_STORE"] = store
        self.settings = load(self.folder, self.environment)

    def start(self, **environment: str) -> None:
        """Start a supervisor (another one, if there was one)."""
        with (self.folder / "supervisor.log").open("ab") as log:
            self.supervisor = subprocess.Popen(
                [sys.executable, "-m", "etl_supervisor.cli.main", "run"],
                env={**self.environment, **environment},
                cwd=self.folder,
                stdout=log,
                stderr=log,
            )

    def events(self, event: str) -> list[dict[str, Any]]:
        """The log's lines of one event; every line must be JSON."""
        lines = [orjson.loads(line) for line in self.lines]
        return [line for line in lines if line["event"] == event]

    @property
    def lines(self) -> list[str]:
        """The log's lines; the last may still be half written, and is left out."""
        return self.log.rpartition("\n")[0].splitlines()

    @property
    def copied(self) -> list[str]:
        """The tables of which copies began, once for each copy."""
        begun = [line for line in self.lines if '"event":"copy_started"' in line]
        return sorted(table for line in begun for table in orjson.loads(line)["tables"])

    def stop(self, seconds: float = WAIT_SECONDS) -> int:
        """Drain; the exit code."""
        assert self.supervisor is not None
        self.supervisor.send_signal(signal.SIGTERM)
        return self.supervisor.wait(seconds)

    def kill(self) -> None:
        """SIGKILL the supervisor, and see its children go."""
        assert self.supervisor is not None
        children = self.children()
        self.supervisor.kill()
        self.supervisor.wait()
        wait_for("the children to end", lambda: not any(_runs(pid) for pid in children.values()))

    def children(self) -> dict[str, int]:
        """Name (as `ps` shows it) -> pid of the supervisor's children."""
        assert self.supervisor is not None
        found = {}
        pid = self.supervisor.pid
        with contextlib.suppress(OSError):
            for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
                with contextlib.suppress(OSError):
                    found[Path(f"/proc/{child}/comm").read_text().strip()] = int(child)
        return found

    def settled(self) -> dict[str, int]:
        """The children once no copy worker is among them: it ends a moment after its tables are READY."""

        def without_copies() -> dict[str, int]:
            found = self.children()
            return {} if any(name.startswith("etl-copy") for name in found) else found

        found: dict[str, int] = wait_for("copy workers to end", without_copies)
        return found

    def ready(self, name: str, tables: int | None = None) -> None:
        """Wait until all tables of a pipeline are READY."""

        def all_ready() -> bool:
            assert self.supervisor is not None
            assert self.supervisor.poll() is None, self.log[-3000:]
            phases = [state.phase for state in self.states(name).values()]
            return len(phases) >= (tables or 1) and set(phases) == {Phase.READY}

        wait_for(f"pipeline {name} to be ready", all_ready)

    def states(self, name: str) -> dict[str, Any]:
        """Table -> state of a pipeline."""
        store = open_store(self.settings)
        try:
            return {table.name: state for table, state in store.tables(self.sources.get(name, name), name).items()}
        finally:
            store.close()

    def confirmed(self, name: str) -> int:
        """The confirmed position of a source."""
        store = open_store(self.settings)
        try:
            progress = store.progress(self.sources.get(name, name))
            return progress.confirmed if progress else 0
        finally:
            store.close()

    def written(self, name: str) -> int:
        """The end of a source's WAL."""
        ((text,),) = self.pipelines[name].execute("select pg_current_wal_flush_lsn()::text")
        return lsn.parse(text)

    def caught_up(self, name: str, seconds: float = WAIT_SECONDS) -> None:
        """Wait until everything committed so far is durable, confirmed and applied."""
        end = self.written(name)
        wait_for(f"{name} to be confirmed", lambda: self.confirmed(name) >= end, seconds)
        wait_for(f"{name} to be applied", lambda: self._applied(self.others.get(name, self.destination)), seconds)

    def _applied(self, there: Destination) -> bool:
        schema = f'"{there.database}"."{there.landing_schema}"'
        with sql_session(there) as session, session.cursor() as cursor:
            marks = cursor.execute(
                f"SELECT LANDING_TABLE, GENERATION, APPLIED FROM {schema}._ETL_WATERMARK WHERE SOURCE_TABLE <> ''"
            ).fetchall()
            return not any(
                cursor.execute(
                    f"SELECT COUNT(*) FROM {schema}.{quoted(table)} WHERE _ETL_GENERATION = {generation} AND _ETL_COMMIT_LSN >= {at}"
                ).fetchone()[0]
                for table, generation, at in marks
            )

    def differences(self, name: str, **keys: tuple[str, ...]) -> list[Difference]:
        """Compare tables (table=key columns; of another schema: schema.table) row by row, by psql's text and the connector."""
        database = self.pipelines[name]
        there = self.others.get(name, self.destination)
        with sql_session(there) as session:
            return [
                compare_table(database.server.psql_path, database.url, session, _table_name(table), key, there)
                for table, key in keys.items()
            ]

    def same(self, name: str, **keys: tuple[str, ...]) -> None:
        """Assert that nothing differs and no position was landed twice."""
        for difference in self.differences(name, **keys):
            assert difference.total == 0, difference


def _table_name(text: str) -> TableName:
    schema, _, table = text.rpartition(".")
    return TableName(schema or "public", table)


def _runs(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


@pytest.fixture
def deploy(
    database: Database,
    second_database: Database,
    redis_url: str,
    local_snowflake: LocalSnowflake,
    all_powerful: Destination,
    tmp_path: Path,
) -> Iterator[Deployment]:
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "DATABASE_URL": least.config_role(second_database),
        "REDIS_URL": redis_url,
        "SECRET_KEY": SECRET_KEY,
        "PIPELINE_POLL_INTERVAL_SECS": "1",
        "SNOWFLAKE_ACTOR_POOL_SIZE": "2",
        "METRICS_ADDR": f"127.0.0.1:{choose_port()}",
        "ETL_FAILPOINTS_LOG": str(tmp_path / "failpoints.log"),
    }
    settings = load(tmp_path, environment)
    migrate(settings)
    allowed = least.snowflake_role(all_powerful, tmp_path / "keys")
    made = Deployment(
        second_database, database, local_snowflake, all_powerful, allowed, settings, environment, tmp_path
    )
    yield made
    if made.supervisor is not None and made.supervisor.poll() is None:
        made.kill()
