"""A PostgreSQL of our own, for a machine that has none: found, initialised, started, and gone when we are.

Files, for the data directory `.local/postgres`:

    .local/postgres            the cluster (mode 0700, owned by the account the server runs under; its unix socket too)
    .local/postgres.password   the superuser's generated password (0600); every connection must give it
    .local/postgres.port       the port of the last start, taken again while it is free
    .local/postgres.lock       held by every process of the server
    .local/postgres.log        what the server says
    .local/programs            copies of a wheel's programs, only where root's server could not execute the originals

Order of a start: lock, programs, password, `initdb`, port, `postgres`, wait for "ready" in postmaster.pid. The cluster is
initialised under another name and renamed, so a crash leaves either no cluster or a whole one. `kill -9` of us ends the
server by a fast shutdown; `kill -9` of the server leaves a cluster that recovers from its WAL at the next start.

Root: PostgreSQL refuses to run as root, so the server runs as `postgres` (or `nobody`). That account must be able to
reach the data. Directories above it are never changed: if one is closed to it (a home directory with mode 0700), the
data goes to /var/lib/etl-stream instead, where packaged servers keep theirs, under a name made from the place asked for;
a symbolic link stands at that place.

Every start gives: TCP on 127.0.0.1 alone, SCRAM for every connection, UTF8, locale C, UTC, `wal_level = logical`.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from etl_supervisor.embedded.pg_programs import PLACE, Programs, find_programs
from etl_supervisor.embedded.ports import LOOPBACK, settle_port
from etl_supervisor.embedded.process import (
    SERVER_ENVIRONMENT,
    Account,
    ServerCommand,
    ServerProcess,
    beside,
    data_lock,
    give,
    make_directories,
    secret_in,
    server_account,
)
from etl_supervisor.errors import EtlError, Kind

SUPERUSER = "postgres"
SYSTEM_DATA = Path("/var/lib/etl-stream")  # for data that root's server account can't reach where it was wanted
INITDB_DEADLINE_S = 120.0  # takes half a second on an idle machine
STOP_STEPS = ((signal.SIGINT, 20.0), (signal.SIGQUIT, 5.0))  # fast, then immediate shutdown (crash recovery follows)
SOCKET_PATH_BYTES_MAX = 107  # sockaddr_un.sun_path, less its final zero
SOCKET_NAME_BYTES_MAX = len("/.s.PGSQL.65535.lock")
STATUS_LINE = 7  # of postmaster.pid, counted from 0 (PostgreSQL: LOCK_FILE_LINE_PM_STATUS)
SETTINGS = {
    "wal_level": "logical",
    "listen_addresses": LOOPBACK,
    "max_replication_slots": "50",  # one per source, pipeline pause and copy; each costs a few hundred bytes
    "max_wal_senders": "50",
    "max_connections": "200",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "logging_collector": "off",
}


class EmbeddedPostgres:
    """A PostgreSQL server in `data_dir`. `settings` are added to postgresql.conf's by name (`fsync`: `off`).

    `port`: None takes the port of the last start again while it is free. Every failure is an EtlError of kind EMBEDDED.
    """

    def __init__(self, data_dir: Path, port: int | None = None, settings: Mapping[str, str] | None = None) -> None:
        self.data_dir = data_dir.absolute()
        self.port = port or 0
        self._wanted_port = port
        self._settings = SETTINGS | dict(settings or {})
        self._password = ""
        self._programs: Programs | None = None
        self._server: ServerProcess | None = None

    def __repr__(self) -> str:
        return f"EmbeddedPostgres({str(self.data_dir)!r}, port={self.port}, running={self.running})"

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> Self:
        """Start the server and return when it takes connections: 0.1 s, and half a second more the first time."""
        if self.running:
            return self
        try:
            self._start()
        except OSError as error:
            raise EtlError(
                Kind.EMBEDDED,
                PLACE,
                f"{error.filename or self.data_dir}: {error.strerror or error}",
                "run as the owner of these files, or give this run a data directory of its own",
            ) from error
        return self

    def stop(self) -> None:
        """Shut down in order (within 25 s) and wait for the end. Harmless when it does not run."""
        if self._server is not None:
            self._server.stop(STOP_STEPS)

    def dsn(self, database: str = "postgres") -> str:
        """The superuser's connection string for a database. It holds the password: not for logs."""
        return make_conninfo(host=LOOPBACK, port=self.port, user=SUPERUSER, password=self._password, dbname=database)

    def url(self, database: str = "postgres") -> str:
        """The same as `dsn` in the form of `DATABASE_URL`."""
        return f"postgresql://{SUPERUSER}:{self._password}@{LOOPBACK}:{self.port}/{database}"

    def create_database(self, name: str) -> str:
        """Create a database unless it exists; its connection string."""
        with psycopg.connect(self.dsn(), autocommit=True) as connection:
            known = connection.execute("select from pg_database where datname = %s", (name,)).fetchone()
            if known is None:
                connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
        return self.dsn(name)

    @property
    def running(self) -> bool:
        """Whether the server runs."""
        return self._server is not None and self._server.running

    @property
    def pid(self) -> int:
        """Process id of the postmaster (of the last start)."""
        assert self._server is not None, "not started"
        return self._server.pid

    @property
    def version(self) -> str:
        """Such as "18.6"."""
        return self._found.version

    @property
    def bindir(self) -> Path:
        """The directory of `postgres`, `initdb` and, in the wheel, `pg_recvlogical` and `pgbench`."""
        return self._found.bindir

    @property
    def psql_path(self) -> Path:
        """`psql` beside the server's programs, else on PATH."""
        own = self.bindir / "psql"
        if own.is_file():
            return own
        if found := shutil.which("psql"):
            return Path(found)
        raise EtlError(Kind.EMBEDDED, PLACE, f"no psql in {self.bindir} or on PATH", "install a PostgreSQL client")

    @property
    def _found(self) -> Programs:
        assert self._programs is not None, "not started"
        return self._programs

    def _start(self) -> None:
        account = server_account(self.data_dir)
        self.data_dir = _reachable(self.data_dir, account)
        with data_lock(beside(self.data_dir, "lock"), PLACE) as lock:
            give(beside(self.data_dir, "lock"), account)
            self._programs = find_programs(account, self.data_dir.parent / "programs", _major_of(self.data_dir))
            self._password = self._read_password(account)
            if not _is_cluster(self.data_dir):
                self._initialise(account)
            port_file = beside(self.data_dir, "port")
            self.port = settle_port(port_file, self._wanted_port)
            give(port_file, account)
            self._server = ServerProcess(self._command(account), lock)
        self._server.await_ready(self._is_ready)

    def _read_password(self, account: Account | None) -> str:
        path = beside(self.data_dir, "password")
        if _is_cluster(self.data_dir) and not path.exists():
            raise EtlError(
                Kind.EMBEDDED,
                PLACE,
                f"{path} is missing, so nobody can log in to the cluster beside it",
                "put the file back, or move the cluster away to start with an empty one",
            )
        return secret_in(path, account)

    def _initialise(self, account: Account | None) -> None:
        draft = beside(self.data_dir, "new")
        if draft.exists():
            shutil.rmtree(draft)
        draft.mkdir(mode=0o700)
        give(draft, account)
        arguments = [
            *_user_prefix(),
            str(self.bindir / "initdb"),
            f"--pgdata={draft}",
            f"--username={SUPERUSER}",
            f"--pwfile={beside(self.data_dir, 'password')}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
        ]
        options = account.run_options() if account else {}
        done = subprocess.run(
            arguments,
            cwd="/",
            env=SERVER_ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=INITDB_DEADLINE_S,
            check=False,
            **options,  # type: ignore[call-overload]
        )
        if done.returncode != 0:
            raise EtlError(Kind.EMBEDDED, PLACE, f"initdb failed: {done.stderr or done.stdout}")
        draft.rename(self.data_dir)

    def _command(self, account: Account | None) -> ServerCommand:
        socket_dir = str(self.data_dir)
        too_long = len(os.fsencode(socket_dir)) + SOCKET_NAME_BYTES_MAX > SOCKET_PATH_BYTES_MAX
        settings = self._settings | {
            "port": str(self.port),
            "unix_socket_directories": "" if too_long else socket_dir,  # TCP alone serves as well
        }
        arguments = [item for name, value in settings.items() for item in ("-c", f"{name}={value}")]
        return ServerCommand(
            place=PLACE,
            argv=[str(self.bindir / "postgres"), "-D", str(self.data_dir), *arguments],
            log_path=beside(self.data_dir, "log"),
            account=account,
            death_signal=signal.SIGINT,  # a fast shutdown; SIGTERM would wait for every client to leave
        )

    def _is_ready(self) -> bool:
        assert self._server is not None
        try:
            lines = (self.data_dir / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return (
            len(lines) > STATUS_LINE
            and lines[0] == str(self._server.pid)  # not the file of a run that was killed
            and lines[STATUS_LINE].strip() == "ready"
        )


def _is_cluster(data_dir: Path) -> bool:
    return (data_dir / "PG_VERSION").exists()


def _major_of(data_dir: Path) -> int | None:
    """The major version that made a cluster; None where there is none yet."""
    return int((data_dir / "PG_VERSION").read_text()) if _is_cluster(data_dir) else None


def _user_prefix() -> list[str]:
    """`initdb` looks its user up by name; a user id without a name (containers) borrows one in a user namespace."""
    try:
        pwd.getpwuid(os.geteuid())
    except KeyError:
        unshare = shutil.which("unshare")
        return [unshare, "--user", "--map-user=65534", "--map-group=65534"] if unshare else []
    return []


def _reachable(wanted: Path, account: Account | None) -> Path:
    """The data directory to use: the wanted one, or one below SYSTEM_DATA when the account can't get to that."""
    wanted = wanted.resolve()  # a link to SYSTEM_DATA stays from an earlier start
    make_directories(wanted.parent)
    if account is None or _may_enter(account, wanted.parent):
        return wanted
    if wanted.exists():
        raise EtlError(
            Kind.EMBEDDED,
            PLACE,
            f"the account {account.name} can't reach {wanted}, and root may not run PostgreSQL",
            "open the directories above it (chmod o+x), move the data elsewhere, or run as another user",
        )
    key = hashlib.sha256(os.fsencode(wanted)).hexdigest()[:12]
    moved = SYSTEM_DATA / f"{wanted.name}-{key}"
    make_directories(SYSTEM_DATA)
    wanted.symlink_to(moved)
    return moved


def _may_enter(account: Account, directory: Path) -> bool:
    options = account.run_options()
    test = ["test", "-x", str(directory)]
    return subprocess.run(test, cwd="/", check=False, **options).returncode == 0  # type: ignore[call-overload, no-any-return]
