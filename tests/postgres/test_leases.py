"""Leases of sources, on a real PostgreSQL: who gets them, who keeps them, and what the parent is told."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from etl_supervisor.config.settings import Settings, load
from etl_supervisor.ipc.heartbeat import HeartbeatPage
from etl_supervisor.ipc.messages import Leased
from etl_supervisor.model.tenure import FENCE_SECONDS, clock
from etl_supervisor.monitor.holder import children_of, holder_of, host_of, is_dead
from etl_supervisor.monitor.leases import RENEW_SECONDS, Leases
from etl_supervisor.monitor.silence import Parent
from etl_supervisor.repository import leases
from etl_supervisor.repository.migrations import migrate
from tests.support import least
from tests.support.fix_deployment import wait_for
from tests.support.fix_postgres import Database
from tests.support.proxy import Proxy

SECRET = "0123456789abcdef0123456789abcdef"
LONG, GONE = 60.0, -1.0  # seconds


@pytest.fixture
def settings(database: Database, tmp_path) -> Settings:
    made = load(tmp_path, {"DATABASE_URL": least.config_role(database), "SECRET_KEY": SECRET})
    migrate(made)
    for number in (1, 2):
        database.execute(
            "insert into app.sources (id, name, pg_host, pg_database, pg_username, publication_name, replication_id)"
            f" values ({number}, 's{number}', 'h', 'd', 'u', 'p', {number})"
        )
    return made


def test_a_lease_has_one_holder_until_it_runs_out(settings, database: Database) -> None:
    with database.connect() as connection:
        connection.autocommit = True
        assert leases.take(connection, "a", [1, 2], [], LONG) == {1: 1, 2: 1}
        assert leases.take(connection, "b", [1, 2], [], LONG) == {}
        assert leases.is_elsewhere(settings, "b", 1)
        assert not leases.is_elsewhere(settings, "a", 1)
        assert leases.take(connection, "a", [1], [], GONE) == {1: 1}, "who renews keeps the epoch"
        assert leases.take(connection, "b", [1, 2], [], LONG) == {1: 2}, "a lease that has run out is the next one's"
        assert leases.take(connection, "a", [1, 2], [], LONG) == {2: 1}


def test_a_lease_of_the_dead_or_given_up_is_free_at_once(settings, database: Database) -> None:
    with database.connect() as connection:
        connection.autocommit = True
        leases.take(connection, "a", [1, 2], [], LONG)
        assert leases.others(connection, "b") == {"a"}
        assert leases.take(connection, "b", [1], ["a"], LONG) == {1: 2}
        leases.give_up(connection, "a")
        assert leases.take(connection, "b", [2], [], LONG) == {2: 2}
    assert [(lease.source, lease.holder, lease.epoch) for lease in leases.leases(settings)] == [
        ("s1", "b", 2),
        ("s2", "b", 2),
    ]


def test_a_source_that_is_gone_has_no_lease(settings, database: Database) -> None:
    with database.connect() as connection:
        connection.autocommit = True
        leases.take(connection, "a", [1, 2, 3], [], LONG)
        connection.execute("delete from app.sources where id = 1")
        assert leases.take(connection, "a", [1, 2], [], LONG) == {2: 1}


def test_a_process_of_this_machine_is_known_to_be_dead() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    name = holder_of(child.pid)
    assert not is_dead(name)
    assert f"pid {child.pid}" in host_of(name)
    child.kill()
    wait_for("the zombie", lambda: is_dead(name))
    child.communicate()
    assert is_dead(name)
    boot, *rest = holder_of(os.getpid()).split("/")
    assert not is_dead("/".join([f"{boot}-elsewhere", *rest])), "of another machine nothing is known"
    assert is_dead("/".join([boot, rest[0], rest[1], "1", rest[3]])), "another process has its pid"


def is_alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


@pytest.fixture
def parent() -> Iterator[Parent]:
    """A process with a child, that stands for a supervisor; it beats when the test does."""
    program = "import subprocess; subprocess.run(['sleep', '1000'])"
    process = subprocess.Popen([sys.executable, "-c", program], start_new_session=True)
    wait_for("its child", lambda: children_of(process.pid))
    yield Parent(process.pid, HeartbeatPage().parent)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture
def proxied(settings: Settings, database: Database) -> Iterator[tuple[Settings, Proxy]]:
    proxy = Proxy(("127.0.0.1", database.server.port))
    url = database.url.replace(f":{database.server.port}/", f":{proxy.port}/")
    assert url != database.url
    yield settings.model_copy(update={"database_url": type(settings.secret_key)(url)}), proxy
    proxy.close()


def test_the_parent_is_told_until_when_and_nothing_while_the_database_is_away(proxied, parent: Parent) -> None:
    settings, proxy = proxied
    told: list[Leased] = []
    began, beat = clock(), parent.heartbeat.beat
    ours = Leases(settings, told.append, parent)
    ours.want([1, 2])
    wait_for("both leases", lambda: beat() or (told and told[-1].sources == (1, 2)))
    wait_for("a renewal", lambda: beat() or told[-1].until > told[0].until)
    assert not ours.standby
    assert began < told[0].until - (settings.lease_seconds - FENCE_SECONDS) <= clock()
    proxy.hold()
    wait_for("the time to be over", lambda: beat() or clock() > told[-1].until)
    held = told[-1].until
    proxy.release()
    wait_for("another renewal", lambda: beat() or told[-1].until > max(held, clock()))
    ours.close(give_up=True)
    assert all(lease.seconds_left <= 0 for lease in leases.leases(settings))
    assert not is_dead(holder_of(parent.pid)), "no answer is not its silence"


def test_nothing_is_renewed_for_a_parent_that_is_silent_and_it_ends_before_its_leases_do(settings, parent) -> None:
    told: list[Leased] = []
    ours, name, beat = Leases(settings, told.append, parent), holder_of(parent.pid), parent.heartbeat.beat
    (child,) = children_of(parent.pid)
    ours.want([1, 2])
    wait_for("a renewal", lambda: beat() or len(told) > 2)
    wait_for("a renewal that is missed", lambda: clock() > told[-1].until - settings.lease_seconds + 3 * RENEW_SECONDS)
    missed = len(told)
    wait_for("the next one", lambda: beat() or len(told) > missed)
    assert not is_dead(name), "it was held for a moment"
    wait_for("its end, and its child's", lambda: is_dead(name) and not is_alive(child))
    assert clock() > told[-1].until - 2 * RENEW_SECONDS, "it had its time"
    assert all(lease.seconds_left > 0 for lease in leases.leases(settings)), "nobody else can have them yet"
    ours.close(give_up=False)
