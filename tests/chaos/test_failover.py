"""Two supervisors on one config database: exactly one runs each source, and the other goes on when it dies, hangs or is cut off."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from etl_supervisor.embedded.ports import choose_port
from tests.chaos.test_crashes import KEYS, change, make_tables
from tests.support.fix_deployment import Deployment, wait_for
from tests.support.load import load_on
from tests.support.proxy import Proxy

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

TAKE_OVER_SECONDS_MAX = 10.0
ELSEWHERE = (
    "unshare",
    "--pid",
    "--fork",
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
        """The pid of its reader, while that runs."""
        for child in children_of(self.pid):
            with contextlib.suppress(OSError):
                if Path(f"/proc/{child}/comm").read_text().strip() == "etl-reader-shop":
                    return child
        return None

    def signal_all(self, number: signal.Signals) -> None:
        os.killpg(self.process.pid, number)


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


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


def note(name: str, seconds: float) -> None:
    """For the figures of docs/benchmarks.md: shown with -s."""
    print(f"take-over after {name}: {seconds:.1f} s")  # noqa: T201
    assert seconds <= TAKE_OVER_SECONDS_MAX


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
