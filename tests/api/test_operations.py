"""Operations that take hours hold up neither the others nor the end of the process."""

import contextlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from etl_supervisor.api import operations
from etl_supervisor.api.caller import Caller, Role
from etl_supervisor.api.operations import LONG_MAX, Crew
from etl_supervisor.api.pool import Pool
from tests.support import least
from tests.support.fix_api import Api
from tests.support.fix_deployment import wait_for

SOMEBODY = Caller("somebody", Role.OPERATOR)


@pytest.fixture
def pool(api: Api) -> Iterator[Pool]:
    with contextlib.closing(Pool(api.settings)) as found:
        yield found


def test_long_operations_take_turns_and_others_go_past_them(api: Api, pool: Pool) -> None:
    crew, gate, running = Crew(pool), threading.Event(), []

    def long(number: int) -> dict[str, Any]:
        running.append(number)
        assert gate.wait(60)
        return {"number": number}

    def status(key: object) -> str:
        with pool.transaction() as connection:
            found = operations.one(connection, SOMEBODY, key)  # type: ignore[arg-type]
        return found.status

    begun = [
        crew.begin_long(SOMEBODY, "default", ("verify", f"pipeline {n}"), lambda n=n: long(n))  # type: ignore[misc]
        for n in range(LONG_MAX + 1)
    ]
    wait_for("as many as may run", lambda: len(running) == LONG_MAX)
    short = crew.begin(SOMEBODY, "default", ("test", "source 1"), lambda: {"ok": True})
    wait_for("the short one", lambda: status(short.id) == "succeeded")
    assert len(running) == LONG_MAX
    assert [status(item.id) for item in begun] == ["running"] * (LONG_MAX + 1)
    gate.set()
    wait_for("the long ones", lambda: {status(item.id) for item in begun} == {"succeeded"})
    assert sorted(running) == list(range(LONG_MAX + 1))
    crew.close()


def test_a_process_ends_while_a_long_operation_is_under_way(api: Api) -> None:
    program = (
        "import sys, threading\n"
        "from pathlib import Path\n"
        "from etl_supervisor.api.caller import Caller, Role\n"
        "from etl_supervisor.api.operations import Crew\n"
        "from etl_supervisor.api.pool import Pool\n"
        "from etl_supervisor.config.settings import load\n"
        "pool = Pool(load(Path('.'), {'DATABASE_URL': sys.argv[1]}))\n"
        "begun = threading.Event()\n"
        "crew = Crew(pool)\n"
        "crew.begin_long(Caller('x', Role.OPERATOR), 'default', ('verify', 'pipeline 1'), lambda: begun.set() or threading.Event().wait() or {})\n"
        "assert begun.wait(30)\n"
        "crew.close()\n"
        "print('over')\n"
    )
    command = [sys.executable, "-c", program, least.config_role(api.database)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "over\n", "")


def test_operations_that_wait_for_a_thread_are_not_told_as_lost(
    api: Api, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "BEAT_SECONDS", 0.05)
    crew, gate = Crew(pool), threading.Event()
    begun = [
        crew.begin(SOMEBODY, "default", ("test", f"source {n}"), lambda: {"open": gate.wait(60)})
        for n in range(operations.THREADS + 1)
    ]
    query = f"update app.operations set beat_at = now() - interval '1 hour' where id = '{begun[-1].id}' returning 1"
    api.database.execute(query)
    fresh = f"select 1 from app.operations where id = '{begun[-1].id}' and beat_at > now() - interval '10 seconds'"
    wait_for("a beat", lambda: api.database.execute(fresh))
    gate.set()
    done = "select count(*) from app.operations where status = 'succeeded' and kind = 'test' and id = any(%s)"
    wait_for("all", lambda: api.database.execute(done, [item.id for item in begun]) == [(len(begun),)])
    crew.close()
