"""Breakers open, try and close by real faults, and `status` and the metrics say so. A table in trouble leaves the others alone, and comes back."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from etl_supervisor.cli.status import as_json
from etl_supervisor.supervision.intensity import RESTARTS_MAX
from tests.support.fix_deployment import Deployment, wait_for
from tests.support.fix_local_snowflake import sql_session
from tests.support.proxy import Proxy

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

READER = "etl-reader-shop"
MEASURED = {"closed": 0, "half_open": 1, "open": 2}  # as docs/metrics.md says
TRIAL_SECONDS = 8.0  # that an answer waits, so that a trial is seen


def command(deploy: Deployment, *words: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "etl_supervisor.cli.main", *words]
    return subprocess.run(line, env=deploy.environment, cwd=deploy.folder, capture_output=True, text=True)


def status(deploy: Deployment) -> dict[str, Any]:
    """What `status --json` prints. A process of its own takes seconds where the machine is busy: no state lasts that long."""
    found: dict[str, Any] = orjson.loads(as_json(deploy.settings))
    return found


def metric(deploy: Deployment, name: str) -> float | None:
    text = urllib.request.urlopen(f"http://{deploy.environment['METRICS_ADDR']}/metrics", timeout=30).read().decode()
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else None


def both_say(
    deploy: Deployment, wanted: str, of: Callable[[dict[str, Any]], str], name: str, seconds: float = 60
) -> None:
    """Wait until `status` and the metric have each told this state of a breaker."""
    silent = {"status", "metrics"}

    def look() -> bool:
        if metric(deploy, name) == MEASURED[wanted]:
            silent.discard("metrics")
        if of(status(deploy)) == wanted:
            silent.discard("status")
        return not silent

    wait_for(f"{wanted} by status and metrics", look, seconds)


def test_the_breaker_of_a_destination_opens_tries_and_closes(deploy: Deployment) -> None:
    for number in range(4):
        deploy.source.execute(f"create table t{number} (id int primary key)")
    deploy.source.execute("create publication p for all tables")
    deploy.add("shop")
    deploy.start()
    deploy.ready("shop", 4)
    there = deploy.destination.name
    name = f'etl_destination_breaker_state{{destination="{there}",source="shop"}}'

    def breaker(told: dict[str, Any]) -> str:
        return str(told["sources"][0]["breakers"][there])

    both_say(deploy, "closed", breaker, name)
    deploy.server.set(faults=[{"path": "/channels/", "count": 1_000_000, "status": 503}])
    for number in range(4):
        deploy.source.execute(f"insert into t{number} values (1)")
    both_say(deploy, "open", breaker, name, 120)
    wait_for(
        "the troubles", lambda: any("the breaker of source shop is open" in line for line in status(deploy)["troubles"])
    )
    deploy.server.set(faults=[{"path": "/channels/", "count": 1_000_000, "delay_s": TRIAL_SECONDS}])
    both_say(deploy, "half_open", breaker, name, 120)
    assert deploy.events("destination_tried")
    deploy.server.set(faults=[])
    both_say(deploy, "closed", breaker, name, 90)
    deploy.caught_up("shop")
    deploy.same("shop", t0=("id",), t1=("id",), t2=("id",), t3=("id",))
    wait_for("status to say so", lambda: status(deploy)["troubles"] == [])
    assert deploy.stop() == 0


def breaker_of_reader(told: dict[str, Any]) -> str:
    children = {child["name"]: child for child in told["children"]}
    return str(children["reader-shop"]["breaker"]) if "reader-shop" in children else ""


def test_the_breaker_of_a_child_opens_tries_and_closes(deploy: Deployment) -> None:
    """A reader that is killed again and again; its trial is held by a source that does not answer yet."""
    proxy = Proxy(("127.0.0.1", deploy.source.server.port))
    name = 'etl_child_breaker_state{child="reader-shop"}'
    deploy.source.execute("create table t (id int primary key)")
    deploy.source.execute("create publication p for all tables")
    deploy.add("shop", pg_host="127.0.0.1", pg_port=proxy.port)
    deploy.start()
    deploy.ready("shop", 1)
    both_say(deploy, "closed", breaker_of_reader, name)
    for _ in range(RESTARTS_MAX + 1):
        victim = wait_for("a reader", lambda: deploy.children().get(READER))
        assert not deploy.events("breaker_opened")
        os.kill(victim, signal.SIGKILL)
        wait_for("its end", lambda v=victim: deploy.children().get(READER) != v)  # type: ignore[misc]
    proxy.hold()
    deploy.source.execute("insert into t values (1)")
    both_say(deploy, "open", breaker_of_reader, name)
    (opened,) = deploy.events("breaker_opened")
    assert (opened["child"], opened["code"]) == ("reader-shop", -signal.SIGKILL)
    printed = "child reader-shop: its breaker is open after 7 restarts"
    wait_for("status to print it", lambda: printed in command(deploy, "status").stdout, 25)  # less than the cool-down
    both_say(deploy, "half_open", breaker_of_reader, name, 120)
    proxy.release()
    both_say(deploy, "closed", breaker_of_reader, name, 90)
    deploy.caught_up("shop")
    deploy.same("shop", t=("id",))
    assert len(deploy.copied) == 1
    assert deploy.stop() == 0
    proxy.close()


def test_what_needs_a_person_opens_the_breaker_of_a_child_at_once(deploy: Deployment) -> None:
    deploy.source.execute("create table t (id int primary key)")
    deploy.add("shop")  # its publication does not exist
    deploy.start()
    wait_for("it to open", lambda: deploy.events("breaker_opened"))
    assert len([line for line in deploy.events("child_ended") if line["child"] == "reader-shop"]) == 1
    wait_for("status to say so", lambda: breaker_of_reader(status(deploy)) == "open")
    assert [lease["source"] for lease in status(deploy)["leases"]] == ["shop"]
    deploy.source.execute("create publication p for all tables")
    deploy.ready("shop", 1)
    wait_for("it to close", lambda: breaker_of_reader(status(deploy)) == "closed")
    assert deploy.stop() == 0


REFUSED = {
    "path": "AILING.*/(rows|filebuffer)$",
    "count": 1_000_000,
    "status": 400,
    "body": {"code": "ERR_INJECTED", "message": ""},
}


def numbers(deploy: Deployment, table: str) -> list[int]:
    there = deploy.destination
    with sql_session(there) as session, session.cursor() as cursor:
        found = cursor.execute(f'SELECT ID FROM "{there.database}"."{there.schema}"."{table}" ORDER BY ID').fetchall()
        return [int(number) for (number,) in found]


@pytest.mark.parametrize(("back_by", "attempts_max"), [("its timer", 1000), ("retry", 1), ("resync", 1)])
def test_a_table_in_trouble_leaves_the_others_alone_and_comes_back(
    deploy: Deployment, back_by: str, attempts_max: int
) -> None:
    deploy.source.execute("create table ailing (id int primary key); create table well (id int primary key)")
    deploy.source.execute("create publication p for all tables")
    deploy.add("shop", table_error_retry_max_attempts=attempts_max)
    deploy.start(LEASE_SECONDS="60")  # a machine that stands still for seconds restarts nobody
    deploy.ready("shop", 2)
    refused = command(deploy, "retry", "shop")
    assert refused.returncode == 78
    assert "no table is in trouble" in refused.stderr
    reader = deploy.children()[READER]
    deploy.server.set(faults=[REFUSED])
    deploy.source.execute("insert into ailing values (1)")
    wait_for("the trouble", lambda: deploy.events("table_stopped"))
    for number in range(5):
        deploy.source.execute("insert into well values (%s)", number)
        wait_for("the other table's row", lambda n=number: numbers(deploy, "WELL") == list(range(n + 1)))  # type: ignore[misc]
    assert numbers(deploy, "AILING") == []
    assert deploy.confirmed("shop") < deploy.written("shop"), "its row is kept"
    if back_by == "its timer":
        wait_for("another try", lambda: len(deploy.events("table_stopped")) > 2)
    else:
        assert deploy.states("shop")["ailing"].phase == "ERRORED"
    assert deploy.states("shop")["well"].phase == "READY"
    stopped = deploy.events("table_stopped")
    assert {(line["table"], line["retry"]) for line in stopped} == {("public.ailing", attempts_max > 1)}
    assert deploy.children()[READER] == reader, "nobody has started again for it"
    deploy.server.set(faults=[])
    if back_by != "its timer":
        asked = command(deploy, back_by, "shop", "ailing")
        assert asked.returncode == 0, asked.stderr
    deploy.caught_up("shop")
    deploy.ready("shop", 2)
    deploy.same("shop", ailing=("id",), well=("id",))
    copied = ["public.ailing", "public.well"] + (["public.ailing"] if back_by == "resync" else [])
    assert deploy.copied == sorted(copied)
    assert deploy.stop() == 0
