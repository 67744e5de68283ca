"""What ends for reasons outside of us is ridden out: servers that come back, and actors that are killed while a row stands trial."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator

import psycopg
import pytest

from tests.chaos.test_poison import FOUND_SECONDS_MAX, POISON, dead, landed, values
from tests.support.fix_deployment import Deployment, wait_for
from tests.support.soak.verdict import calm, keys_of, settled
from tests.support.soak.workload import RECONNECT_SECONDS, small
from tests.support.soak.world import SOURCES, World, fresh_world
from workers.reader.trial import POISON_KILLS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SEED = 20261122
AWAY_SECONDS = 1.0
PAUSE_SECONDS = 0.05  # between two transactions; the local Snowflake has to keep up
ANSWER_SECONDS = 15.0  # that an append waits to be refused; its actor is killed within
TRANSACTIONS = 20  # of each source, before the end and after the return


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """One for all tests here: whoever comes later finds what the earlier ones have left."""
    with fresh_world(SEED) as made:
        made.start_supervisor(armed=False)
        for name in SOURCES:
            calm(made, name, set(keys_of(made.deployment.pipelines[name])))
        yield made
        assert made.deployment.stop() == 0


@contextlib.contextmanager
def rows_written(world: World) -> Iterator[Counter[str]]:
    """A session per source, which connects again when it has lost its server; how many transactions were committed."""
    done, stop = Counter[str](), threading.Event()

    def work(name: str) -> None:
        chance = random.Random(f"{SEED}/{name}")
        while not stop.wait(RECONNECT_SECONDS):
            with (
                contextlib.suppress(psycopg.OperationalError, psycopg.errors.UniqueViolation),
                psycopg.connect(world.deployment.pipelines[name].dsn) as connection,
            ):
                while not stop.wait(PAUSE_SECONDS):
                    small(connection, chance, Counter())
                    connection.commit()
                    done[name] += 1

    threads = [threading.Thread(target=work, args=(name,)) for name in SOURCES]
    for thread in threads:
        thread.start()
    try:
        yield done
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def more(done: Counter[str], transactions: int) -> None:
    """Wait until every source has so many more."""
    before = dict(done)
    wait_for("rows to be written", lambda: all(done[name] >= before.get(name, 0) + transactions for name in SOURCES))


@pytest.mark.parametrize("how", ["crash", "restart"])
@pytest.mark.parametrize("name", ["postgres", "valkey", "snowflake"])
def test_a_server_that_ends_and_comes_back_costs_no_row_and_no_copy(world: World, name: str, how: str) -> None:
    deployment = world.deployment
    assert deployment.supervisor is not None
    supervisor, copied, first = deployment.supervisor.pid, deployment.copied, world.servers[name].pid
    with rows_written(world) as done:
        more(done, TRANSACTIONS)
        if how == "crash":
            world.crash(name)
        else:
            world.servers[name].stop()
        assert not world.servers[name].running
        back_at = time.monotonic() + AWAY_SECONDS
        wait_for("it to have been away", lambda: time.monotonic() >= back_at)
        world.start_server(name)
        more(done, TRANSACTIONS)
    assert world.servers[name].pid != first
    for source in SOURCES:
        keys = keys_of(deployment.pipelines[source])
        calm(world, source, set(keys))
        for found in settled(world, source, keys):
            assert found.total == 0, f"{source}: {found}"
    assert (world.starts, deployment.supervisor.pid, deployment.supervisor.poll()) == (1, supervisor, None)
    assert deployment.copied == copied, "nothing is copied again"
    assert not deployment.events("child_crashed")


def test_a_row_on_trial_is_not_condemned_for_kills_from_outside(deploy: Deployment) -> None:
    """The first of two rows is good, and out alone: its actor is killed from outside as often as would condemn it."""
    deploy.source.execute("create table items (id int primary key, note text)")
    deploy.source.execute("create publication p for all tables")
    deploy.add("shop", table_error_retry_max_attempts=50)
    deploy.start(ETL_FAILPOINTS=f"poison.encode=poison:{POISON}", SNOWFLAKE_ACTOR_POOL_SIZE="1")
    deploy.ready("shop", 1)

    def appends() -> int:
        requests = deploy.server.state()["requests"]
        return int(sum(count for kind, count in requests.items() if kind in ("POST rows", "POST filebuffer")))

    held = {"path": "ITEMS.*/(rows|filebuffer)$", "count": 1_000_000, "delay_s": ANSWER_SECONDS, "status": 503}
    deploy.server.set(faults=[held])  # what is out stays out
    sent = appends()
    deploy.source.execute(f"insert into items values (1, 'good'), (2, '{POISON}')")
    for _ in range(POISON_KILLS):
        wait_for("the good row to be out alone", lambda: appends() > sent, FOUND_SECONDS_MAX)  # noqa: B023
        sent, victim = appends(), deploy.children()["etl-actor-0"]
        os.kill(victim, signal.SIGKILL)
        wait_for("another actor", lambda: deploy.children().get("etl-actor-0", victim) != victim)  # noqa: B023
    wait_for("the good row to be out once more", lambda: appends() > sent, FOUND_SECONDS_MAX)
    assert deploy.events("table_on_trial")
    assert not deploy.events("row_kills_actors")
    deploy.server.set(faults=[])
    wait_for("the other row to be found", lambda: deploy.events("row_kills_actors"), FOUND_SECONDS_MAX)
    deploy.source.execute("insert into items values (3, 'after')")
    deploy.caught_up("shop")
    assert dead(deploy) == [('{"id":2}', "alone it has killed every actor that it came to")]
    assert landed(deploy, "ITEMS") == values(deploy, "ITEMS") == [1, 3]
    ended = Counter(line["code"] for line in deploy.events("child_ended") if line["child"] == "actor-0")
    assert ended[-signal.SIGKILL] == POISON_KILLS
    assert len(deploy.events("row_kills_actors")) == 1
    assert deploy.stop() == 0
