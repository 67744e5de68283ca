"""The unit that docs/operations.md gives is one that systemd takes, and fits what the program does."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from etl_supervisor.cli.start import descriptors_needed
from etl_supervisor.config.settings import Settings, load
from etl_supervisor.supervision.supervisor import DRAIN_MARGIN_SECONDS, FROZEN_SECONDS

PAGE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
UNIT = "".join(re.findall(r"^```ini\n(\[Unit\]\n.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
LINES = dict(re.findall(r"^(\w+)=(.*)$", UNIT, re.MULTILINE))


def test_it_is_a_service_that_tells_when_it_is_ready_and_comes_back() -> None:
    assert (LINES["Type"], LINES["NotifyAccess"], LINES["Restart"]) == ("notify", "main", "always")
    assert LINES["ExecStart"].endswith("/etl-supervisor run"), "no shell between, which would be the main process"
    assert LINES["ExecReload"] == "/bin/kill -HUP $MAINPID"


def test_the_supervisor_ends_its_children_itself_and_has_the_time() -> None:
    assert LINES["KillMode"] == "mixed"
    grace = float(Settings.model_fields["shutdown_grace_seconds"].default)
    assert float(LINES["TimeoutStopSec"]) >= grace + DRAIN_MARGIN_SECONDS + 10
    assert float(LINES["WatchdogSec"]) > 2 * FROZEN_SECONDS
    assert LINES["OOMPolicy"] == "continue"


def test_it_may_open_what_it_needs(tmp_path: Path) -> None:
    assert int(LINES["LimitNOFILE"]) > 10 * descriptors_needed(load(tmp_path, {"SECRET_KEY": "x" * 32}))


def test_its_files_are_its_own() -> None:
    assert (LINES["UMask"], LINES["StateDirectoryMode"], LINES["ProtectSystem"]) == ("0077", "0700", "strict")
    assert LINES["WorkingDirectory"] == f"/var/lib/{LINES['StateDirectory']}"
    for name in ("NoNewPrivileges", "ProtectHome", "PrivateTmp", "PrivateDevices", "RestrictNamespaces"):
        assert LINES[name] == "yes"
    assert LINES["CapabilityBoundingSet"] == ""


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not on this machine")
def test_systemd_takes_every_line(tmp_path: Path) -> None:
    unit = tmp_path / "etl-stream.service"
    unit.write_text(UNIT.replace(LINES["ExecStart"], "/bin/true").replace("User=etl-stream", "User=root"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(unit)],
        capture_output=True,
        text=True,
        check=False,
    )
    said = [line for line in (done.stdout + done.stderr).splitlines() if "etl-stream" in line]
    assert (said, done.returncode) == ([], 0), done.stderr
