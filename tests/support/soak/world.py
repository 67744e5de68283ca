"""Everything that a soak runs on: PostgreSQL, Valkey and the local Snowflake of its own, a proxy on every edge, two sources, a supervisor.

    supervisor's children ──source──► PostgreSQL (databases shop and depot)        checks and workload go past the proxies
                          ──config──► PostgreSQL (database config)
                          ──store───► Valkey
                          ──snowflake► local Snowflake

`shop` goes by Snowpipe Streaming, `depot` by files. Servers are started by the main thread alone: they die with the thread that started them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from etl_supervisor.config.settings import load
from etl_supervisor.embedded.ports import choose_port
from etl_supervisor.embedded.postgres import EmbeddedPostgres
from etl_supervisor.embedded.snowflake.launch import LocalSnowflake
from etl_supervisor.embedded.valkey import EmbeddedValkey
from etl_supervisor.repository.migrations import migrate
from tests.support import least
from tests.support.fix_deployment import SECRET_KEY, Deployment, wait_for
from tests.support.fix_local_snowflake import destination_in
from tests.support.fix_postgres import FAST_SETTINGS, Database
from tests.support.proxy import Proxy
from tests.support.soak.plan import failpoints
from tests.support.soak.workload import prepare
from tests.support.wall_clock import WallClock

SOURCES = ("shop", "depot")
LOOPBACK = "127.0.0.1"
COMMIT_DELAY_SECONDS = 0.2  # between append and commit there is time to die in
APPLY_SECONDS = 1.0  # (60 by default) rows that come seldom are applied at once; the others leave the local Snowflake some of its time
SOAK_VARIABLE = "ETL_SOAK"  # in the environment of every process that is started here: who is left over is found by it
TRUSTED = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")  # of this process: comparisons set them to the local Snowflake's
SETTINGS = {
    "PIPELINE_POLL_INTERVAL_SECS": "1",
    "SNOWFLAKE_ACTOR_POOL_SIZE": "2",
    "HEARTBEAT_TIMEOUT_SECONDS": "20",
    "SHARED_MEMORY_BUDGET_MB": "8",
    "SPOOL_MEMORY_MB": "1",
    "WAL_MONITOR_INTERVAL_SECONDS": "10",
}
PIPELINE = {"table_error_retry_max_attempts": 1000, "table_error_retry_delay_ms": 300}
PATHS: dict[str, dict[str, Any]] = {
    "shop": {"channels_per_table": 2},
    "depot": {"load_path": "snowpipe", "copy_load_path": "copy", "file_max_age_seconds": 0.5},
}


@dataclass
class World:
    """`folder` holds all data; `with World(folder, seed)` starts everything but the supervisor."""

    folder: Path
    seed: int
    stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    proxies: dict[str, Proxy] = field(default_factory=dict)
    clock: WallClock | None = None  # of the supervisor and its children; None: no compiler here
    starts: int = 0
    ends: Counter[int] = field(default_factory=Counter)  # exit codes of supervisors that ended
    answers: list[dict[str, Any]] = field(default_factory=list)  # what the local Snowflake does wrong now

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self.postgres = stack.enter_context(EmbeddedPostgres(self.folder / "postgres", settings=FAST_SETTINGS))
            self.valkey = stack.enter_context(EmbeddedValkey(self.folder / "valkey"))
            self.snowflake = stack.enter_context(LocalSnowflake(self.folder / "snowflake"))
            self._connect(stack)
            self.stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        supervisor = self.deployment.supervisor
        if supervisor is not None and supervisor.poll() is None:
            self.deployment.kill()
        self.stack.close()

    @property
    def scratch(self) -> Path:
        """The temporary directory of the supervisor and its children."""
        return self.folder / "scratch"

    @property
    def servers(self) -> dict[str, EmbeddedPostgres | EmbeddedValkey | LocalSnowflake]:
        """By name."""
        return {"postgres": self.postgres, "valkey": self.valkey, "snowflake": self.snowflake}

    def start_supervisor(self, *, armed: bool = True) -> None:
        """Start one; the log goes on. Each has other failpoints armed."""
        self.starts += 1
        plan = failpoints(self.seed, self.starts) if armed else ""
        self.deployment.start(
            ETL_FAILPOINTS=plan, ETL_FAILPOINTS_LOG=str(self.folder / f"failpoints-{self.starts}.log")
        )

    def revive(self) -> None:
        """Start the supervisor again if it has ended."""
        supervisor = self.deployment.supervisor
        if supervisor is not None and supervisor.poll() is not None:
            self.ends[supervisor.returncode] += 1
            self.start_supervisor()

    def landed(self) -> Counter[str]:
        """Failpoints that have killed a process."""
        logs = self.folder.glob("failpoints-*.log")
        return Counter(f"failpoint {line.split()[0]}" for log in logs for line in log.read_text().splitlines())

    def crash(self, name: str) -> None:
        """A server ends without any order: PostgreSQL by an immediate shutdown, others by SIGKILL."""
        server = self.servers[name]
        if not server.running:
            return
        os.kill(server.pid, signal.SIGQUIT if name == "postgres" else signal.SIGKILL)
        wait_for(f"the end of {name}", lambda: not server.running)

    def start_server(self, name: str) -> None:
        """Start it again, unless it runs."""
        if not self.servers[name].running:
            self.servers[name].start()
            self.behave()

    def behave(self) -> None:
        """Tell the local Snowflake its faults: it has forgotten them when it starts again."""
        with contextlib.suppress(OSError):  # it is down: told when it starts
            self.snowflake.set(commit_delay_s=COMMIT_DELAY_SECONDS, blackhole=False, faults=self.answers)

    def write_settings(self, changes: dict[str, str]) -> None:
        """Settings for the children that start from now on."""
        lines = [f"{name}={value}\n" for name, value in {**SETTINGS, **changes}.items()]
        (self.folder / ".env").write_text("".join(lines))
        supervisor = self.deployment.supervisor
        if supervisor is not None and supervisor.poll() is None:
            supervisor.send_signal(signal.SIGHUP)

    def heal(self) -> None:
        """Everything runs and nothing is in the way."""
        self.answers.clear()
        for name in self.servers:
            self.start_server(name)
        if self.clock is not None:
            self.clock.set(0)
        for proxy in self.proxies.values():
            proxy.delay_seconds, proxy.refusing = 0.0, False
            proxy.release()
        self.behave()
        self.revive()

    def _connect(self, stack: contextlib.ExitStack) -> None:
        store = urlsplit(self.valkey.url)
        ports = {
            "source": self.postgres.port,
            "config": self.postgres.port,
            "store": store.port or 0,
            "snowflake": self.snowflake.port,
        }
        for name, port in ports.items():
            self.proxies[name] = Proxy((LOOPBACK, port))
            stack.callback(self.proxies[name].close)
        self.scratch.mkdir()
        self.clock = WallClock(self.folder) if WallClock.there else None
        databases = {name: Database(self.postgres, name) for name in ("config", *SOURCES)}
        for database in databases.values():
            self.postgres.create_database(database.name)
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "TMPDIR": str(self.scratch),
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "DATABASE_URL": self._through("config", least.config_role(databases["config"])),
            "REDIS_URL": self._through("store", self.valkey.url),
            "SECRET_KEY": SECRET_KEY,
            "METRICS_ADDR": f"{LOOPBACK}:{choose_port()}",
            SOAK_VARIABLE: str(self.folder),
            **(self.clock.environment if self.clock is not None else {}),
        }
        (self.folder / ".env").write_text("".join(f"{name}={value}\n" for name, value in SETTINGS.items()))
        settings = load(self.folder, environment)
        migrate(settings)
        host = f"{LOOPBACK}:{self.proxies['snowflake'].port}"
        there = {}
        for name in SOURCES:
            allowed = least.snowflake_role(destination_in(self.snowflake), self.folder / f"keys of {name}")
            there[name] = replace(allowed, name=name, host=host, apply_interval_seconds=APPLY_SECONDS)
        config, shop = databases["config"], databases["shop"]
        self.deployment = Deployment(
            config, shop, self.snowflake, there["shop"], there["shop"], settings, environment, self.folder
        )
        source = {"pg_host": LOOPBACK, "pg_port": self.proxies["source"].port}
        for name in SOURCES:
            prepare(databases[name])
            databases[name].execute(
                "create table bulk (id int primary key, body text)"
            )  # of transactions that need room
            self.deployment.add(name, databases[name], there[name], **source, **PIPELINE, **PATHS[name])
        self.behave()

    def _through(self, edge: str, url: str) -> str:
        parts = urlsplit(url)
        account = parts.netloc.rpartition("@")[0]
        return parts._replace(netloc=f"{account}@{LOOPBACK}:{self.proxies[edge].port}").geturl()


@contextlib.contextmanager
def fresh_world(seed: int) -> Iterator[World]:
    """A world in a temporary folder that the servers' account can reach. What this process trusts goes with it (`trust_local`)."""
    trusted = {name: os.environ.get(name) for name in TRUSTED}
    try:
        with tempfile.TemporaryDirectory(prefix="etl-soak-", ignore_cleanup_errors=True) as name:
            os.chmod(name, 0o711)
            with World(Path(name), seed) as world:
                yield world
    finally:
        for variable, before in trusted.items():
            if before is None:
                os.environ.pop(variable, None)
            else:
                os.environ[variable] = before
