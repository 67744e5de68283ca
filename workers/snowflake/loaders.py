"""Two ways from the stage into the landing table. Both may be asked again for the same files: Snowflake remembers what it has loaded.

CopyInto   COPY INTO … FILES = (…) on the warehouse: all files that wait at once, the answer tells what became of each
Snowpipe   a pipe is told the names and loads them by itself, in any order; its report, and after ten minutes its history, tells what became of them
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import requests
import tenacity
from cryptography.hazmat.primitives import serialization
from snowflake.ingest.error import IngestResponseError
from snowflake.ingest.simple_ingest_manager import SimpleIngestManager, StagedFile
from snowflake.ingest.utils.network import SnowflakeRestful

from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.ipc.messages import OpenTable
from etl_supervisor.model.pipeline import Destination
from workers.snowflake.connection import Decrypt, host_of, is_local, load_private_key, trust_local
from workers.snowflake.failure import explain_pipe
from workers.snowflake.ledger import File
from workers.snowflake.questions import Reports
from workers.snowflake.stage import Stage

FILES_PER_COPY_MAX = 1000  # Snowflake's limit of FILES = (…)
UNAUTHORIZED = 401
REQUEST_SECONDS = (10.0, 30.0)  # connect, read: snowflake-ingest has no limits of its own
PAUSE_SECONDS, PAUSE_SECONDS_MAX = 0.5, 5.0  # between two tries of a request that may pass …
PATIENCE_SECONDS = 60.0  # … for so long; then the channel is opened again
REPORT_SECONDS = 540  # the report tells of ten minutes; what is older stands in the history, which is asked seldom
HISTORY_SECONDS = 60.0
SILENCE_SECONDS_MAX = 1800.0  # a pipe that loads takes a minute or two


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a file. `loaded` is None when only the landing table can tell; `unread` says why no row of it could be read, "" if it could."""

    file: File
    loaded: int | None
    unread: str = ""


class Loader(Protocol):
    """How staged files come into the landing table."""

    def offer(self, files: Sequence[File]) -> None:
        """These are on the stage now."""

    def outcomes(self, cursor: Any, files: Sequence[File]) -> list[Outcome]:
        """Those of these files that have ended since, in any order."""


@dataclass(frozen=True, slots=True)
class CopyInto:
    """COPY INTO on the warehouse. `still_ours` raises when another has claimed the channel: whoever wakes after a long sleep may have brought a file
    to the stage again that its heir has loaded and removed, and COPY knows a file by name and content."""

    stage: Stage
    still_ours: Callable[[Any], None]

    def offer(self, files: Sequence[File]) -> None:
        """Nothing: they are loaded when they are asked for."""

    def outcomes(self, cursor: Any, files: Sequence[File]) -> list[Outcome]:
        """Load them."""
        self.still_ours(cursor)
        wanted = {self.stage.path(file.name): file for file in files[:FILES_PER_COPY_MAX]}
        cursor.execute(self.stage.copy(file.name for file in wanted.values()))
        titles = [item[0].lower() for item in cursor.description]
        found = [dict(zip(titles, row, strict=True)) for row in cursor.fetchall()]
        return [_outcome(wanted[row["file"]], row) for row in found if row.get("file") in wanted]


def _outcome(file: File, row: dict[str, Any]) -> Outcome:
    if row["status"] == "LOAD_SKIPPED":  # loaded in an earlier life
        return Outcome(file, None)
    parsed, loaded = int(row["rows_parsed"] or 0), int(row["rows_loaded"] or 0)
    return Outcome(file, loaded, "" if parsed else f"{row['status']} without a row")


@dataclass(slots=True)
class Snowpipe:
    """The pipes of the files, through `snowflake-ingest`. `renew` makes a manager of a pipe, with the key that the file holds then."""

    stage: Stage
    renew: Callable[[str], SimpleIngestManager]
    _managers: dict[str, SimpleIngestManager] = field(default_factory=dict)
    _heard_at: float = field(default_factory=time.monotonic)
    _reports: Reports = field(default_factory=Reports)
    _history_at: float = field(default_factory=lambda: time.monotonic() + HISTORY_SECONDS)

    def offer(self, files: Sequence[File]) -> None:
        """Tell their pipes."""
        for pipe in _pipes(files):
            staged = [StagedFile(self.stage.path(file.name), file.size) for file in files if file.pipe == pipe]
            self._heard_at = time.monotonic()
            self._ask(pipe, lambda manager, files=staged: manager.ingest_files(files))  # type: ignore[misc]
            self._reports.offered(self._heard_at)

    def outcomes(self, cursor: Any, files: Sequence[File]) -> list[Outcome]:
        """What the pipes report; nothing when they were asked a moment ago."""
        now = time.monotonic()
        if now < self._reports.at:
            return []
        self._reports.looked(now)
        whole = now >= self._history_at
        if whole:
            self._history_at = now + HISTORY_SECONDS
        ended = [
            Outcome(file, int(row["rowsInserted"]), "" if row["rowsParsed"] else f"{row['status']} without a row")
            for pipe in _pipes(files)
            for row in self._told(pipe, min(file.planned_at for file in files) if whole else None)
            for file in files
            if file.pipe == pipe and row["complete"] and row["path"].endswith(self.stage.path(file.name))
        ]
        if {outcome.file.name for outcome in ended} == {file.name for file in files}:
            self._reports.through()
        self._heard_at = now if ended else self._heard_at
        if now - self._heard_at > SILENCE_SECONDS_MAX:
            names = ", ".join(map(self.stage.qualified, _pipes(files)))
            reason = f"the pipe {names} has loaded nothing for {SILENCE_SECONDS_MAX / 60:.0f} minutes"
            raise EtlError(Kind.CHANNEL, self._place, reason, "look at SYSTEM$PIPE_STATUS of it", transient=True)
        return ended

    @property
    def _place(self) -> str:
        return f"pipeline {self.stage.opening.pipeline}, table {self.stage.opening.table.name}"

    def _told(self, pipe: str, since: str | None) -> list[dict[str, Any]]:
        """What became of a pipe's files in the last minutes, and, if wanted, since a time."""
        told = self._ask(pipe, lambda manager: manager.get_history(REPORT_SECONDS))["files"]
        if since is not None:
            told += self._ask(pipe, lambda manager: manager.get_history_range(since))["files"]
        return list(told)

    def _ask(self, pipe: str, request: Callable[[SimpleIngestManager], Any]) -> Any:
        place = self._place
        known = self._managers.get(pipe)
        self._managers[pipe] = manager = known or self.renew(self.stage.qualified(pipe))
        try:
            return request(manager)
        except IngestResponseError as error:
            if error.http_error_code == UNAUTHORIZED:
                del self._managers[pipe]
                if known is not None:
                    return self._ask(pipe, request)
            raise explain_pipe(error.http_error_code, place) from None
        except requests.RequestException as error:
            reason = f"Snowpipe does not answer: {type(error).__name__}"
            raise EtlError(Kind.CHANNEL, place, reason, "it is tried again by itself", transient=True) from None


def _pipes(files: Sequence[File]) -> list[str]:
    return sorted({file.pipe for file in files})


def _may_pass(error: BaseException) -> bool:
    """Nobody answered, or the answer asks for patience."""
    code = error.http_error_code if isinstance(error, IngestResponseError) else None
    return isinstance(error, requests.RequestException) or code in (408, 429) or (code is not None and code >= 500)


class _Restful(SnowflakeRestful):  # type: ignore[misc]
    """With time limits. Its own pauses double up to half a minute, which rows waited for when Snowflake was back long since."""

    @tenacity.retry(
        retry=tenacity.retry_if_exception(_may_pass),
        wait=tenacity.wait_random_exponential(PAUSE_SECONDS, PAUSE_SECONDS_MAX, min=PAUSE_SECONDS),
        stop=tenacity.stop_after_delay(PATIENCE_SECONDS),
        reraise=True,
    )
    def _exec_request_with_retry(self, url: str, method: str, headers: Any = None, json: Any = None) -> Any:
        response = requests.request(method, url, headers=headers, json=json, timeout=REQUEST_SECONDS)
        if not response.ok:
            raise IngestResponseError(response)
        return response.json()


def snowpipe(opening: OpenTable, stage: Stage, decrypt: Decrypt, directory: Path) -> Snowpipe:
    """The pipes of an opened table."""
    return Snowpipe(stage, lambda pipe: _manager(opening.destination, pipe, decrypt, directory))


def _manager(destination: Destination, pipe: str, decrypt: Decrypt, directory: Path) -> SimpleIngestManager:
    key = load_private_key(destination, decrypt, directory)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    host, _, port = host_of(destination).partition(":")
    if is_local(destination):
        trust_local(destination)
    manager = SimpleIngestManager(destination.account, destination.user, pipe, pem, host=host, port=int(port or 443))
    manager.restful = _Restful()
    return manager
