"""One of several processes that serve one API under another program (gunicorn, `uvicorn --workers`): they count into one directory, and tell the sum.

Each takes the lowest number that is free, by a lock that the kernel lets go of with the process, and its files are named by it: who is started again
goes on counting in its predecessor's. Who comes first to METRICS_ADDR answers there; when that process ends, the one that is started for it does.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from etl_supervisor.ipc.scratch import API, YOUNG_SECONDS, remove_unused

if TYPE_CHECKING:
    from etl_supervisor.config.settings import Settings

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"

log = structlog.get_logger()
_held: list[int] = []  # descriptors of locks: as long as the process


def join(settings: Settings) -> None:
    """Count together with the others, if METRICS_ADDR is set. To be called before metrics are imported."""
    if "metrics_addr" not in settings.model_fields_set:
        return
    directory = Path(os.environ.get(VARIABLE) or _directory(settings.metrics_addr))
    os.environ[VARIABLE] = str(directory)
    from etl_supervisor.monitor import metrics

    def number() -> None:
        metrics.identify(f"api-{_number(directory)}")

    number()
    os.register_at_fork(after_in_child=number)  # gunicorn --preload
    try:
        metrics.serve(settings.metrics_addr, ())
    except OSError as error:
        log.info("metrics_told_by_another", address=settings.metrics_addr, reason=error.strerror)


def _directory(address: str) -> Path:
    """That of the processes with our parent and address."""
    remove_unused(API, YOUNG_SECONDS)
    port = address.rpartition(":")[2]
    directory = Path(tempfile.gettempdir()) / f"{API}{os.getuid()}-{os.getppid()}-{port}"
    directory.mkdir(mode=0o700, exist_ok=True)
    held = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    if os.fstat(held).st_uid != os.getuid():
        raise PermissionError(f"{directory} is somebody else's")
    fcntl.flock(held, fcntl.LOCK_SH)
    _held.append(held)
    return directory


def _number(directory: Path) -> int:
    number = 0
    while not _taken(directory / f"{number}.lock"):
        number += 1
    return number


def _taken(path: Path) -> bool:
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return False
    _held.append(lock)
    return True
