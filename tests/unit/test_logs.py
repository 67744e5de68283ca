"""What libraries may say in our logs."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import logging
from pathlib import Path
from etl_supervisor.config.settings import load
from etl_supervisor.monitor import logs
logs.configure(load(Path("."), {"SECRET_KEY": "x" * 32, "LOG_LEVEL": "%s"}), process="test")
for name in ("snowflake.connector.vendored.urllib3.connectionpool", "urllib3.connectionpool"):
    logging.getLogger(name).warning("Retrying (Retry(total=0)) after connection broken: /login-request?x=y")
    logging.getLogger(name).error("broken")
logging.getLogger("snowflake.ingest").warning("told")
"""


def test_a_try_that_a_library_repeats_by_itself_is_no_line() -> None:
    for level in ("INFO", "DEBUG"):
        done = subprocess.run([sys.executable, "-c", PROGRAM % level], capture_output=True, text=True, check=True)
        assert "Retrying" not in done.stderr
        assert done.stderr.count('"event":"broken"') == 2
        assert '"event":"told"' in done.stderr
