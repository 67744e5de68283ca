"""More children than one supervisor may have: the others wait until one ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from tests.support.fix_deployment import wait_for

CHILDREN_MAX = 3
SECONDS_MAX = 30.0
CHILDREN = """
import time
from etl_supervisor.ipc.messages import Ready
def main(context):
    context.parent.send(Ready())
    while True:
        context.heartbeat.beat()
        time.sleep(0.1)
"""
PROGRAM = f"""
from pathlib import Path
from etl_supervisor.config.settings import load
from etl_supervisor.ipc import heartbeat
from etl_supervisor.monitor import logs
from etl_supervisor.supervision import supervisor
from etl_supervisor.supervision.spec import ChildKind
heartbeat.SLOTS_MAX = supervisor.SLOTS_MAX = {CHILDREN_MAX}
settings = load(Path("."), {{"SECRET_KEY": "x" * 32, "SNOWFLAKE_ACTOR_POOL_SIZE": "4"}})
logs.configure(settings, process="supervisor")
raise SystemExit(supervisor.Supervisor(settings, dict.fromkeys(ChildKind, "children:main"), chance=lambda: 1.0).run())
"""


def events(log: Path, event: str) -> list[dict[str, Any]]:
    """The lines of one event that are whole."""
    lines = [orjson.loads(line) for line in log.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    return [line for line in lines if line["event"] == event]


def test_the_others_start_when_one_ends_and_it_is_told_once_each_time(tmp_path: Path) -> None:
    (tmp_path / "children.py").write_text(CHILDREN)
    log = tmp_path / "log"
    paths = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": paths, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    with log.open("wb") as output:
        supervisor = subprocess.Popen([sys.executable, "-c", PROGRAM], cwd=tmp_path, env=environment, stderr=output)

    def wait(what: str, done: Callable[[], Any]) -> None:
        assert supervisor.poll() is None, log.read_text()
        wait_for(what, done, SECONDS_MAX)

    def started() -> list[str]:
        return [line["child"] for line in events(log, "child_started")]

    try:
        wait("as many as may be", lambda: len(started()) == CHILDREN_MAX)
        wait("children_max", lambda: events(log, "children_max"))
        victim = next(line for line in events(log, "child_started") if line["child"] == "actor-1")
        turns = supervisor_turns(supervisor.pid)
        wait("some turns of its loop", lambda: supervisor_turns(supervisor.pid) >= turns + 3)
        assert started() == ["monitor", "actor-0", "actor-1"]
        (told,) = events(log, "children_max")
        assert (told["level"], told["children"]) == ("error", CHILDREN_MAX)
        assert told["remedy"] == "run some sources at another supervisor"

        os.kill(victim["pid"], signal.SIGKILL)
        wait("the one that waited", lambda: len(started()) == CHILDREN_MAX + 1)
        assert started()[-1] == "actor-2"
        wait("children_max", lambda: len(events(log, "children_max")) == 2)
        assert not events(log, "supervisor_ready")
        supervisor.send_signal(signal.SIGTERM)
        assert supervisor.wait(SECONDS_MAX) == 0
        assert "Traceback" not in log.read_text()
    finally:
        supervisor.kill()
        supervisor.wait()


def supervisor_turns(pid: int) -> int:
    """It sleeps once in each turn, for a second at most."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))
