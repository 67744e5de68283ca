"""The nursery: children that it has forked are the supervisor's own, and nobody needs it."""

from __future__ import annotations

import os
import resource
import signal
from pathlib import Path

import pytest

from etl_supervisor.supervision.nursery import WAIT_SECONDS_MAX
from tests.chaos.test_supervisor import shop
from tests.support.fix_deployment import Deployment, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

HEAVY = ("etl-reader-shop", "etl-actor-0", "etl-actor-1")


def running(deploy: Deployment) -> dict[str, int]:
    """The children's pids, once all are there; the nursery is one of them."""
    shop(deploy)
    deploy.start()
    deploy.ready("shop")
    return deploy.settled()


def replaced(deploy: Deployment, name: str, victim: int) -> int:
    """Kill a child; its successor's pid."""
    os.kill(victim, signal.SIGKILL)
    successor: int = wait_for(
        f"another {name}", lambda: found if (found := deploy.children().get(name, victim)) != victim else 0
    )
    return successor


def rows_flow(deploy: Deployment, first: int) -> None:
    deploy.source.execute(f"insert into items select g, 'more' from generate_series({first}, {first + 9}) g")
    deploy.caught_up("shop")


def libraries(pid: int) -> set[tuple[str, str]]:
    """Where a process has libarrow: (addresses, file)."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return {(line.split()[0], line.split()[-1]) for line in lines if "libarrow.so" in line}


def begun(pid: int) -> float:
    """When a process began, in seconds since the machine did."""
    ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return int(ticks) / os.sysconf("SC_CLK_TCK")


def forked_by(nursery: int, pid: int) -> bool:
    """Whether a child has the nursery's libraries; one that has waited for its imports in vain need not."""
    return libraries(pid) == libraries(nursery) or begun(pid) - begun(nursery) >= WAIT_SECONDS_MAX


def test_children_are_forked_by_it_and_are_the_supervisors_own(deploy: Deployment) -> None:
    children = running(deploy)
    nursery = children["etl-nursery"]
    assert len(os.listdir(f"/proc/{nursery}/task")) == 1, "a fork would lose the others"
    assert libraries(nursery)
    for name in HEAVY:
        assert forked_by(nursery, children[name]), f"{name} has imported nothing by itself"
    successor = replaced(deploy, "etl-reader-shop", children["etl-reader-shop"])
    wait_for("its libraries", lambda: libraries(successor) == libraries(nursery))
    rows_flow(deploy, 1000)
    assert '"child":"reader-shop"' in deploy.log
    assert '"code":-9' in deploy.log, "its end is seen as what it was"
    assert not libraries(children["etl-monitor"]), "it comes from the supervisor"
    assert deploy.stop() == 0
    wait_for("its end", lambda: not Path(f"/proc/{nursery}").exists())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_without_it_children_import_for_themselves(deploy: Deployment, number: signal.Signals) -> None:
    children = running(deploy)
    nursery = children["etl-nursery"]
    shared = libraries(nursery)
    os.kill(nursery, number)
    reader = replaced(deploy, "etl-reader-shop", children["etl-reader-shop"])
    lost = wait_for("the log to tell", lambda: deploy.events("nursery_lost"))[-1]
    assert lost["pid"] == nursery
    wait_for("the nursery's end", lambda: not Path(f"/proc/{nursery}").exists())
    wait_for("its libraries", lambda: libraries(reader))
    if number == signal.SIGSTOP:  # it was found out by this birth; one that was killed may have had a successor in time
        assert libraries(reader) != shared, "they are its own"
    rows_flow(deploy, 1000)
    assert all(deploy.children()[name] == children[name] for name in HEAVY[1:]), "nobody else is disturbed"
    wait_for("another nursery", lambda: "etl-nursery" in deploy.children())
    actor = replaced(deploy, "etl-actor-0", children["etl-actor-0"])
    wait_for("its libraries", lambda: forked_by(deploy.children()["etl-nursery"], actor))
    rows_flow(deploy, 2000)
    assert deploy.stop() == 0


def test_it_dies_with_a_killed_supervisor_and_so_do_its_children(deploy: Deployment) -> None:
    children = running(deploy)
    os.kill(children["etl-nursery"], signal.SIGSTOP)  # it can't even notice
    deploy.kill()
    wait_for("all to end", lambda: not any(Path(f"/proc/{pid}").exists() for pid in children.values()))


def test_a_machine_without_room_for_a_child_disturbs_nobody_else(deploy: Deployment) -> None:
    children = running(deploy)
    assert deploy.supervisor is not None
    limits = resource.prlimit(deploy.supervisor.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(deploy.supervisor.pid, resource.RLIMIT_NOFILE, (3, limits[1]))
    os.kill(children["etl-reader-shop"], signal.SIGKILL)
    failed = wait_for("the log to tell", lambda: deploy.events("child_not_started"))
    assert failed[0]["child"] == "reader-shop"
    assert "TasksMax" in failed[0]["remedy"]
    others = {name: pid for name, pid in children.items() if "reader" not in name}
    assert {name: pid for name, pid in deploy.children().items() if "reader" not in name} == others
    resource.prlimit(deploy.supervisor.pid, resource.RLIMIT_NOFILE, limits)
    wait_for("another reader", lambda: "etl-reader-shop" in deploy.children())
    rows_flow(deploy, 1000)
    assert deploy.stop() == 0
