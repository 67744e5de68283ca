"""The wall clock of our machine jumps by an hour: nothing is lost, doubled, copied again or held up by it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from tests.support.fix_deployment import Deployment, wait_for
from tests.support.wall_clock import WallClock

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(480),
    pytest.mark.skipif(not WallClock.there, reason="no C compiler on this machine"),
]

JUMP = 3000  # seconds; Snowflake gives tokens for an hour, and a clock that is further ahead takes them for over
FAR = 3700  # more than they live
KEYS = {"items": ("id",), "others": ("id",)}
SOON_SECONDS = 120.0  # far less than the jumps; a busy machine needs some of it


@pytest.fixture
def clock(deploy: Deployment, tmp_path: Path) -> WallClock:
    made = WallClock(tmp_path)
    deploy.environment |= made.environment
    return made


def begin(deploy: Deployment, path: str = "streaming") -> None:
    for table in KEYS:
        deploy.source.execute(f"create table {table} (id int primary key, note text)")
        deploy.source.execute(f"insert into {table} select g, 'n' || g from generate_series(1, 100) g")
    deploy.source.execute("create publication p for all tables")
    deploy.add("shop", load_path=path, copy_load_path=path, file_max_age_seconds=0.5)
    deploy.start()
    deploy.ready("shop", 2)


def goes_on(deploy: Deployment, number: int) -> None:
    for table in KEYS:
        deploy.source.execute(f"update {table} set note = 'at {number}' where id % 10 = {number}")
        deploy.source.execute(f"insert into {table} values (1000 + {number}, 'new')")
    deploy.caught_up("shop", SOON_SECONDS)
    deploy.same("shop", **KEYS)


def kill(deploy: Deployment, name: str) -> None:
    pid = deploy.children()[name]
    os.kill(pid, signal.SIGKILL)
    wait_for("another", lambda: deploy.children().get(name, pid) != pid)


def test_a_process_and_its_children_are_told_the_time_that_was_set(tmp_path: Path) -> None:
    clock = WallClock(tmp_path)
    ask = "import os, time; os.fork() or os._exit(0); print(time.time() - float(os.environ['NOW']))"
    for seconds in (JUMP, -JUMP, 0):
        clock.set(seconds)
        now = subprocess.check_output(["date", "+%s.%N"], text=True).strip()
        environment = {**os.environ, **clock.environment, "NOW": now}
        assert abs(float(subprocess.check_output([sys.executable, "-c", ask], env=environment)) - seconds) < 60


def test_rows_flow_while_the_clock_jumps_and_whoever_starts_meanwhile_goes_on(
    deploy: Deployment, clock: WallClock
) -> None:
    begin(deploy)
    generations = {name: state.generation for name, state in deploy.states("shop").items()}
    for number, seconds in enumerate((JUMP, 0, -JUMP)):
        clock.set(seconds)
        goes_on(deploy, number)
        for child in ("etl-reader-shop", "etl-actor-0"):
            kill(deploy, child)
        goes_on(deploy, number + 5)
    deploy.source.execute("create table later (id int primary key)")
    deploy.source.execute("insert into later select generate_series(1, 50)")
    deploy.ready("shop", 3)
    deploy.caught_up("shop", SOON_SECONDS)
    deploy.same("shop", later=("id",), **KEYS)
    states = deploy.states("shop")
    assert {name: states[name].generation for name in generations} == generations
    assert len(deploy.copied) == 3, "nothing was copied again"
    assert deploy.stop() == 0


def test_a_key_that_snowpipe_refuses_because_our_clock_is_behind_is_taken_when_it_is_right(
    deploy: Deployment, clock: WallClock
) -> None:
    """A token that we sign an hour ago has run out. Nothing can be done about that but to say it, and to try again."""
    begin(deploy, "snowpipe")
    clock.set(-FAR)
    kill(deploy, "etl-actor-0")
    kill(deploy, "etl-actor-1")
    for table in KEYS:
        deploy.source.execute(f"update {table} set note = 'while it is behind' where id < 20")
    line = wait_for("the refusal", lambda: deploy.events("table_stopped"))[0]
    assert (line["kind"], line["reason"]) == ("destination_auth", "Snowpipe answers 401")
    assert "the clock of this machine" in line["remedy"]
    clock.set(0)
    deploy.caught_up("shop", 2 * SOON_SECONDS)  # the next try may be a minute away
    deploy.same("shop", **KEYS)
    goes_on(deploy, 3)
    assert deploy.stop() == 0


def test_a_store_that_is_lost_before_the_clock_is_set_back_refuses_nobody(deploy: Deployment, clock: WallClock) -> None:
    """The epochs of the watermarks are of the time before: later than any that the clock has now."""
    begin(deploy)
    wait_for("the states to be kept", lambda: all(state.kept for state in deploy.states("shop").values()))
    deploy.caught_up("shop")
    assert deploy.stop() == 0
    redis.Redis.from_url(deploy.environment["REDIS_URL"]).flushall()
    clock.set(-JUMP)
    deploy.start()
    wait_for("the state to be rebuilt", lambda: deploy.events("state_rebuilt"), SOON_SECONDS)
    goes_on(deploy, 1)
    assert len(deploy.copied) == 2, "nothing was copied again"
    assert deploy.stop() == 0


def test_a_table_that_is_copied_again_after_the_clock_was_set_back_begins_a_later_history(
    deploy: Deployment, clock: WallClock
) -> None:
    begin(deploy)
    before = deploy.states("shop")["items"].generation
    clock.set(-JUMP)
    deploy.source.execute("alter table items alter column id type bigint using id * 2")
    wait_for("another history of the table", lambda: deploy.states("shop")["items"].generation > before, SOON_SECONDS)
    deploy.ready("shop", 2)
    goes_on(deploy, 2)
    assert deploy.states("shop")["items"].generation == before + 1
    assert deploy.stop() == 0
