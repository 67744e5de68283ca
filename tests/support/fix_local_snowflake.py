"""The local Snowflake for tests, and destinations in it; `destination` is one whose role has the least rights (`fix_destination`).

local_snowflake   the server, started once per test process
all_powerful      a database of its own in it, as a destination whose user may do everything
"""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from etl_supervisor.embedded.snowflake.launch import LocalSnowflake
from etl_supervisor.model.pipeline import Destination

WELL_BEHAVED: dict[str, Any] = {"commit_delay_s": 0, "counting": False, "blackhole": False, "faults": [], "reject": []}


@pytest.fixture(scope="session")
def local_snowflake() -> Iterator[LocalSnowflake]:
    with (
        tempfile.TemporaryDirectory(prefix="etl-test-") as folder,
        LocalSnowflake(Path(folder) / "snowflake") as server,
    ):
        yield server


@pytest.fixture
def all_powerful(local_snowflake: LocalSnowflake) -> Iterator[Destination]:
    yield from fresh_destination(local_snowflake)


def fresh_destination(server: LocalSnowflake) -> Iterator[Destination]:
    """A destination with a database of its own, dropped afterwards: what a server holds costs memory, and time with each look through all tables."""
    server.set(**WELL_BEHAVED)
    destination = destination_in(server)
    yield destination
    if server.running:
        server.set(**WELL_BEHAVED)
        with sql_session(destination) as session, session.cursor() as cursor:
            cursor.execute(f'DROP DATABASE "{destination.database}"')


def destination_in(server: LocalSnowflake) -> Destination:
    """A destination with a database of its own."""
    return Destination(
        id=1,
        name="local",
        type="snowflake",
        account="LOCAL",
        user="ETL",
        database=f"TEST_{uuid.uuid4().hex[:10].upper()}",
        schema="PUBLIC",
        warehouse=None,
        role=None,
        private_key_path=str(server.key_file),
        private_key_passphrase=None,
        host=server.host,
        landing_schema="ETL_SCHEMA",
        apply_interval_seconds=0.5,
        settings={"ca_file": str(server.bundle_file)},
    )


@contextmanager
def sql_session(destination: Destination) -> Iterator[Any]:
    """A connection of the real connector."""
    from workers.snowflake.connection import connect

    connection = connect(destination, lambda secret: "", Path(), purpose="test")
    try:
        yield connection
    finally:
        connection.close()
