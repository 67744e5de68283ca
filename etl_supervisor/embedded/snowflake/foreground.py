"""Serves in this process, with all temporary files in a directory of its own."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from etl_supervisor.embedded.process import beside, data_lock, make_directories

PLACE = "local Snowflake"
SCRATCH = "scratch"


@contextmanager
def alone(data: Path) -> Iterator[None]:
    """Hold the data for this process. An EtlError of kind EMBEDDED tells who else does."""
    make_directories(data.resolve().parent)
    with data_lock(beside(data.resolve(), "lock"), PLACE) as lock:
        os.pwrite(lock, f"{os.getpid()} {os.getpid()}\n".encode(), 0)
        yield


def run(data: Path, port: int, commit_delay_seconds: float, *, counting: bool = False) -> NoReturn:
    """Serve until SIGTERM or Ctrl-C, and end the process. The caller, or who started it, holds the data."""
    _own_scratch(data / SCRATCH)
    # Imported now: fakesnow makes a directory at its import.
    from etl_supervisor.embedded.snowflake.server import serve

    serve(data, port, commit_delay_seconds, counting=counting)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(0)  # all is written; at the end of an interpreter DuckDB's bindings print a page about what they leak


def _own_scratch(directory: Path) -> None:
    """An empty directory for temporary files: a server that was killed has left some, and nobody removes fakesnow's directory."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    tempfile.tempdir = str(directory)
