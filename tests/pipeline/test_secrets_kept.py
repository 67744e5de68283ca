"""Secrets of a deployment: in no title, argument, log or core dump; and rotated while rows stream."""

from __future__ import annotations

import os
import resource
import signal
import stat
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from etl_supervisor.config.secrets import Keyring
from etl_supervisor.ipc import scratch
from tests.support.fix_deployment import SECRET_KEY, Deployment, wait_for

NEW_KEY = "another secret key of a test, as long as it must be"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(200)]


def begin(deploy: Deployment) -> None:
    deploy.source.execute("create table t (k int primary key, v text); create publication p for all tables")
    deploy.source.execute("insert into t select g, 'x' from generate_series(1, 100) g")
    deploy.add("one")


def test_secrets_show_nowhere_and_a_crash_leaves_no_core(deploy: Deployment) -> None:
    begin(deploy)
    password = str(psycopg.conninfo.conninfo_to_dict(deploy.source.dsn)["password"])
    before = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (before[1], before[1]))
    try:
        deploy.start(LOG_LEVEL="DEBUG", LOG_FILE="logs/app.log")
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, before)
    deploy.ready("one")
    assert deploy.supervisor is not None
    for name, pid in {"supervisor": deploy.supervisor.pid, **deploy.children()}.items():
        shown = "".join(Path(f"/proc/{pid}/{file}").read_text() for file in ("cmdline", "comm", "limits"))
        assert password not in shown, name
        assert SECRET_KEY not in shown, name
        assert shown.split("Max core file size")[1].split()[:2] == ["0", "0"], name
    reader = deploy.children()["etl-reader-one"]
    os.kill(reader, signal.SIGSEGV)
    wait_for("a new reader", lambda: deploy.children().get("etl-reader-one", reader) != reader)
    deploy.source.execute("insert into t values (1000, 'later')")
    deploy.caught_up("one")
    deploy.same("one", t=("k",))
    assert not [path for path in deploy.folder.rglob("*") if path.name.startswith("core")]
    directory = Path(_metrics_of(deploy.children()))
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert deploy.stop() == 0
    for text in (deploy.log, (deploy.folder / "logs" / "app.log").read_text()):
        assert password not in text
        assert SECRET_KEY not in text


def _metrics_of(children: dict[str, int]) -> str:
    """The directory in which a child keeps its metrics, by the files that it has mapped."""
    maps = "".join(Path(f"/proc/{pid}/maps").read_text() for pid in children.values())
    line = next(line for line in maps.splitlines() if scratch.METRICS in line)
    return line[line.index("/") :].rpartition("/")[0]


def test_secrets_are_rotated_while_rows_stream(deploy: Deployment) -> None:
    begin(deploy)
    deploy.start()
    deploy.ready("one")
    assert deploy.stop() == 0
    deploy.environment |= {"SECRET_KEY": NEW_KEY, "SECRET_KEY_PREVIOUS": SECRET_KEY}
    deploy.start()
    deploy.source.execute("insert into t select g, 'y' from generate_series(101, 200) g")
    deploy.caught_up("one")
    command = [sys.executable, "-m", "etl_supervisor.cli.main", "rotate-secrets"]
    done = subprocess.run(command, env=deploy.environment, cwd=deploy.folder, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "1 encrypted anew, 0 current already, 0 left alone\n")
    ((stored,),) = deploy.config.execute("select pg_password from app.sources")
    assert Keyring(NEW_KEY).is_current(stored)
    deploy.source.execute("insert into t select g, 'z' from generate_series(201, 300) g")
    deploy.caught_up("one")
    deploy.kill()
    del deploy.environment["SECRET_KEY_PREVIOUS"]
    deploy.start()
    deploy.source.execute("delete from t where k < 50")
    deploy.caught_up("one")
    deploy.same("one", t=("k",))
    assert deploy.stop() == 0
