"""The directory of the metrics files: private, one per supervisor, gone with it. A supervisor that is killed leaves it, and the next one to start
removes it.

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

PREFIX = "etl-stream-metrics-"
YOUNG_SECONDS = 60.0  # between making and locking lie microseconds; a machine that swaps may take longer


@contextlib.contextmanager
def metrics_directory() -> Iterator[str]:
    """A new one, after those that nobody uses any more were removed."""
    remove_unused(YOUNG_SECONDS)
    directory = tempfile.mkdtemp(prefix=PREFIX)
    held = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        os.close(held)


def remove_unused(young_seconds: float, parent: Path | None = None) -> None:
    """Remove what killed supervisors have left in `parent` (the temporary directory), unless it changed within the last `young_seconds`."""
    for path in (parent or Path(tempfile.gettempdir())).glob(f"{PREFIX}*"):
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
