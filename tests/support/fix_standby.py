"""A primary and its physical standby, of the newest version, for one test.

pair   a function that starts both; everything ends with the test
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from etl_supervisor.embedded.postgres import EmbeddedPostgres
from tests.support import least
from tests.support.fix_postgres import FAST_SETTINGS, Database

SLOT = "standby_1"  # of the standby at its primary


@dataclass(frozen=True)
class Pair:
    """Both servers' `postgres` databases."""

    primary: Database
    standby: Database

    def lose_primary(self) -> None:
        """Kill the primary (once more does no harm)."""
        with suppress(ProcessLookupError):
            os.kill(self.primary.server.pid, 9)

    def promote(self) -> None:
        """Kill the primary, promote the standby."""
        self.lose_primary()
        self.standby.execute("select pg_promote(true, 30)")


@pytest.fixture
def pair(open_folder: Path) -> Iterator[Callable[..., Pair]]:
    with ExitStack() as stack:

        def start(*, sync_slots: bool = False, first: bool = True) -> Pair:
            """`sync_slots`: failover slots are copied, and (`first`) no change is streamed before the standby has it."""
            settings = FAST_SETTINGS | ({"synchronized_standby_slots": SLOT} if sync_slots and first else {})
            primary = stack.enter_context(EmbeddedPostgres(open_folder / "primary", settings=settings))
            data = open_folder / "standby"
            least.source_role(Database(primary, "postgres"))
            _copy(primary, data)
            settings = FAST_SETTINGS | {"hot_standby_feedback": "on", "wal_receiver_status_interval": "1"}
            if sync_slots:
                settings["sync_replication_slots"] = "on"
            standby = stack.enter_context(EmbeddedPostgres(data, settings=settings))
            return Pair(Database(primary, "postgres"), Database(standby, "postgres"))

        yield start


def _copy(primary: EmbeddedPostgres, data: Path) -> None:
    """A base backup with the settings of a standby, owned as the primary's data are."""
    # The backup writes its settings from the connection string that it was given, with the name of the database.
    programs = str(primary.bindir / "pg_basebackup")
    arguments = ["-d", primary.dsn(), "-D", str(data), "-R", "-C", "-S", SLOT, "-X", "stream", "-c", "fast", "-N"]
    subprocess.run([programs, *arguments], check=True, capture_output=True, timeout=60)
    shutil.copy(f"{primary.data_dir}.password", f"{data}.password")
    owner = primary.data_dir.stat()
    subprocess.run(["chown", "-R", f"{owner.st_uid}:{owner.st_gid}", str(data), f"{data}.password"], check=True)
