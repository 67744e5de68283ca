"""What the API counts: requests by the template of their route, and the connections of its pool."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector

from etl_supervisor.embedded.ports import choose_port
from tests.support.fix_api import Api
from tests.support.fix_deployment import Deployment, wait_for


@pytest.fixture
def counted(api_server: Callable[..., Api], tmp_path: Path) -> tuple[Api, CollectorRegistry]:
    """A server that counts in files, as a supervisor's child does, and what they say."""
    folder = tmp_path / "metrics"
    folder.mkdir()
    api = api_server(PROMETHEUS_MULTIPROC_DIR=str(folder), DB_POOL_SIZE="3", DB_MAX_OVERFLOW="2")
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(folder))
    return api, registry


def test_requests_are_counted_by_the_template_of_their_route(counted: Any) -> None:
    api, registry = counted
    api.filled()
    for number in (1, 1, 77):
        api.get(f"/api/v1/sources/{number}")
    with api.nobody() as nobody:
        nobody.get("/api/v1/sources/1")
        nobody.get("/etc/passwd")
        nobody.request("PROPFIND", "/api/v1/sources/1")
    one = "/api/v1/sources/{key}"
    samples = [sample for family in registry.collect() for sample in family.samples]
    routes = {sample.labels["route"] for sample in samples if sample.name == "etl_api_requests_total"}
    assert routes == {"/health", "/api/v1/sources", "/api/v1/destinations", "/api/v1/pipelines", one, "(none)"}

    def value(name: str, **labels: str) -> Any:
        return registry.get_sample_value(name, labels)

    assert value("etl_api_requests_total", route=one, method="GET", status="200") == 2
    assert value("etl_api_requests_total", route=one, method="GET", status="404") == 1
    assert value("etl_api_requests_total", route=one, method="GET", status="401") == 1
    assert value("etl_api_requests_total", route="/api/v1/sources", method="POST", status="201") == 1
    assert value("etl_api_requests_total", route="(none)", method="GET", status="404") == 1
    assert value("etl_api_requests_total", route=one, method="(other)", status="405") == 1
    assert value("etl_api_seconds_count", route=one, method="GET") == 4
    assert 0 < value("etl_api_seconds_sum", route=one, method="GET") < 30


def test_the_pool_tells_its_connections(counted: Any) -> None:
    api, registry = counted

    def connections(state: str) -> Any:
        return registry.get_sample_value("etl_api_pool_connections", {"state": state})

    api.get("/api/v1/sources").raise_for_status()
    wait_for("the connection to be back", lambda: connections("in_use") == 0)
    assert connections("limit") == 5
    assert connections("idle") == 1
    with psycopg.connect(api.database.dsn) as busy:
        busy.execute("lock table app.sources")
        with pytest.raises(httpx.ReadTimeout):
            api.get("/api/v1/sources", timeout=0.5)
        assert connections("in_use") == 1
    wait_for("it to be given back", lambda: connections("in_use") == 0)


def test_alone_they_are_told_where_metrics_addr_says(api_server: Callable[..., Api]) -> None:
    address = f"127.0.0.1:{choose_port()}"
    api = api_server(METRICS_ADDR=address)
    api.get("/api/v1/sources").raise_for_status()
    page = httpx.get(f"http://{address}/metrics").text
    assert 'etl_api_requests_total{method="GET",route="/api/v1/sources",status="200"} 1.0' in page
    assert 'etl_api_pool_connections{state="limit"} 30.0' in page
    assert "etl_reader" not in page
    other = api_server(METRICS_ADDR=address)
    other.get("/api/v1/sources").raise_for_status()
    (line,) = [line for line in map(json.loads, other.log_path.read_text().splitlines()) if line["level"] == "error"]
    assert (line["event"], line["kind"], line["place"]) == ("metrics_not_served", "config", "metrics endpoint")
    assert line["reason"] == f"can't listen on {address}: Address already in use"
    assert line["remedy"] == "set METRICS_ADDR to a free address; the API answers without metrics"


@pytest.mark.slow
def test_beside_a_supervisor_they_are_among_its_metrics_and_outlive_a_restart(deploy: Deployment) -> None:
    address = f"127.0.0.1:{choose_port()}"
    deploy.start(API_ADDR=address, API_AUTH="disabled")

    def answers() -> bool:
        try:
            return httpx.get(f"http://{address}/health").status_code == 200
        except httpx.TransportError:
            return False

    def health_counted() -> float:
        page = httpx.get(f"http://{deploy.settings.metrics_addr}/metrics").text
        line = 'etl_api_requests_total{method="GET",route="/health",status="200"}'
        return sum(float(text.split()[1]) for text in page.splitlines() if text.startswith(line))

    wait_for("the API", answers)
    wait_for("the monitor's metrics", lambda: health_counted() >= 1)
    httpx.get(f"http://{address}/api/v1/sources").raise_for_status()
    before = health_counted()
    pid = deploy.children()["etl-api"]
    os.kill(pid, signal.SIGKILL)
    wait_for("another API", lambda: deploy.children().get("etl-api") not in (None, pid) and answers())
    assert health_counted() > before
    page = httpx.get(f"http://{deploy.settings.metrics_addr}/metrics").text
    assert 'etl_api_pool_connections{state="limit"} 30.0' in page
    assert 'etl_api_pool_connections{state="in_use"} 0.0' in page
    assert deploy.stop() == 0
