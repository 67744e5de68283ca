"""The demo itself, smaller, with commits that take their time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_the_demo_finds_no_difference_and_writes_its_figures(open_folder: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "etl_supervisor.cli.main",
        "demo",
        "--rows=10000",
        "--changes=4000",
        "--commit-delay=1.5",
    ]
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(open_folder),
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    done = subprocess.run(command, cwd=open_folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("demo: OK\n")
    figures = json.loads((open_folder / ".local/results/demo.json").read_text())
    assert figures["ok"] is True
    assert (figures["changes_streamed"], figures["differences"], figures["kills"]) == (4000, 0, 2)
    assert figures["rows_copied"] > 10_000
