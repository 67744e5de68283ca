"""Private directories in the temporary directory, gone with who made them. A process that is killed leaves its own, and whoever makes the next one of
that kind removes it.

Who uses a directory holds a lock on it; the kernel lets go of it with the last process. One that was made just now may not be locked yet.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

METRICS = "etl-stream-metrics-"  # of a supervisor
FILES = "etl-stream-files-"  # of an actor: Parquet files on their way to a stage, and what the connector needs
API = "etl-stream-api-"  # metrics of the processes that serve one API without a supervisor
YOUNG_SECONDS = 60.0  # between making and locking lie microseconds; a machine that swaps may take longer


@contextlib.contextmanager
def scratch(kind: str) -> Iterator[str]:
    """A new directory, after those of its kind that nobody uses any more were removed."""
    remove_unused(kind, YOUNG_SECONDS)
    directory = tempfile.mkdtemp(prefix=kind)
    held = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield tempfile.mkdtemp(
            dir=directory
        )  # one below: what comes and goes there does not make the directory young again
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        os.close(held)


def remove_unused(kind: str, young_seconds: float, parent: Path | None = None) -> None:
    """Remove what killed processes have left in `parent` (the temporary directory), unless it changed within the last `young_seconds`."""
    for path in (parent or Path(tempfile.gettempdir())).glob(f"{kind}*"):
        with contextlib.suppress(OSError):  # another's, or in use (BlockingIOError), or just removed by somebody else
            if path.lstat().st_mtime + young_seconds <= time.time():
                _remove(path)


def _remove(path: Path) -> None:
    held = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(path)
    finally:
        os.close(held)
