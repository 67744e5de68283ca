"""A Valkey server for tests: one per test process, emptied for each test.

valkey     the embedded server, started once
redis_url  its URL, with nothing in it
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from etl_supervisor.embedded.valkey import EmbeddedValkey


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedValkey]:
    with EmbeddedValkey(tmp_path_factory.mktemp("valkey") / "data") as server:
        yield server


@pytest.fixture
def redis_url(valkey: EmbeddedValkey) -> str:
    with redis.Redis.from_url(valkey.url) as client:
        client.flushall()
    return valkey.url
