"""The server itself: its socket, its pool, its end, other servers that import it."""

import concurrent.futures
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import httpx
import psycopg
import pytest

from etl_supervisor.api.serve import listen
from etl_supervisor.embedded.ports import choose_port
from tests.api.test_resources import error
from tests.support import least
from tests.support.fix_api import SECRET_KEY, SOURCE, START_SECONDS, Api
from tests.support.fix_deployment import wait_for


def test_small_answers_are_sent_at_once() -> None:
    with contextlib.closing(listen("127.0.0.1:0")) as listener:
        assert listener.proto == socket.IPPROTO_TCP  # what asyncio looks for before it sets TCP_NODELAY


def test_both_families_are_answered_on_the_address_of_all() -> None:
    port = choose_port()
    with contextlib.closing(listen(f"[::]:{port}")):
        for host in ("127.0.0.1", "::1"):
            with contextlib.suppress(OSError), socket.create_connection((host, port), 5) as connected:
                assert connected.getpeername()[1] == port


def test_when_every_connection_is_in_use_a_request_waits_and_is_told_so(api_server: Callable[..., Api]) -> None:
    api = api_server(API_AUTH="disabled", DB_POOL_SIZE="1", DB_MAX_OVERFLOW="0", DB_POOL_TIMEOUT="1")
    with (
        psycopg.connect(api.database.dsn) as busy,
        concurrent.futures.ThreadPoolExecutor(1) as aside,
        api.nobody() as nobody,
    ):
        busy.execute("lock table app.sources")
        first = aside.submit(nobody.get, "/api/v1/sources")
        waiting = (
            "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
        )
        wait_for("the first request to wait", lambda: api.database.execute(waiting) != [(0,)])
        assert error(nobody.get("/api/v1/destinations"))[:3] == (
            503,
            "ConfigDatabaseError",
            "connection pool: every connection is in use",
        )
        assert nobody.get("/health").status_code == 200  # alive all the same
        busy.rollback()
        assert first.result(START_SECONDS).status_code == 200


def test_a_request_that_runs_is_answered_before_the_end(api_server: Callable[..., Api]) -> None:
    api = api_server(API_AUTH="disabled")
    with (
        psycopg.connect(api.database.dsn) as busy,
        concurrent.futures.ThreadPoolExecutor(1) as aside,
        api.nobody() as nobody,
    ):
        busy.execute("lock table app.sources")
        answer = aside.submit(nobody.post, "/api/v1/sources", json=SOURCE)
        waiting = (
            "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
        )
        wait_for("the request to wait", lambda: api.database.execute(waiting) != [(0,)])
        api.process.send_signal(signal.SIGTERM)
        busy.rollback()
        assert answer.result(START_SECONDS).status_code == 201
    assert api.process.wait(START_SECONDS) == 0


OTHERS = {
    "uvicorn": ["uvicorn", "--port", "{port}", "--workers", "2"],
    "gunicorn": ["gunicorn", "-k", "uvicorn_worker.UvicornWorker", "-b", "127.0.0.1:{port}", "-w", "2"],
}


@pytest.mark.parametrize("server", OTHERS)
def test_servers_of_others_import_the_application_and_their_workers_count_together(
    server: str, api: Api, tmp_path: Any
) -> None:
    if server == "gunicorn":
        pytest.importorskip("uvicorn_worker", reason="the extra `dev` is not installed wholly")
    port, told = choose_port(), f"127.0.0.1:{choose_port()}"
    variables = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "TMPDIR": str(tmp_path),
        "DATABASE_URL": least.config_role(api.database),
        "METRICS_ADDR": told,
        "STATE_STORE": "postgres",
        "SECRET_KEY": SECRET_KEY,
    }
    words = [word.format(port=port) for word in OTHERS[server]]
    command = [sys.executable, "-m", *words, "etl_supervisor.api.asgi:app"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, env=variables, cwd=tmp_path, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{url}/health").json() == {"status": "alive"}
        return False

    try:
        wait_for("its workers", answers)
        assert api.post("/api/v1/sources", json=SOURCE).status_code == 201
        listed = httpx.get(f"{url}/api/v1/sources", headers=api.client.headers)
        assert listed.status_code == 200
        assert [item["name"] for item in listed.json()["items"]] == [SOURCE["name"]]
        for _ in range(20):  # connections of their own: the workers share them
            assert httpx.get(f"{url}/api/v1/sources").status_code == 401
        family = 'etl_api_requests_total{method="GET",route="/api/v1/sources",status="401"} '
        assert f"{family}20.0\n" in httpx.get(f"http://{told}/metrics").text
        assert {path.name for path in tmp_path.glob("etl-stream-api-*/*.lock")} == {"0.lock", "1.lock"}
    finally:
        process.terminate()
        code = process.wait(START_SECONDS)
    text = (tmp_path / "log").read_text()
    assert code == 0, text
    assert "Traceback" not in text
