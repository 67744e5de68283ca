"""Descriptors and threads of every process with many tables, where no more are allowed than are said to be needed."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from etl_supervisor.cli.start import (
    DESCRIPTORS_OF_ANY,
    DESCRIPTORS_PER_ACTOR,
    DESCRIPTORS_PER_CHANNEL,
    descriptors_needed,
)
from etl_supervisor.config.settings import load
from tests.support.fix_deployment import Deployment
from workers.snowflake.jobs import THREADS_FOR_STATUSES, THREADS_PER_LANE, Lane

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

TABLES, ACTORS = 40, 2
THREADS_BESIDE = 8  # the loop, and those of the SDK
SETTINGS = {"SNOWFLAKE_ACTOR_POOL_SIZE": str(ACTORS), "SNOWFLAKE_CHANNELS_MAX": str(TABLES // ACTORS)}


def held(deploy: Deployment) -> dict[str, tuple[int, int]]:
    """Descriptors and threads of the supervisor and each child."""
    assert deploy.supervisor is not None
    processes = {"supervisor": deploy.supervisor.pid, **deploy.settled()}
    return {
        name: (len(list(Path(f"/proc/{pid}/fd").iterdir())), len(list(Path(f"/proc/{pid}/task").iterdir())))
        for name, pid in processes.items()
    }


def write(deploy: Deployment, number: int) -> None:
    """A row for every table, in one transaction."""
    deploy.source.execute("; ".join(f"insert into t{table} values ({number}, 'v')" for table in range(TABLES)))
    deploy.caught_up("shop", 120)


def test_many_tables_need_no_more_than_is_said(deploy: Deployment) -> None:
    for table in range(TABLES):
        deploy.source.execute(f"create table t{table} (id int primary key, v text)")
    deploy.source.execute("create publication p for all tables")
    deploy.add("shop")
    deploy.start(**SETTINGS)
    assert deploy.supervisor is not None
    needed = descriptors_needed(load(deploy.folder, {**deploy.environment, **SETTINGS}))
    resource.prlimit(deploy.supervisor.pid, resource.RLIMIT_NOFILE, (needed, needed))  # it has not begun yet
    deploy.ready("shop", TABLES)
    for pid in deploy.settled().values():
        assert resource.prlimit(pid, resource.RLIMIT_NOFILE) == (needed, needed)
    write(deploy, 1)
    write(deploy, 2)
    before = held(deploy)
    write(deploy, 3)
    after = held(deploy)

    actors = [after[f"etl-actor-{number}"] for number in range(ACTORS)]
    threads_max = (len(Lane) - 1) * THREADS_PER_LANE + THREADS_FOR_STATUSES + THREADS_BESIDE
    assert max(threads for _, threads in actors) <= threads_max
    assert sum(fds for fds, _ in actors) <= ACTORS * DESCRIPTORS_OF_ANY + TABLES * DESCRIPTORS_PER_CHANNEL
    assert after["supervisor"][1] == 1
    few = {name: fds for name, (fds, _) in after.items() if "actor" not in name}
    assert few.keys() >= {"supervisor", "etl-nursery", "etl-monitor", "etl-reader-shop"}
    assert max(few.values()) <= 40 + ACTORS * DESCRIPTORS_PER_ACTOR, few
    assert {name: fds for name, (fds, _) in after.items() if fds > before[name][0] + 4} == {}, "no round costs more"
    deploy.same("shop", **{f"t{table}": ("id",) for table in (0, TABLES - 1)})
    assert deploy.stop() == 0
    assert "Too many open files" not in deploy.log
