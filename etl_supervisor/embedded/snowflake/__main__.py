"""`python -m etl_supervisor.embedded.snowflake --data DIR --port PORT [--commit-delay SECONDS] [--counting]`: serve in the foreground."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from etl_supervisor.embedded.snowflake.foreground import run
from etl_supervisor.errors import EtlError


def main() -> int:
    """Serve until told to stop; 78 when it can't start."""
    parser = argparse.ArgumentParser(prog="local-snowflake", description="A Snowflake on this machine")
    parser.add_argument("--data", type=Path, required=True, help="where databases and certificates are kept")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--commit-delay", type=float, default=0.0, help="seconds until appended rows are committed")
    parser.add_argument("--counting", action="store_true", help="check and count appended rows, store none")
    wanted = parser.parse_args()
    try:
        run(wanted.data, wanted.port, wanted.commit_delay, counting=wanted.counting)
    except EtlError as error:
        print(error.line, file=sys.stderr)  # noqa: T201 - the program's own error line
        return 78


if __name__ == "__main__":
    sys.exit(main())
