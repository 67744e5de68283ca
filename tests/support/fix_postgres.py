"""PostgreSQL servers for tests: one of the newest version per test process, an old one where the machine has it.

postgres      the embedded server, started once
database      a fresh database in it, dropped afterwards with its slots; second_database and second_source are others
postgres_old  a second server, of an older version, from the distribution; skipped where there is none
old_database  a fresh database in that
each_database a fresh database in each supported version, one after the other; a version that is not on this machine is skipped
open_folder   a folder that the server's account can reach (pytest's tmp_path is closed to others)
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import conninfo, sql

from etl_supervisor.embedded.pg_programs import BINDIR_VARIABLE, probe
from etl_supervisor.embedded.postgres import EmbeddedPostgres

FAST_SETTINGS = {
    "fsync": "off",
    "max_prepared_transactions": "10",
}  # a test's data need not outlive the machine's power
OLD_BINDIRS = [Path(f"/usr/lib/postgresql/{major}/bin") for major in (15, 14, 16, 17)]
MAJORS = (14, 15, 16, 17, 18)
FETCHED = Path(__file__).parents[2] / ".local" / "test-postgres"  # scripts/fetch_postgres_versions.sh
SLOT_RELEASE_TIMEOUT = "10s"


@dataclass(frozen=True)
class Database:
    """A database of one test."""

    server: EmbeddedPostgres
    name: str

    @property
    def dsn(self) -> str:
        """Connection string of the superuser."""
        return self.server.dsn(self.name)

    @property
    def url(self) -> str:
        """The same as a URL."""
        return self.server.url(self.name)

    @property
    def as_source(self) -> dict[str, Any]:
        """The columns of a source that say where it is; `least.source` has them with who asks."""
        parts = conninfo.conninfo_to_dict(self.dsn)
        return {
            "pg_host": parts["host"],
            "pg_port": int(str(parts["port"])),
            "pg_database": self.name,
            "pg_tls_mode": "disable",
            "publication_name": "p",
        }

    @property
    def superuser(self) -> dict[str, str]:
        """The columns of a source that say who asks, where only a superuser may."""
        parts = conninfo.conninfo_to_dict(self.dsn)
        return {"pg_username": str(parts["user"]), "pg_password": str(parts["password"])}

    def connect(self, **options: Any) -> psycopg.Connection:
        """A connection in autocommit mode unless told otherwise. The caller closes it."""
        return psycopg.connect(self.dsn, **({"autocommit": True} | options))

    def execute(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Run a statement (several, when there are no parameters), commit, and return its rows."""
        with self.connect() as connection:
            cursor = connection.execute(statement.encode(), parameters or None)
            return cursor.fetchall() if cursor.description else []

    def psql(self, query: str) -> str:
        """The answer as psql prints it (unaligned, '|' between columns): a reader that is not ours."""
        command = [str(self.server.psql_path), "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", self.url, "-c", query]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def open_folder() -> Iterator[Path]:
    with _open_folder() as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    with _open_folder() as folder, EmbeddedPostgres(Path(folder) / "postgres", settings=FAST_SETTINGS) as server:
        yield server


@pytest.fixture
def database(postgres: EmbeddedPostgres) -> Iterator[Database]:
    yield from _fresh_database(postgres)


@pytest.fixture
def second_database(postgres: EmbeddedPostgres) -> Iterator[Database]:
    yield from _fresh_database(postgres)


@pytest.fixture
def second_source(postgres: EmbeddedPostgres) -> Iterator[Database]:
    yield from _fresh_database(postgres)


@pytest.fixture(scope="session")
def postgres_old() -> Iterator[EmbeddedPostgres]:
    bindir = next((place for place in OLD_BINDIRS if probe(place)), None)
    if bindir is None:
        pytest.skip(f"no older PostgreSQL in any of {', '.join(map(str, OLD_BINDIRS))}")
    yield from _server_of(bindir)


@pytest.fixture
def old_database(postgres_old: EmbeddedPostgres) -> Iterator[Database]:
    yield from _fresh_database(postgres_old)


@pytest.fixture(scope="session", params=MAJORS, ids=lambda major: f"PostgreSQL {major}")
def postgres_version(request: pytest.FixtureRequest, postgres: EmbeddedPostgres) -> Iterator[EmbeddedPostgres]:
    major = request.param
    if postgres.version.startswith(f"{major}."):
        yield postgres
        return
    places = [FETCHED / str(major) / "bin", Path(f"/usr/lib/postgresql/{major}/bin")]
    bindir = next((place for place in places if probe(place)), None)
    if bindir is None:
        pytest.skip(f"no PostgreSQL {major} on this machine (make test-matrix fetches what can be fetched)")
    yield from _server_of(bindir)


@pytest.fixture
def each_database(postgres_version: EmbeddedPostgres) -> Iterator[Database]:
    yield from _fresh_database(postgres_version)


def _server_of(bindir: Path) -> Iterator[EmbeddedPostgres]:
    with _open_folder() as folder, pytest.MonkeyPatch.context() as environment:
        environment.setenv(BINDIR_VARIABLE, str(bindir))
        server = EmbeddedPostgres(Path(folder) / "postgres", settings=FAST_SETTINGS).start()
        environment.undo()
        with server:
            yield server


def _open_folder() -> tempfile.TemporaryDirectory[str]:
    folder = tempfile.TemporaryDirectory(prefix="etl-test-", ignore_cleanup_errors=True)
    os.chmod(folder.name, 0o711)
    return folder


def _fresh_database(server: EmbeddedPostgres) -> Iterator[Database]:
    name = f"test_{uuid.uuid4().hex[:12]}"
    server.create_database(name)
    yield Database(server, name)
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute(f"set statement_timeout = '{SLOT_RELEASE_TIMEOUT}'")
        connection.execute(
            "select pg_terminate_backend(active_pid, 5000) from pg_replication_slots"
            " where database = %s and active_pid is not null",
            (name,),
        )
        connection.execute(
            "select pg_drop_replication_slot(slot_name) from pg_replication_slots"
            " where database = %s and not temporary",
            (name,),
        )
        connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))
