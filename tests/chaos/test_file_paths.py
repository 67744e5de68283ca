"""Rows that travel as files, and a death at each step: every row once, whatever dies."""

from __future__ import annotations

import os
import signal
import time

import pytest

from etl_supervisor.failpoints import NAMES
from tests.chaos.test_crashes import KEYS, change, landed, make_tables
from tests.support.fix_deployment import Deployment, wait_for
from tests.support.load import load_on
from workers.snowflake import loaders, streaming

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

STEPS = sorted(name for name in NAMES if name.startswith("files."))


def add(deploy: Deployment, path: str) -> None:
    make_tables(deploy.source)
    deploy.server.set(commit_delay_s=0.3)
    deploy.add("shop", load_path=path, copy_load_path=path, file_max_age_seconds=0.3, table_error_retry_max_attempts=50)


def finish(deploy: Deployment) -> None:
    deploy.ready("shop", 2)
    deploy.caught_up("shop")
    deploy.same("shop", **KEYS)
    assert deploy.stop() == 0


@pytest.mark.parametrize("path", ["snowpipe", "copy"])
def test_an_actor_may_die_at_every_step_of_a_file(deploy: Deployment, path: str) -> None:
    add(deploy, path)
    deploy.start(ETL_FAILPOINTS=",".join(f"{name}=kill@{2 + number}" for number, name in enumerate(STEPS)))
    with load_on(deploy.source, change):
        wait_for("all kills", lambda: landed(deploy) == set(STEPS), 200)
    finish(deploy)


@pytest.mark.parametrize("path", ["snowpipe", "copy"])
def test_everything_may_die_while_files_are_under_way(deploy: Deployment, path: str) -> None:
    add(deploy, path)
    names = ["files.after_plan", "files.after_upload", "files.after_load"]
    with load_on(deploy.source, change) as done:
        for name in names:
            deploy.start(ETL_FAILPOINTS=f"{name}=kill@4")
            wait_for(f"a kill at {name}", lambda n=name: n in landed(deploy), 100)  # type: ignore[misc]
            deploy.kill()
        deploy.start()
        for child in ("etl-reader-shop", "etl-actor-0", "etl-actor-1"):
            pid = wait_for(child, lambda c=child: deploy.children().get(c))  # type: ignore[misc]
            before = done[0]
            wait_for("load", lambda b=before: done[0] > b + 30)  # type: ignore[misc]
            os.kill(pid, signal.SIGKILL)
    finish(deploy)


def test_answers_that_are_lost_or_wrong_double_nothing(deploy: Deployment) -> None:
    add(deploy, "snowpipe")
    deploy.start()
    deploy.ready("shop", 2)
    paths = ("insertFiles", "insertReport", "__stage")
    with load_on(deploy.source, change) as done:
        for apply in (False, True):
            for status in (400, 503):
                fault = {"count": 2, "status": status, "apply": apply, "body": {}}
                deploy.server.set(faults=[{**fault, "path": path} for path in paths])
                before = done[0]
                wait_for("load", lambda b=before: done[0] > b + 60)  # type: ignore[misc]
    deploy.server.set(faults=[])
    finish(deploy)


@pytest.mark.parametrize(
    ("path", "request_", "limit"),
    [("streaming", "/rows$", streaming.REQUEST_SECONDS), ("snowpipe", "insertFiles", loaders.REQUEST_SECONDS[1])],
)
def test_a_request_that_is_worked_off_after_its_time(
    deploy: Deployment, path: str, request_: str, limit: float
) -> None:
    """The client has given it up and has sent it again; then the first one is worked off, too."""
    add(deploy, path)
    deploy.start()
    deploy.ready("shop", 2)
    late = limit + 20
    deploy.server.set(faults=[{"path": request_, "count": 1, "delay_s": late}])
    begun = time.monotonic()
    deploy.source.execute("insert into items select g, g from generate_series(9001, 9010) g")
    deploy.caught_up("shop", late)
    assert limit <= time.monotonic() - begun < late, "its limit ended it"
    wait_for("the late one", lambda: time.monotonic() > begun + late + 5, late)
    deploy.source.execute("update items set n = 0 where id > 9000")
    finish(deploy)
