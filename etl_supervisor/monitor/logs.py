"""Logs: JSON lines (orjson) on stderr, or pretty when stderr is a terminal; with LOG_FILE also into a file.

Each process configures itself once, after the fork. Every line has `ts`, `level`, `event` and `process`. A line is one write to a descriptor
opened with O_APPEND, so the lines of several processes never mix. LOG_FILE is turned over by size, by the process that finds it too large and
gets the lock on it; the others notice that the name leads elsewhere and open it anew.

Values whose key looks like a secret are replaced, whatever they are and however deep they lie; so is, in every text and in tracebacks, what has the
shape of one (`_SHAPES`). A secret without a shape (SECRET_KEY is any text) is known by its key alone. Tracebacks never show the values of variables.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import sys
import threading
from collections.abc import Mapping, MutableMapping
from datetime import date
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import orjson
import structlog

from etl_supervisor.errors import EtlError

if TYPE_CHECKING:
    from etl_supervisor.config.settings import Settings

FILE_BYTES_MAX = 50 << 20
FILES_KEPT = 3
REDACTED = "***"
_SECRET = re.compile(
    r"passw|passphrase|secret|token|private_key$|credential|authorization|api[_-]?key$|dsn$|_url$", re.IGNORECASE
)
_NAME = r"(?:passw(?:or)?d|passphrase|passcode|pwd|secret(?:_access)?(?:_key)?(?:_previous)?|api[_-]?key|access_token)"
_VALUE = r"""(?:'(?:[^'\\]|\\.|'')*'?|"(?:[^"\\]|\\.)*"?|\S+)"""  # a quote that is never closed hides the rest
_SCHEME = r"(?:basic|bearer|digest|snowflake token=)"
_KEPT = rf"\g<1>{REDACTED}"
_SHAPES = (
    (r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", REDACTED),  # or to its cut end
    (
        r"(://[^:/@\s]*:)(?!\d{1,5}(?:[/?#,;]|\Z))\S{1,4096}@",
        f"{_KEPT}@",
    ),  # no port; to the last @: a password may have one
    (rf"""({_NAME}(?:["']?\s*=\s*|["']\s*:\s*|\s+(?=')))""" + _VALUE, _KEPT),
    (rf"""(authorization["']?\s*[:=]\s*["']?{_SCHEME}\s*["']?)[^\s"',;]+""", _KEPT),
    (r"(\bbearer\s+)[\w.~+/-]{16,}=*", _KEPT),
    (r"\beyJ[\w-]+\.eyJ[\w-]+(?:\.[\w-]*)?", REDACTED),  # a JWT: its header and its claims begin with {"
    (r"\b(etl_\w{8}_)[\w-]{20,}", _KEPT),  # a key of the REST API; its prefix is no secret
)
_PATTERNS = tuple((re.compile(shape, re.IGNORECASE | re.DOTALL), instead) for shape, instead in _SHAPES)
_QUIET = ("snowflake", "botocore", "boto3", "urllib3", "asyncio", "alembic", "sqlalchemy", "uvicorn.access")
# One line for each try of each request, with its whole URL: a destination that is away for seconds would fill the log. Those who asked say it once.
_SILENT_RETRIES = ("urllib3", "snowflake.connector.vendored.urllib3")

Event = MutableMapping[str, Any]


def configure(settings: Settings, *, process: str) -> None:
    """Set up this process's logs. Call once, after the fork."""
    pretty = sys.stderr.isatty()
    level = logging.DEBUG if settings.debug else logging.getLevelNamesMapping()[settings.log_level]
    outputs: list[Any] = [_Terminal() if pretty else _Stream(2)]
    if settings.log_file:
        outputs.append(_File(Path(settings.directory, settings.log_file)))
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
            _name(process),
            structlog.processors.format_exc_info,
            redact,
            _Fan(outputs),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=_Silent,
        cache_logger_on_first_use=False,
    )
    _adopt_stdlib(level)


def error_line(log: Any, event: str, error: EtlError) -> None:
    """An EtlError as one line, in fields."""
    log.error(event, kind=str(error.kind), place=error.place, reason=error.reason, remedy=error.remedy)


def flush() -> None:
    """Nothing is buffered by us; the interpreter's own streams are."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()


def redact(_: Any, __: str, event: Event) -> Event:
    """Replace what looks like a secret, by its key or by its shape."""
    for key, value in event.items():
        event[key] = _redacted(key, value)
    return event


def _redacted(key: str, value: Any) -> Any:
    if _SECRET.search(key):
        return REDACTED
    if isinstance(value, str):
        for pattern, instead in _PATTERNS:
            value = pattern.sub(instead, value)
        return value
    if isinstance(value, Mapping):
        return {str(name): _redacted(str(name), item) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_redacted("", item) for item in value]
    if value is None or isinstance(value, int | float | Enum | date | UUID):  # the renderers' own
        return value
    return _redacted("", str(value))


def _name(process: str) -> Any:
    def add(_: Any, __: str, event: Event) -> Event:
        event["process"] = process
        return event

    return add


class _Fan:
    """The last processor: gives the line to every output, and nothing to structlog's own logger."""

    def __init__(self, outputs: list[Any]) -> None:
        self._outputs = outputs

    def __call__(self, logger: Any, name: str, event: Event) -> str:
        for output in self._outputs:
            output.write(logger, name, dict(event))
        raise structlog.DropEvent


class _Silent:
    """structlog wants a logger; the outputs have written already."""

    def msg(self, _: str) -> None:
        return

    debug = info = warning = error = critical = exception = msg


class _Stream:
    """JSON lines to a descriptor."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def write(self, _: Any, __: str, event: Event) -> None:
        with contextlib.suppress(OSError):  # a closed terminal must not stop the data
            os.write(self._fd, orjson.dumps(event, default=str, option=orjson.OPT_APPEND_NEWLINE))


class _Terminal:
    """Pretty lines for people."""

    def __init__(self) -> None:
        self._render = structlog.dev.ConsoleRenderer(timestamp_key="ts", pad_event_to=22)

    def write(self, logger: Any, name: str, event: Event) -> None:
        event["ts"] = event["ts"][11:23]
        with contextlib.suppress(OSError):
            os.write(2, (str(self._render(logger, name, event)) + "\n").encode())


class _File:
    """JSON lines to a file that is turned over by size. Used by all threads of a process."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = threading.Lock()  # the descriptor is another one after a turn
        self._fd = self._opened()

    def write(self, _: Any, __: str, event: Event) -> None:
        line = orjson.dumps(event, default=str, option=orjson.OPT_APPEND_NEWLINE)
        with self._lock:
            with contextlib.suppress(OSError):  # the file that we have takes the line
                self._turn_over()
            with contextlib.suppress(OSError):
                os.write(self._fd, line)

    def _opened(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def _turn_over(self) -> None:
        """Make way for a new file when ours is full; open it when somebody has done so."""
        if self._is_ours():
            if os.fstat(self._fd).st_size < FILE_BYTES_MAX:
                return
            fcntl.flock(self._fd, fcntl.LOCK_EX)
            try:
                if self._is_ours():  # else somebody was first
                    self._rename()
            finally:
                fcntl.flock(self._fd, fcntl.LOCK_UN)  # to close it is not enough: our forks have it, too
        opened = self._opened()
        os.close(self._fd)
        self._fd = opened

    def _rename(self) -> None:
        for number in range(FILES_KEPT - 1, 0, -1):
            with contextlib.suppress(FileNotFoundError):
                os.replace(f"{self._path}.{number}", f"{self._path}.{number + 1}")
        os.replace(self._path, f"{self._path}.1")

    def _is_ours(self) -> bool:
        """True while the name leads to the file that we have open."""
        try:
            return os.path.samestat(os.stat(self._path), os.fstat(self._fd))
        except FileNotFoundError:
            return False


class _ToStructlog(logging.Handler):
    """Libraries log through the same door."""

    def emit(self, record: logging.LogRecord) -> None:
        log = structlog.get_logger()
        log.log(record.levelno, record.getMessage(), logger=record.name, exc_info=record.exc_info or None)


def _adopt_stdlib(level: int) -> None:
    root = logging.getLogger()
    root.handlers[:] = [_ToStructlog()]
    root.setLevel(level)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))
    for name in _SILENT_RETRIES:
        logging.getLogger(name).setLevel(logging.ERROR)
