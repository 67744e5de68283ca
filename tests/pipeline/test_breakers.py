"""Breakers open, try and close by real faults, and `status` and the metrics say so; `retry` brings a held table back."""

from __future__ import annotations

import re
import subprocess
import sys
import urllib.request
from typing import Any

import orjson
import pytest

from tests.support.fix_deployment import Deployment, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def command(deploy: Deployment, *words: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "etl_supervisor.cli.main", *words]
    return subprocess.run(line, env=deploy.environment, cwd=deploy.folder, capture_output=True, text=True)


def status(deploy: Deployment) -> dict[str, Any]:
    return orjson.loads(command(deploy, "status", "--json").stdout)


def metric(deploy: Deployment, name: str) -> float | None:
    text = urllib.request.urlopen(f"http://{deploy.environment['METRICS_ADDR']}/metrics", timeout=5).read().decode()
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else None


def test_the_breaker_of_a_destination_opens_tries_and_closes(deploy: Deployment) -> None:
    for number in range(4):
        deploy.source.execute(f"create table t{number} (id int primary key)")
    deploy.source.execute("create publication p for all tables")
    deploy.add("shop")
    deploy.start()
    deploy.ready("shop", 4)
    name = f'etl_destination_breaker_open{{destination="{deploy.destination.name}",source="shop"}}'
    wait_for("the metric", lambda: metric(deploy, name) == 0)
    deploy.server.set(faults=[{"path": "/channels/", "count": 1_000_000, "status": 503}])
    for number in range(4):
        deploy.source.execute(f"insert into t{number} values (1)")
    wait_for("it to open", lambda: metric(deploy, name) == 1, 120)
    told = status(deploy)
    assert told["sources"][0]["breakers"][deploy.destination.name] in ("open", "half_open")
    assert any("the breaker of source shop is" in line for line in told["troubles"])
    wait_for("a trial", lambda: '"event":"destination_tried"' in deploy.log)
    deploy.server.set(faults=[])
    wait_for("it to close", lambda: metric(deploy, name) == 0, 90)
    deploy.caught_up("shop")
    deploy.same("shop", t0=("id",), t1=("id",), t2=("id",), t3=("id",))
    wait_for("status to say so", lambda: status(deploy)["troubles"] == [])
    assert deploy.stop() == 0


def test_the_breaker_of_a_child_opens_tries_and_closes(deploy: Deployment) -> None:
    deploy.source.execute("create table t (id int primary key)")
    deploy.add("shop")  # a publication that does not exist needs a person
    deploy.start()
    wait_for("it to open", lambda: '"event":"breaker_opened"' in deploy.log)
    seen: list[str] = []

    def breaker() -> str:
        children = {child["name"]: child for child in status(deploy)["children"]}
        seen.append(children.get("reader-shop", {"breaker": ""})["breaker"])
        return seen[-1]

    wait_for("status to say so", lambda: breaker() == "open")
    told = status(deploy)
    assert any(line.startswith("child reader-shop: its breaker is open") for line in told["troubles"])
    assert [lease["source"] for lease in told["leases"]] == ["shop"]
    assert metric(deploy, 'etl_child_breaker_open{child="reader-shop"}') == 1
    deploy.source.execute("create publication p for all tables")
    deploy.ready("shop", 1)
    wait_for("it to close", lambda: breaker() == "closed")
    assert deploy.stop() == 0


def test_a_held_table_comes_back_when_a_person_asks(deploy: Deployment) -> None:
    deploy.source.execute("create table t (id int primary key)")
    deploy.source.execute("create publication p for all tables")
    deploy.add("shop", table_error_retry_max_attempts=1)
    deploy.start()
    deploy.ready("shop", 1)
    refused = command(deploy, "retry", "shop")
    assert refused.returncode == 78
    assert "no table is in trouble" in refused.stderr
    broken = {
        "path": "/(rows|filebuffer)$",
        "count": 50,
        "status": 400,
        "body": {"code": "ERR_INJECTED", "message": ""},
    }
    deploy.server.set(faults=[broken])
    deploy.source.execute("insert into t values (1)")
    wait_for("the table to be held", lambda: deploy.states("shop")["t"].phase == "ERRORED")
    deploy.server.set(faults=[])
    asked = command(deploy, "retry", "shop", "t")
    assert asked.stdout.startswith("public.t of pipeline shop is tried again"), asked.stderr
    deploy.caught_up("shop")
    deploy.same("shop", t=("id",))
    assert deploy.stop() == 0
