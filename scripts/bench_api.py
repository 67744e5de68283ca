"""How fast the control plane lists 200 sources and 1,000 pipelines, at 200 requests per second.

    make bench-api
    make bench-api ARGS="--rate 400 --seconds 30"

A request begins when its time has come, whether the one before has been answered or not; its latency counts from that time, so a server that
stops for a second shows it in 200 requests. The lists of sources, destinations and pipelines are asked in turn, with a key, each page of the
default size (`--page`). The server is one process; server, client and PostgreSQL share the machine.

Figures go to .local/results/bench-api.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from pathlib import Path

import httpx
import psycopg
import uvloop
from psycopg.rows import dict_row

from etl_supervisor.api import access
from etl_supervisor.api.caller import Role
from etl_supervisor.api.routes.resources import LIMIT_DEFAULT
from etl_supervisor.config.settings import Settings, load
from etl_supervisor.embedded.ports import choose_port
from etl_supervisor.embedded.postgres import EmbeddedPostgres
from etl_supervisor.repository.desired import load as load_desired
from etl_supervisor.repository.migrations import migrate
from etl_supervisor.repository.write import upsert

RESULTS = Path(".local/results/bench-api.json")
SOURCES, PIPELINES, DESTINATIONS = 200, 1_000, 10
WARM_SECONDS = 2.0
START_SECONDS_MAX = 30.0


def fill(settings: Settings, dsn: str) -> None:
    """The objects, as people would have made them."""
    with psycopg.connect(dsn) as connection:
        keyring = settings.keyring()
        there = [
            upsert(
                connection,
                keyring,
                "destinations",
                name=f"destination-{number}",
                snowflake_account="xy12345",
                snowflake_user="ETL",
                snowflake_database="ANALYTICS",
                snowflake_schema=f"RAW_{number}",
                snowflake_private_key_path="key.p8",
            )
            for number in range(DESTINATIONS)
        ]
        sources = [
            upsert(
                connection,
                keyring,
                "sources",
                name=f"source-{number}",
                pg_host="postgres.example.com",
                pg_port=5432,
                pg_database=f"db{number}",
                pg_username="etl",
                pg_password="a password of a bench",
                publication_name="p",
            )
            for number in range(SOURCES)
        ]
        for number in range(PIPELINES):
            upsert(
                connection,
                keyring,
                "pipelines",
                name=f"pipeline-{number}",
                source_id=sources[number % SOURCES],
                destination_id=there[number % DESTINATIONS],
                status="START" if number % 2 else "PAUSE",
            )


class Client:
    """Connections that are kept, and each used in turn (the server ends one that is idle for 5 s), and no more of HTTP than this server speaks:
    a complete client would need as much of the machine as the server."""

    def __init__(self, host: str, port: int, key: str) -> None:
        self._address, self._free = (host, port), deque[tuple[asyncio.StreamReader, asyncio.StreamWriter]]()
        self._head = f"Host: {host}:{port}\r\nAuthorization: Bearer {key}\r\n\r\n"

    async def get(self, path: str) -> bytes:
        """The body; RuntimeError for any other answer than 200."""
        reader, writer = self._free.popleft() if self._free else await asyncio.open_connection(*self._address)
        writer.write(f"GET {path} HTTP/1.1\r\n{self._head}".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        if not head.startswith(b"http/1.1 200 "):
            raise RuntimeError(head.decode())
        body = await reader.readexactly(int(head.partition(b"content-length:")[2].partition(b"\r\n")[0]))
        self._free.append((reader, writer))
        return body

    def close(self) -> None:
        """End all connections."""
        for _, writer in self._free:
            writer.close()


async def ask(client: Client, rate: float, seconds: float, page: int) -> dict[str, float]:
    """Milliseconds of all requests of the lists."""
    paths = [f"/api/v1/{table}?limit={page}" for table in ("sources", "destinations", "pipelines")]
    found: list[float] = []

    async def one(path: str, due: float) -> None:
        assert (await client.get(path)).startswith(b'{"items":[{'), path
        found.append((time.perf_counter() - due) * 1000)

    began = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for number in range(int(rate * (seconds + WARM_SECONDS))):
            due = began + number / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            tasks.create_task(one(paths[number % len(paths)], due))
    client.close()
    measured = sorted(found[int(rate * WARM_SECONDS) :])
    return {
        "requests": len(measured),
        "list_p50_ms": round(statistics.median(measured), 1),
        "list_p99_ms": round(measured[int(len(measured) * 0.99)], 1),
        "list_max_ms": round(measured[-1], 1),
    }


def main() -> int:
    """Always 0: the figures speak."""
    parser = argparse.ArgumentParser(description="Measure the lists of the REST API.")
    parser.add_argument("--rate", type=float, default=200.0, help="requests per second")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--page", type=int, default=LIMIT_DEFAULT, help="rows of a page")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="etl-bench-") as text, EmbeddedPostgres(Path(text) / "postgres") as server:
        folder = Path(text)
        server.create_database("config")
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "DATABASE_URL": server.url("config"),
            "STATE_STORE": "postgres",
            "SECRET_KEY": "a secret key of a bench, 32 characters or more",
            "API_ADDR": f"127.0.0.1:{choose_port()}",
            "API_RATE_LIMIT": "0",
        }
        settings = load(folder, environment)
        migrate(settings)
        fill(settings, server.dsn("config"))
        with psycopg.connect(server.dsn("config"), row_factory=dict_row) as connection:
            key = access.create(connection, "bench", Role.VIEWER, None, None).key
        began = time.perf_counter()
        known = load_desired(settings)
        read = time.perf_counter()
        load_desired(settings, known)
        polls = {"poll_ms": read - began, "poll_unchanged_ms": time.perf_counter() - read}
        with (folder / "api.log").open("wb") as log:
            command = [sys.executable, "-m", "etl_supervisor.api"]
            process = subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=log)
        try:
            url = f"http://{settings.api_addr}"
            deadline = time.monotonic() + START_SECONDS_MAX
            while True:
                try:
                    httpx.get(f"{url}/health").raise_for_status()
                    break
                except httpx.TransportError:
                    if process.poll() is not None or time.monotonic() > deadline:
                        raise
                    time.sleep(0.1)
            host, _, port = settings.api_addr.rpartition(":")
            figures = uvloop.run(ask(Client(host, int(port), key), wanted.rate, wanted.seconds, wanted.page))
        finally:
            process.terminate()
            process.wait(START_SECONDS_MAX)
    report = {"rate": wanted.rate, "page": wanted.page, **figures} | {
        name: round(seconds * 1000, 1) for name, seconds in polls.items()
    }
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
