"""Two supervisors on one config database: exactly one runs each source, and the other goes on when it dies, hangs or is cut off."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from etl_supervisor.embedded.ports import choose_port
from etl_supervisor.model.table_state import Phase
from etl_supervisor.monitor.silence import SILENT_ROUNDS
from etl_supervisor.state.choose import open_store
from tests.chaos.test_crashes import KEYS, change, make_tables
from tests.support.fix_deployment import Deployment, wait_for
from tests.support.fix_postgres import Database
from tests.support.load import load_on
from tests.support.proxy import Proxy
from tests.support.tunnel import Tunnel

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

TAKE_OVER_SECONDS_MAX = 10.0
LEASE_SECONDS = 15  # where a supervisor is stopped and must go on before its monitor ends it
ELSEWHERE = (
    "unshare",
    "--pid",
    "--fork",
    "--mount-proc",
    "--kill-child",
)  # what runs there is not to be seen from here, and so not known to be dead
READERS = "select pid from pg_stat_replication where application_name = 'etl-stream'"


@dataclass
class Machine:
    """One supervisor in a process group of its own."""

    name: str
    process: subprocess.Popen[bytes]
    log_path: Path
    elsewhere: bool = False

    @property
    def pid(self) -> int:
        """Of the supervisor."""
        return children_of(self.process.pid)[0] if self.elsewhere else self.process.pid

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    @property
    def reader(self) -> int | None:
        """The pid of its reader of `shop`, while that runs."""
        return self.child("etl-reader-shop")

    def child(self, name: str) -> int | None:
        """The pid of a child, while that runs."""
        with contextlib.suppress(OSError):
            for child in filter(runs, children_of(self.pid)):
                if Path(f"/proc/{child}/comm").read_text().strip() == name:
                    return child
        return None

    def signal_all(self, number: signal.Signals) -> None:
        os.killpg(self.process.pid, number)


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def runs(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    with contextlib.suppress(OSError):
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    return False


@pytest.fixture
def machine(deploy: Deployment) -> Iterator[Callable[..., Machine]]:
    started: list[Machine] = []

    def start(name: str, *before: str, **environment: str) -> Machine:
        path = deploy.folder / f"{name}.log"
        own = {"METRICS_ADDR": f"127.0.0.1:{choose_port()}", **environment}
        with path.open("wb") as log:
            process = subprocess.Popen(
                [*before, sys.executable, "-m", "etl_supervisor.cli.main", "run"],
                env={**deploy.environment, **own},
                cwd=deploy.folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        started.append(Machine(name, process, path, bool(before)))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.signal_all(signal.SIGCONT)
            one.process.kill()
            one.process.wait()


def seconds_of_cpu(pid: int) -> float:
    """What one process has used, without its children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def running(first: Machine, deploy: Deployment) -> None:
    deploy.supervisor = first.process
    wait_for("the tables", lambda: len(deploy.states("shop")) == 2, 60)
    wait_for("READY", lambda: {state.phase.value for state in deploy.states("shop").values()} == {"READY"})


def streams_from(machine: Machine) -> bool:
    """Whether its reader has the stream."""
    return machine.reader is not None and '"event":"reader_started"' in machine.log


def taken_over(by: Machine, since: float) -> float:
    """Seconds until the reader of the other one had the stream."""
    wait_for(f"{by.name} to stream", lambda: streams_from(by), 30)
    return time.monotonic() - since


def check_equal(deploy: Deployment) -> None:
    deploy.caught_up("shop")
    deploy.same("shop", **KEYS)


def note(name: str, seconds: float, more: float = 0.0) -> None:
    """For the figures of docs/benchmarks.md: shown with -s. `more` is what this may take longer."""
    print(f"take-over after {name}: {seconds:.1f} s")  # noqa: T201
    assert seconds <= TAKE_OVER_SECONDS_MAX + more


def test_a_second_supervisor_stands_by_and_takes_over_at_once_from_one_that_ends_in_order(
    deploy: Deployment, machine: Callable[..., Machine]
) -> None:
    make_tables(deploy.source)
    deploy.add("shop")
    first = machine("first")
    running(first, deploy)
    second = machine("second")
    wait_for("the second to be ready", lambda: '"event":"configuration_read"' in second.log)
    with load_on(deploy.source, change) as done:
        before, cpu, since = done[0], seconds_of_cpu(second.pid), time.monotonic()
        wait_for("load", lambda: done[0] > before + 100)
        assert seconds_of_cpu(second.pid) - cpu < 0.2 * (time.monotonic() - since), "who stands by does nothing"
        assert second.reader is None
        assert first.reader is not None
        os.kill(first.process.pid, signal.SIGTERM)
        assert first.process.wait(60) == 0
        since = time.monotonic()
        note("a drain", taken_over(second, since))
    check_equal(deploy)
    assert [epoch for (epoch,) in deploy.config.execute("select epoch from app.leases")] == [2]
    assert "walsender_ended" not in second.log


@pytest.mark.parametrize("elsewhere", [False, True], ids=["on this machine", "on another machine"])
def test_a_supervisor_that_was_killed_is_followed(
    deploy: Deployment, machine: Callable[..., Machine], elsewhere: bool
) -> None:
    if elsewhere and subprocess.run([*ELSEWHERE, "true"], capture_output=True).returncode:
        pytest.skip("this user may not make a pid namespace")
    make_tables(deploy.source)
    deploy.add("shop")
    first = machine("first", *(ELSEWHERE if elsewhere else ()))
    running(first, deploy)
    second = machine("second")
    wait_for("the second to be ready", lambda: '"event":"configuration_read"' in second.log)
    with load_on(deploy.source, change) as done:
        before = done[0]
        wait_for("load", lambda: done[0] > before + 50)
        os.kill(first.pid, signal.SIGKILL)
        since = time.monotonic()
        note(f"kill -9, elsewhere={elsewhere}", taken_over(second, since))
        first.process.wait()
        before = done[0]
        wait_for("load", lambda: done[0] > before + 50)
    check_equal(deploy)


def test_a_supervisor_that_hangs_is_followed_and_changes_nothing_when_it_goes_on(
    deploy: Deployment, machine: Callable[..., Machine]
) -> None:
    make_tables(deploy.source)
    deploy.server.set(commit_delay_s=0.3)
    deploy.add("shop")
    first = machine("first")
    running(first, deploy)
    second = machine("second")
    wait_for("the second to be ready", lambda: '"event":"configuration_read"' in second.log)
    with load_on(deploy.source, change) as done:
        before = done[0]
        wait_for("load", lambda: done[0] > before + 50)
        first.signal_all(signal.SIGSTOP)
        since = time.monotonic()
        note("SIGSTOP", taken_over(second, since))
        before = done[0]
        wait_for("load", lambda: done[0] > before + 100)
        streaming = deploy.source.execute(READERS)
        old = first.reader
        first.signal_all(signal.SIGCONT)
        wait_for("the old reader to end", lambda: first.reader != old)
        wait_for("it to be said", lambda: "child_fenced" in first.log)
        before = done[0]
        wait_for("load", lambda: done[0] > before + 100)
        assert first.reader is None, "the old owner runs nothing"
        assert deploy.source.execute(READERS) == streaming, "the new owner's stream goes on"
        fenced = re.findall(r'"child":"([^"]+)","pid":\d+,"event":"child_fenced"', first.log)
        assert sorted(fenced) == ["actor-0", "actor-1", "reader-shop"], "each once, not those that started meanwhile"
    check_equal(deploy)
    assert "walsender_ended" in second.log


@pytest.mark.parametrize("elsewhere", [False, True], ids=["on this machine", "as the first process of a container"])
def test_a_supervisor_whose_main_process_hangs_alone_is_followed(
    deploy: Deployment, machine: Callable[..., Machine], elsewhere: bool
) -> None:
    if elsewhere and subprocess.run([*ELSEWHERE, "true"], capture_output=True).returncode:
        pytest.skip("this user may not make a pid namespace")
    make_tables(deploy.source)
    deploy.server.set(commit_delay_s=0.3)
    deploy.add("shop")
    first = machine("first", *(ELSEWHERE if elsewhere else ()))
    running(first, deploy)
    second = machine("second")
    wait_for("the second to be ready", lambda: '"event":"configuration_read"' in second.log)
    both = []
    with load_on(deploy.source, change) as done:
        before = done[0]
        wait_for("load", lambda: done[0] > before + 50)
        main, reader = first.pid, first.reader
        children = wait_for("copy workers to end", lambda: found if len(found := children_of(main)) == 5 else [])
        assert reader is not None, "nursery, monitor, reader, two actors"
        said = first.log.count("parent_silent")
        os.kill(main, signal.SIGSTOP)
        os.kill(reader, signal.SIGKILL)
        since = time.monotonic()

        def streams() -> bool:
            both.append(second.reader is not None and any(map(runs, children)))
            return streams_from(second)

        wait_for("second to stream", streams, 30)
        seconds = time.monotonic() - since
        note(f"SIGSTOP of the main process alone, elsewhere={elsewhere}", seconds, SILENT_ROUNDS if elsewhere else 0)
        assert not any(both), "never two at once"
        assert not any(map(runs, children)), "nothing of the first is left"
        assert (first.log.count("parent_silent") - said, first.log.count("parent_killed")) == (1, 1)
        if elsewhere:  # nobody in there can kill it
            streaming = deploy.source.execute(READERS)
            os.kill(main, signal.SIGCONT)
            wait_for("another monitor", lambda: first.log.count('"event":"configuration_read"') == 2)
            assert first.reader is None, "it goes on, and stands by"
            assert deploy.source.execute(READERS) == streaming
        else:
            assert first.process.wait(1) == -signal.SIGKILL
        before = done[0]
        wait_for("load", lambda: done[0] > before + 100)
    check_equal(deploy)


def test_a_supervisor_that_is_held_for_a_moment_or_stopped_with_all_its_children_is_left_alone(
    deploy: Deployment, machine: Callable[..., Machine]
) -> None:
    make_tables(deploy.source)
    deploy.add("shop")
    first = machine("first", LEASE_SECONDS=str(LEASE_SECONDS))
    running(first, deploy)
    children = wait_for("copy workers to end", lambda: found if len(found := children_of(first.pid)) == 5 else [])
    query = "select extract(epoch from expires_at - now())::float8 from app.leases"

    def seconds_left() -> float:
        ((seconds,),) = deploy.config.execute(query)
        return float(seconds)

    os.kill(first.pid, signal.SIGSTOP)
    wait_for("a renewal that is missed", lambda: '"event":"parent_silent"' in first.log)
    os.kill(first.pid, signal.SIGCONT)
    wait_for("the next one", lambda: seconds_left() > LEASE_SECONDS - 1)
    assert children_of(first.pid) == children
    first.signal_all(signal.SIGSTOP)
    wait_for("its lease to run out", lambda: seconds_left() < -3)
    first.signal_all(signal.SIGCONT)
    wait_for("the next one", lambda: seconds_left() > 0)
    deploy.caught_up("shop")
    assert "parent_killed" not in first.log
    deploy.same("shop", **KEYS)


def test_the_old_ones_children_that_go_on_alone_change_nothing(
    deploy: Deployment, machine: Callable[..., Machine]
) -> None:
    make_tables(deploy.source)
    deploy.server.set(commit_delay_s=0.3)
    deploy.add("shop")
    first = machine("first")
    running(first, deploy)
    second = machine("second")
    wait_for("the second to be ready", lambda: '"event":"configuration_read"' in second.log)
    with load_on(deploy.source, change) as done:
        position = deploy.written("shop")
        wait_for("its channels to have rows", lambda: deploy.confirmed("shop") > position)
        zombies = [first.child(name) for name in ("etl-actor-0", "etl-actor-1", "etl-reader-shop")]
        first.signal_all(signal.SIGSTOP)
        taken_over(second, time.monotonic())
        before = done[0]
        wait_for("load", lambda: done[0] > before + 50)
        streaming, epoch = deploy.source.execute(READERS), epoch_of(deploy)
        for pid in zombies:  # actors with what they had in hand, then the reader that orders
            assert pid is not None
            os.kill(pid, signal.SIGCONT)
            before = done[0]
            wait_for("load", lambda b=before: done[0] > b + 150)  # type: ignore[misc]
        assert deploy.source.execute(READERS) == streaming
        assert epoch_of(deploy) == epoch
    check_equal(deploy)
    assert re.search('"kind":"state_store".*is not the newest', first.log), "they have tried"
    first.signal_all(signal.SIGCONT)
    buried = re.compile('"child":"reader-shop","pid":[0-9]+,"code":[0-9-]+,"event":"child_ended"')
    wait_for("the old parent to see its end", lambda: buried.search(first.log))
    assert first.reader is None, "and it starts no other"
    assert deploy.source.execute(READERS) == streaming


def epoch_of(deploy: Deployment) -> int:
    store = open_store(deploy.settings)
    try:
        return store.epoch("shop")
    finally:
        store.close()


def behind_a_proxy(deploy: Deployment, machine: Callable[..., Machine]) -> tuple[Proxy, Machine]:
    """A supervisor that runs, and the proxy that stands between it and the config database."""
    make_tables(deploy.source)
    deploy.add("shop")
    proxy = Proxy(("127.0.0.1", deploy.config.server.port))
    url = deploy.environment["DATABASE_URL"].replace(f":{deploy.config.server.port}/", f":{proxy.port}/")
    first = machine("first", DATABASE_URL=url)
    running(first, deploy)
    return proxy, first


def test_a_supervisor_that_is_cut_off_from_the_config_database_stops_before_another_begins(
    deploy: Deployment, machine: Callable[..., Machine]
) -> None:
    proxy, first = behind_a_proxy(deploy, machine)
    second = machine("second")
    wait_for("the second to be ready", lambda: '"event":"configuration_read"' in second.log)
    both = []
    with load_on(deploy.source, change) as done:
        before = done[0]
        wait_for("load", lambda: done[0] > before + 50)
        proxy.hold()
        since = time.monotonic()

        def streams() -> bool:
            both.append(first.reader is not None and second.reader is not None)
            return streams_from(second)

        wait_for("second to stream", streams, 30)
        note("a network cut", time.monotonic() - since)
        assert not any(both), "never two at once"
        proxy.release()
        before = done[0]
        wait_for("load", lambda: done[0] > before + 100)
        assert first.reader is None
    check_equal(deploy)
    proxy.close()


def test_a_supervisor_that_is_cut_off_from_everything_changes_nothing_when_the_network_is_back(
    deploy: Deployment, machine: Callable[..., Machine]
) -> None:
    make_tables(deploy.source)
    deploy.server.set(commit_delay_s=0.3)
    deploy.add("shop")
    assert deploy.config.server.port == deploy.source.server.port
    address, tunnel = "127.0.0.2", Tunnel()  # its rows name the source and the destination for both supervisors
    store = urlsplit(deploy.environment["REDIS_URL"])
    proxies = {
        "databases": Proxy(("127.0.0.1", deploy.source.server.port), address, deploy.source.server.port),
        "state store": Proxy((str(store.hostname), int(str(store.port)))),
        "Snowflake": Proxy(("127.0.0.1", tunnel.port)),
    }
    first = machine(
        "first",
        PGHOSTADDR=address,
        REDIS_URL=deploy.environment["REDIS_URL"].replace(f":{store.port}", f":{proxies['state store'].port}"),
        HTTPS_PROXY=f"http://127.0.0.1:{proxies['Snowflake'].port}",
    )
    running(first, deploy)
    second = machine("second")
    wait_for("the second to be ready", lambda: '"event":"configuration_read"' in second.log)
    both = []
    with load_on(deploy.source, change) as done:
        before = done[0]
        wait_for("load", lambda: done[0] > before + 50)
        assert all(proxy.connections for proxy in proxies.values()), "nothing goes another way"
        for proxy in proxies.values():
            proxy.hold()
        since = time.monotonic()

        def streams() -> bool:
            both.append(first.reader is not None and second.reader is not None)
            return streams_from(second)

        wait_for("second to stream", streams, 30)
        note("a cut of every network", time.monotonic() - since)
        assert not any(both), "never two at once"
        before = done[0]
        wait_for("load", lambda: done[0] > before + 100)
        streaming = deploy.source.execute(READERS)
        for proxy in proxies.values():
            proxy.release()  # what the dead have sent arrives now
        before = done[0]
        wait_for("load", lambda: done[0] > before + 200)
        assert first.reader is None
        assert deploy.source.execute(READERS) == streaming
    check_equal(deploy)
    for closed in (*proxies.values(), tunnel):
        closed.close()


def test_who_is_left_runs_the_sources_of_both(
    deploy: Deployment, second_source: Database, machine: Callable[..., Machine]
) -> None:
    make_tables(deploy.source)
    second_source.execute("create table visits (id int primary key, n int)")
    second_source.execute("insert into visits select g, 0 from generate_series(1, 100) g")
    second_source.execute("create publication p for all tables")
    deploy.add("shop")
    first = machine("first", PIPELINE_POLL_INTERVAL_SECS="60")  # it does not hear of the second source
    running(first, deploy)
    second = machine("second")
    wait_for("the second to be ready", lambda: '"event":"configuration_read"' in second.log)
    deploy.add("mart", second_source)
    wait_for("its table", lambda: [s.phase for s in deploy.states("mart").values()] == [Phase.READY])
    reader = second.child("etl-reader-mart")
    twice = []

    def look() -> None:
        for name in ("etl-reader-shop", "etl-reader-mart"):
            pids = first.child(name), second.child(name)
            twice.append(None not in pids)

    def visit(connection: psycopg.Connection, chance: random.Random) -> None:
        connection.execute("update visits set n = n + 1 where id = %s", [chance.randint(1, 100)])

    with load_on(deploy.source, change) as done, load_on(second_source, visit) as visits:
        before = done[0]
        wait_for("load", lambda: look() or done[0] > before + 50)
        assert (first.reader is None, second.reader is None) == (False, True), "each has one"
        assert (first.child("etl-reader-mart"), reader is None) == (None, False)
        first.process.kill()
        since = time.monotonic()
        wait_for("second to stream", lambda: look() or second.log.count('"event":"reader_started"') == 2, 30)
        note("kill -9, of two sources one", time.monotonic() - since)
        before = min(done[0], visits[0])
        wait_for("load", lambda: look() or min(done[0], visits[0]) > before + 100)
        assert not any(twice)
        assert second.child("etl-reader-mart") == reader, "its own was not disturbed"
    check_equal(deploy)
    deploy.caught_up("mart")
    deploy.same("mart", visits=("id",))


def test_an_outage_of_the_config_database_that_is_over_soon_stops_nothing(
    deploy: Deployment, machine: Callable[..., Machine]
) -> None:
    proxy, first = behind_a_proxy(deploy, machine)
    reader = first.reader
    query = "select expires_at from app.leases"
    for _ in range(3):
        proxy.cut()
        ((known,),) = deploy.config.execute(query)
        wait_for("a renewal", lambda k=known: deploy.config.execute(query) > [(k,)])  # type: ignore[misc]
    assert first.reader == reader
    check_equal(deploy)
    proxy.close()
