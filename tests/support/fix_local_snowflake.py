"""The local Snowflake for tests, and destinations in it.

local_snowflake   the server, started once per test process
destination       a database of its own in it, as a destination
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


@pytest.fixture(scope="session")
def local_snowflake() -> Iterator[LocalSnowflake]:
    with (
        tempfile.TemporaryDirectory(prefix="etl-test-") as folder,
        LocalSnowflake(Path(folder) / "snowflake") as server,
    ):
        yield server


@pytest.fixture
def destination(local_snowflake: LocalSnowflake) -> Destination:
    local_snowflake.set(commit_delay_s=0, counting=False, blackhole=False, faults=[], reject=[])
    return destination_in(local_snowflake)


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
