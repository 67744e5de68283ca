"""The REST API for tests: a real uvicorn in a process of its own, on a real config database.

api        it runs, on empty tables, with an admin's client for it; the process is shared by the tests of a test process
api_server a function that starts one of its own, with other settings
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from psycopg.rows import dict_row
from tenacity import retry, retry_if_exception_type, stop_after_attempt

from etl_supervisor.api import access
from etl_supervisor.api.caller import Role
from etl_supervisor.config.settings import Settings, load
from etl_supervisor.embedded.ports import choose_port
from etl_supervisor.embedded.postgres import EmbeddedPostgres
from etl_supervisor.model.pipeline import Destination
from etl_supervisor.repository.migrations import migrate
from tests.support import least
from tests.support.fix_postgres import Database

SECRET_KEY = "a secret key of a test, 32 characters or more"
START_SECONDS = 30.0
CONNECT_RETRIES = 6  # of httpx: 15 s until the API beside a supervisor listens
SOURCE = {
    "name": "production-postgres",
    "pg_host": "postgres.example.com",
    "pg_port": 5432,
    "pg_database": "myapp_production",
    "pg_username": "replication_user",
    "pg_password": "SecurePassword123!",
    "publication_name": "dbz_publication",
    "replication_id": 1,
}
DESTINATION = {
    "name": "snowflake-production",
    "snowflake_account": "xy12345.us-east-1",
    "snowflake_user": "ETL_USER",
    "snowflake_database": "ANALYTICS",
    "snowflake_schema": "RAW_DATA",
    "snowflake_role": "SYSADMIN",
    "snowflake_private_key_path": "user/snowflake_key.p8",
    "snowflake_host": "xy12345.snowflakecomputing.com",
}
PIPELINE = {"name": "production-to-snowflake", "source_id": 1, "destination_id": 1, "status": "START"}

# Ids of the objects that tests/api/test_openapi.py begins with: one that stays, and some to change and delete.
REAL, SPARE = 1, range(2, 8)


def body_of(destination: Destination) -> dict[str, Any]:
    """The body that makes this local destination."""
    return {
        "name": "local",
        "snowflake_account": destination.account,
        "snowflake_user": destination.user,
        "snowflake_database": destination.database,
        "snowflake_schema": destination.schema,
        "snowflake_warehouse": destination.warehouse,
        "snowflake_role": destination.role,
        "snowflake_private_key_path": destination.private_key_path,
        "snowflake_host": destination.host,
        "settings": destination.settings,
    }


@dataclass
class Api:
    """A running server; attributes of httpx's client are this one's, as admin."""

    url: str
    settings: Settings
    database: Database
    log_path: Path
    process: subprocess.Popen[bytes]
    client: httpx.Client = field(init=False)
    _log_began: int = 0

    def begin(self) -> None:
        """A new client, and a log that begins now."""
        self._log_began = self.log_path.stat().st_size
        self.client = self.as_("admin")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.client, name)

    @property
    def log(self) -> str:
        """What it has logged in this test."""
        return self.log_path.read_bytes()[self._log_began :].decode()

    def key(self, role: str, tenant: str | None = None, **options: Any) -> str:
        """A new key."""
        with psycopg.connect(self.database.dsn, row_factory=dict_row) as connection:
            return access.create(connection, f"a {role}", Role(role), tenant, options.get("expires_at")).key

    def as_(self, role: str, tenant: str | None = None) -> httpx.Client:
        """A client with a key of this role."""
        headers = {"Authorization": f"Bearer {self.key(role, tenant)}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=30)

    def nobody(self) -> httpx.Client:
        """A client without a key."""
        return httpx.Client(base_url=self.url, timeout=30)

    def filled(self, **pipeline: Any) -> None:
        """The three objects of the getting-started page; the pipeline is paused unless told otherwise."""
        assert self.client.post("/api/v1/sources", json=SOURCE).status_code == 201
        assert self.client.post("/api/v1/destinations", json=DESTINATION).status_code == 201
        answer = self.client.post("/api/v1/pipelines", json=PIPELINE | {"status": "PAUSE"} | pipeline)
        assert answer.status_code == 201, answer.text


@pytest.fixture
def api_server(database: Database, tmp_path: Path) -> Iterator[Callable[..., Api]]:
    with contextlib.ExitStack() as stack:
        yield lambda **environment: stack.enter_context(serving(database, tmp_path, **environment))


@pytest.fixture(scope="session")
def shared_api(postgres: EmbeddedPostgres) -> Iterator[Api]:
    name = f"test_api_{uuid.uuid4().hex[:12]}"
    postgres.create_database(name)
    # A test asks as fast as it can, and its keys are anywhere; those of the limits start a server with one.
    fast = {"API_RATE_LIMIT": "0", "API_KEY_DIRECTORY": "/"}
    with tempfile.TemporaryDirectory() as folder, serving(Database(postgres, name), Path(folder), **fast) as server:
        yield server


# It meets what the server still does for a request whose client did not wait.
@retry(retry=retry_if_exception_type(psycopg.errors.DeadlockDetected), stop=stop_after_attempt(5), reraise=True)
def _empty(database: Database) -> None:
    tables = "SELECT string_agg(format('%%I.%%I', schemaname, tablename), ', ') FROM pg_tables WHERE schemaname IN ('app', 'etl') AND tablename <> %s"
    ((names,),) = database.execute(tables, "alembic_version")
    database.execute(f"TRUNCATE {names} RESTART IDENTITY CASCADE")


@pytest.fixture
def api(shared_api: Api) -> Iterator[Api]:
    _empty(shared_api.database)
    shared_api.begin()
    yield shared_api
    shared_api.client.close()


@contextlib.contextmanager
def serving(database: Database, folder: Path, **environment: str) -> Iterator[Api]:
    """A server with its own process."""
    variables = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "DATABASE_URL": least.config_role(database),
        "STATE_STORE": "postgres",
        "SECRET_KEY": SECRET_KEY,
        "API_ADDR": f"127.0.0.1:{choose_port()}",
        **environment,
    }
    settings = load(folder, variables)
    migrate(settings)
    path = folder / f"api-{uuid.uuid4().hex[:8]}.log"
    with path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "etl_supervisor.api"], env=variables, cwd=folder, stdout=log, stderr=log
        )
    server = Api(f"http://{settings.api_addr}", settings, database, path, process)
    try:
        _await(server)
        server.begin()
        yield server
    finally:
        server.client.close()
        process.terminate()
        process.wait(START_SECONDS)


def _await(server: Api) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            if httpx.get(server.url + "/health").status_code == 200:
                return
        except httpx.TransportError:
            assert server.process.poll() is None, server.log_path.read_text()
        assert time.monotonic() < deadline, server.log_path.read_text()
        time.sleep(0.05)
