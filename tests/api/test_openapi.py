"""What `/openapi.json` promises is what the server does: schemathesis asks every route of it, with what fits and with what does not.

It goes by the description alone, so a new route is tried as soon as there is one. The source and the destination of id 1 are real, so that routes
below them are answered; those that it makes itself are on this machine, at ports where mostly nobody listens.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from etl_supervisor.model.pipeline import Destination
from tests.support import least
from tests.support.fix_api import REAL, SPARE, Api, body_of
from tests.support.fix_postgres import Database

CONFIG = Path(__file__).with_name("schemathesis.toml")
RUN_SECONDS = 900.0


@pytest.mark.slow
@pytest.mark.timeout(RUN_SECONDS)
def test_every_route_does_what_its_description_says(
    api_server: Callable[..., Api], second_database: Database, destination: Destination, tmp_path: Path
) -> None:
    second_database.execute("create table t (id int primary key, v text); create publication p for table t")
    api = api_server(API_RATE_LIMIT="0", API_KEY_DIRECTORY="/")
    source, there = least.source(second_database), body_of(destination)
    for number in (REAL, *SPARE):
        name = {"name": f"n{number}"}
        assert api.post("/api/v1/sources", json=source | name).status_code == 201
        assert api.post("/api/v1/destinations", json=there | name).status_code == 201
        ends = {"source_id": REAL, "destination_id": REAL, "status": "PAUSE"}  # so the others can be deleted
        assert api.post("/api/v1/pipelines", json=ends | name).status_code == 201
    command = [sys.executable, "-W", "ignore", "-m", "schemathesis.cli", "--config-file", str(CONFIG), "run"]
    found = subprocess.run(
        [*command, f"{api.url}/openapi.json"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "API_KEY": api.key("admin")},
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        check=False,
    )
    assert found.returncode == 0, found.stdout[-20_000:] + found.stderr
