"""Internal stages: CREATE and DROP STAGE, PUT, GET, LIST, REMOVE, as the real connector uses them.

A stage is a directory below the data directory. The connector is told that it is one of Google's, at an endpoint of ours, with an access token: the
only kind that it reads and writes by plain HTTP. Without a token it asks for an address with a second PUT, and when that one is not answered well
(a server that starts again has no sessions) it goes to Google. A file that is put appears whole or not at all; whether one is there already and is
to stay is for the connector to find out, as it does everywhere.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from etl_supervisor.embedded.snowflake.answers import texts
from etl_supervisor.embedded.snowflake.quoting import literal
from etl_supervisor.embedded.snowflake.statements import SUCCESS

_NAME = r'(?:"(?:[^"]|"")+"|[\w$]+)'
NAME = rf"{_NAME}(?:\.{_NAME}){{0,2}}"
STAGE_PATH = rf"(?:'@(?P<quoted>[^']+)'|@(?P<bare>(?:{NAME})[^\s;)]*))"
_CREATE = re.compile(
    rf"\s*CREATE\s+(?P<replace>OR\s+REPLACE\s+)?(?:TEMPORARY\s+)?STAGE\s+(?:IF\s+NOT\s+EXISTS\s+)?(?P<name>{NAME})(?P<rest>.*)",
    re.I | re.S,
)
_DROP = re.compile(rf"\s*DROP\s+STAGE\s+(?:IF\s+EXISTS\s+)?(?P<name>{NAME})\s*;?\s*$", re.I)
_PUT = re.compile(rf"\s*PUT\s+'?file://(?P<file>[^'\s]+)'?\s+{STAGE_PATH}(?P<options>.*)$", re.I | re.S)
_GET = re.compile(rf"\s*GET\s+{STAGE_PATH}\s+'?file://(?P<file>[^'\s]+)'?", re.I)
_LIST = re.compile(rf"\s*(?:LIST|LS)\s+{STAGE_PATH}", re.I)
_REMOVE = re.compile(rf"\s*(?:REMOVE|RM)\s+{STAGE_PATH}", re.I)
ROUTE = "/__stage"


class StageError(Exception):
    """A stage or a file is not there: Snowflake's number and message."""

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Place:
    """A path in a stage: the stage's directory and what follows (no leading slash)."""

    stage: Path
    path: str

    @property
    def full(self) -> Path:
        """The file or directory. A path that leads out of its stage is refused."""
        full = (self.stage / self.path).resolve()
        if full != self.stage.resolve() and self.stage.resolve() not in full.parents:
            raise StageError("001011", "the path leads out of its stage")
        return full


class Stages:
    """All internal stages of a data directory."""

    def __init__(self, directory: Path) -> None:
        self.root = directory / "stages"

    def routes(self) -> list[Route]:
        """What the connector reads and writes files by."""
        return [
            Route(ROUTE + "/{path:path}", self._upload, methods=["PUT"]),
            Route(ROUTE + "/{path:path}", self._download),
        ]

    def statement(self, sql: str) -> Callable[[tuple[str | None, str | None], str], str | dict[str, Any]] | None:
        """How to run a statement that is about stages; None for any other.

        Called with the session's database and schema and our own address, it gives a query for the answer, or the data of the answer itself.
        """
        for pattern, run in (
            (_CREATE, self._create),
            (_DROP, self._drop),
            (_LIST, self._list),
            (_REMOVE, self._remove),
        ):
            if found := pattern.match(sql):
                if pattern is _CREATE and re.search(r"\bURL\s*=", found["rest"], re.I):
                    return None
                return lambda where, _, run=run, found=found: run(found, where)  # type: ignore[misc]
        for pattern, answer in ((_PUT, self._put), (_GET, self._get)):
            if found := pattern.match(sql):
                return lambda where, us, answer=answer, found=found: answer(found, where, us)  # type: ignore[misc]
        return None

    def place(self, text: str, where: tuple[str | None, str | None]) -> Place:
        """`DB.SCHEMA.STAGE/some/path` -> where that is. StageError when there is no such stage."""
        match = re.match(NAME, text)
        if match is None:
            raise StageError("001003", "a stage begins with @ and a name")
        stage = self._directory(match[0], where)
        if not stage.is_dir():
            raise StageError("002003", f"Stage '{match[0]}' does not exist or not authorized.")
        return Place(stage, text[match.end() :].strip("/"))

    def forget(self, database: str) -> None:
        """Remove the files of a database that is about to be dropped."""
        shutil.rmtree(self.root / quote(database, safe=""), ignore_errors=True)

    # -- statements

    def _create(self, found: re.Match[str], where: tuple[str | None, str | None]) -> str:
        directory = self._directory(found["name"], where)
        if found["replace"]:
            shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True, exist_ok=True)
        return SUCCESS

    def _drop(self, found: re.Match[str], where: tuple[str | None, str | None]) -> str:
        shutil.rmtree(self._directory(found["name"], where), ignore_errors=True)
        return SUCCESS

    def _list(self, found: re.Match[str], where: tuple[str | None, str | None]) -> str:
        rows = []
        for path, name in self._files(self._named(found, where)):
            facts = path.stat()
            changed = dt.datetime.fromtimestamp(facts.st_mtime, dt.UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
            digest = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
            rows.append(f"({literal(name)}, {facts.st_size}, '{digest}', '{changed}')")
        return table_of(rows, ("name", "size", "md5", "last_modified"))

    def _remove(self, found: re.Match[str], where: tuple[str | None, str | None]) -> dict[str, Any]:
        rows = []
        for path, name in self._files(self._named(found, where)):
            path.unlink()
            rows.append([name, "removed"])
        return texts(("name", "result"), rows)

    def _put(self, found: re.Match[str], where: tuple[str | None, str | None], us: str) -> dict[str, Any]:
        place = self._named(found, where)
        options = found["options"].upper()
        return {
            "command": "UPLOAD",
            "src_locations": [found["file"]],
            "parallel": 4,
            "autoCompress": re.search(r"AUTO_COMPRESS\s*=\s*FALSE", options) is None,
            "sourceCompression": "auto_detect",
            "overwrite": re.search(r"OVERWRITE\s*=\s*TRUE", options) is not None,
            "encryptionMaterial": None,
            "stageInfo": self._info(place.full, us),
        }

    def _get(self, found: re.Match[str], where: tuple[str | None, str | None], us: str) -> dict[str, Any]:
        place = self._named(found, where)
        files = [path.relative_to(place.stage).as_posix() for path, _ in self._files(place)]
        return {
            "command": "DOWNLOAD",
            "src_locations": files,
            "localLocation": found["file"],
            "parallel": 4,
            "encryptionMaterial": [],
            "stageInfo": self._info(place.stage, us),
        }

    # -- files

    async def _upload(self, request: Request) -> Response:
        path = self._inside(request)
        if path is None:
            return Response(status_code=403)
        await run_in_threadpool(_write_whole, path, await request.body())
        return Response()

    async def _download(self, request: Request) -> Response:
        path = self._inside(request)
        if path is None or not path.is_file():
            return Response(status_code=404)
        return FileResponse(path, media_type="application/octet-stream")

    def _inside(self, request: Request) -> Path | None:
        path = (self.root / request.path_params["path"]).resolve()
        return path if self.root.resolve() in path.parents else None

    def _files(self, place: Place) -> list[tuple[Path, str]]:
        """The files whose path begins with a place's, and their names as LIST tells them: `stage/path`."""
        prefix = place.full.as_posix()
        below = place.full.parent if place.path else place.stage  # not through the whole stage for one file
        files = (path for path in sorted(below.rglob("*")) if path.is_file() and path.suffix != ".part")
        name = place.stage.name.lower()
        return [
            (path, f"{name}/{path.relative_to(place.stage).as_posix()}")
            for path in files
            if path.resolve().as_posix().startswith(prefix)
        ]

    def _named(self, found: re.Match[str], where: tuple[str | None, str | None]) -> Place:
        return self.place(found["quoted"] or found["bare"], where)

    def _directory(self, name: str, where: tuple[str | None, str | None]) -> Path:
        parts = parts_of(name)
        whole = [*where[: 3 - len(parts)], *parts]
        if None in whole:
            raise StageError("090105", "the session has no current schema")
        return self.root.joinpath(*(quote(str(part), safe="") for part in whole))

    def _info(self, directory: Path, us: str) -> dict[str, Any]:
        """Where the connector finds a directory: a bucket that is our route, and a path in it."""
        path = directory.resolve().relative_to(self.root.resolve()).as_posix()
        return {
            "locationType": "GCS",
            "location": f"{ROUTE.strip('/')}/{path}/",
            "endPoint": us,
            "creds": {"GCS_ACCESS_TOKEN": "local"},
            "region": "local",
        }


def parts_of(name: str) -> list[str]:
    """The parts of a name with dots, as Snowflake stores them."""
    return [part[1:-1].replace('""', '"') if part.startswith('"') else part.upper() for part in re.findall(_NAME, name)]


def _write_whole(path: Path, body: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
        file.write(body)
    os.replace(file.name, path)


def table_of(rows: list[str], titles: tuple[str, ...]) -> str:
    """The query of an answer; a row is a list of SQL values in parentheses."""
    names = ", ".join(f'"{title}"' for title in titles)
    if not rows:
        return f"SELECT * FROM (SELECT {', '.join(f'NULL::VARCHAR AS {q}' for q in names.split(', '))}) WHERE 1 = 0"
    return f"SELECT {names} FROM (VALUES {', '.join(rows)}) AS t ({names})"
