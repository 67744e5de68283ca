"""A channel whose rows travel as Parquet files: the same promise as a streaming channel's (append, status, close).

    segments that wait ─► due (gathering) ─► Parquet ─► ledger ─► PUT ─► loader (COPY or pipe) ─► outcome ─► ledger, committed token ─► REMOVE
                                                          1        2       3                                   4                           5

The committed token is the last token of the files of the prefix that has ended. What a death leaves, by the step that was done last:

0  nothing: the segments come again
1  a planned file that is not on the stage: the next owner makes it again of the rows that come again, with the same name, first and last row
2  a file on the stage that nobody was told of: offered again
3  perhaps a load under way: offered again, which does nothing when it was loaded
4  a file on the stage that is not needed any more: removed with the channel's folder

So every row is in exactly one file name, and Snowflake loads a name once. A file of which nothing can be read is planned again under another name.
Rows that were refused are counted; the desk finds them by the anti-join and brings them to the dead letter, as it does for streaming.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
from snowflake.connector.errors import Error

from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.failpoints import failpoint, poison
from etl_supervisor.ipc.messages import OpenTable
from etl_supervisor.model.pipeline import LoadPath
from etl_supervisor.model.position import Position
from etl_supervisor.model.table import Table
from etl_supervisor.monitor import metrics
from workers.snowflake import parquet, rejected
from workers.snowflake.channel import ChannelStatus, unsent
from workers.snowflake.connection import classify
from workers.snowflake.inquiry import Inquiries
from workers.snowflake.ledger import Books, File, Ledger
from workers.snowflake.loaders import CopyInto, Loader, Outcome, snowpipe
from workers.snowflake.loading import Tools
from workers.snowflake.stage import Stage
from workers.snowflake.tagging import tag_of

REHEARSAL = "rehearsal.parquet"


@dataclass(frozen=True, slots=True)
class _Part:
    """Rows on their way into a file. `again` is the plan that they fulfil, None for a new file."""

    batches: list[pa.RecordBatch]
    first: str
    last: str
    again: File | None


class FileChannel:
    """An open channel; opening fences every older owner of its name. All methods may block on the network."""

    def __init__(self, opening: OpenTable, tools: Tools, committed: str = "", known: Books | None = None) -> None:
        """`committed` is where a channel begins that was never loaded by files; `known` is what its ledger said just now, if it was asked."""
        self._opening, self._tools = opening, tools
        self._stage, self._ledger = Stage(opening), Ledger(opening)
        self._lock = threading.Lock()  # the books are written by appends and by statuses
        self._gathered: list[tuple[pa.RecordBatch, str]] = []
        self._books, staged = self._work(lambda cursor: self._claim(cursor, committed, known))
        self._staged = [file for file in self._books.files if file.name in staged]
        sound = next((i for i, file in enumerate(self._books.files) if file.name not in staged), len(self._books.files))
        # The rows of these come again: for those that are not there, and past those that are.
        self._again = self._books.files[sound:]
        self._ended: dict[str, int] = {}
        self._loader = self._loader_of(self._books.path)
        self._loader.offer(self._staged)
        handed = max([self._books.committed, *(file.last for file in self._books.files[:sound])])
        self.opened = ChannelStatus(self._books.committed or None, self._books.errors, True, handed=handed or None)

    def encode(self, rows: pa.RecordBatch, table: Table, generation: int, loaded_at: str) -> pa.RecordBatch:
        """Files are written in one go: see `seal`. A change of shape comes when everything before is committed."""
        if table != self._opening.table:
            self._reshape(table)
        return rows

    def append(self, data: pa.RecordBatch, rows: int, first: str, last: str) -> int:
        """These rows are in the next file; no bytes have left."""
        self._gathered.append((data, last))
        return 0

    def rehearse(self, data: pa.RecordBatch, alive: Callable[[], bool]) -> None:
        """Write and upload a file that nobody is told of. The ledger knows nothing of it, and files that are planned stay as they are."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / REHEARSAL
            form = parquet.form(data, self._opening.table, self._opening.generation, _stamp(datetime.now(UTC)))
            parquet.write(path, [form])
            if alive():
                poison("poison.upload", data)
                self._work(lambda cursor: self._stage.rehearse(cursor, path))

    def seal(self, alive: Callable[[], bool], reached: str) -> str | None:
        """Bring what was appended to the stage; the last token that is there then. None, and nothing done, when the life is over or rows are
        missing yet."""
        gathered, self._gathered = self._gathered, []
        parts = self._parts(gathered, reached)
        if parts is None:
            return None
        with tempfile.TemporaryDirectory() as folder:  # within the actor's own
            there = {file.name for file in self._staged}
            missing = [part for part in parts if part.again is None or part.again.name not in there]
            made = [(self._write(Path(folder), part), part) for part in missing if part.batches]
            if not alive():  # the rows may have been others while they were read
                return None
            for file, part in made:
                self._upload(file, Path(folder) / file.name, part)
            self._pass_over([part.again for part in missing if part.again is not None and not part.batches])
            self._again = ()
        return parts[-1].last if parts else None

    def flush(self) -> bool:
        """A file that is not sealed yet waits for its size or age."""
        return False

    def status(self, inquiries: Inquiries | None = None) -> ChannelStatus:
        """What is committed. Files that have ended are noted, and removed from the stage."""
        waiting = [file for file in self._staged if file.name not in self._ended]
        if waiting:
            for outcome in self._work(lambda cursor: self._loader.outcomes(cursor, waiting)):
                self._ended[outcome.file.name] = outcome.file.rows - self._loaded(outcome)
        with self._lock:
            done = self._done()
            if done:
                failpoint("files.after_load")
                self._save(self._books)
        if done:
            failpoint("files.after_note")
            self._work(lambda cursor: self._stage.remove(cursor, *(file.name for file in done)))
        return ChannelStatus(self._books.committed or None, self._books.errors, True)

    def close(self, *, flush: bool, drop: bool = False) -> None:
        """Nothing is open. With `drop` the channel and its files are forgotten."""
        if drop:
            self._work(self._stage.clear)
            self._work(self._ledger.forget)

    @property
    def whole(self) -> bool:
        """False while a file must be made again, for which all rows that wait are wanted."""
        return not self._again

    # -- inside

    def _claim(self, cursor: Any, committed: str, known: Books | None) -> tuple[Books, set[str]]:
        self._stage.create(cursor)
        if known is None:
            self._ledger.create(cursor)
        books = self._ledger.claim(cursor, self._opening.load.path, committed, known)
        for channel, pipes in self._ledger.over(cursor).items():
            gone = replace(self._opening, channel=channel)
            Stage(gone).clear(cursor)
            self._stage.drop_pipes(cursor, pipes)
            Ledger(gone).forget(cursor)
        if books.path is LoadPath.SNOWPIPE:
            books = self._make_pipe(cursor, books)
        return books, self._stage.names(cursor) if books.files else set()

    def _make_pipe(self, cursor: Any, books: Books) -> Books:
        """Make the pipe of the stage's shape; it is in the books before, or nobody would ever drop it."""
        known = books.with_pipe(self._stage.pipe)
        if known != books:
            self._ledger.save(cursor, known)
        self._stage.create_pipe(cursor)
        return known

    def _reshape(self, table: Table) -> None:
        old = self._stage
        self._opening = replace(self._opening, table=table)
        self._stage = Stage(self._opening)
        if self._books.path is LoadPath.SNOWPIPE and self._stage.pipe != old.pipe:
            with self._lock:
                self._books = self._work(lambda cursor: self._make_pipe(cursor, self._books))
        self._loader = self._loader_of(self._books.path)

    def _loader_of(self, path: LoadPath) -> Loader:
        if path is LoadPath.SNOWPIPE:
            return snowpipe(self._opening, self._stage, self._tools.decrypt, self._tools.directory)
        return CopyInto(self._stage, lambda cursor: self._ledger.check(cursor, self._books))

    def _parts(self, gathered: list[tuple[pa.RecordBatch, str]], reached: str) -> list[_Part] | None:
        """The rows by file; None when the rows of a file that must be made again have not all come yet."""
        parts: list[_Part] = []
        for plan in self._again:
            if reached < plan.last:
                return None
            rest = [(unsent(rows, plan.last, self._opening.generation), last) for rows, last in gathered]
            taken = [
                rows.slice(0, rows.num_rows - left.num_rows)
                for (rows, _), (left, _) in zip(gathered, rest, strict=True)
            ]
            parts.append(_Part([rows for rows in taken if rows.num_rows], plan.first, plan.last, plan))
            gathered = [(rows, last) for rows, last in rest if rows.num_rows]
        if gathered:
            batches = [rows for rows, _ in gathered]
            parts.append(_Part(batches, self._first(batches[0]), gathered[-1][1], None))
        return parts

    def _first(self, batch: pa.RecordBatch) -> str:
        return Position(self._opening.generation, *(batch.column(i)[0].as_py() for i in (1, 2, 3))).token

    def _write(self, folder: Path, part: _Part) -> File:
        opening = self._opening
        name = part.again.name if part.again is not None else f"{part.first}_{part.last}_0.parquet"
        # What is made again of the same rows is the same file, to the byte: COPY knows a file by name and content.
        planned_at = part.again.planned_at if part.again is not None else _now()
        loaded_at = _stamp(datetime.fromisoformat(planned_at))
        batches = [parquet.form(rows, opening.table, opening.generation, loaded_at) for rows in part.batches]
        size = parquet.write(folder / name, batches)
        rows = sum(batch.num_rows for batch in batches)
        pipe = part.again.pipe if part.again is not None else self._pipe
        return File(name, part.first, part.last, rows, size, planned_at, pipe)

    @property
    def _pipe(self) -> str:
        """Which pipe loads a file that is planned now."""
        return self._stage.pipe if self._books.path is LoadPath.SNOWPIPE else ""

    def _upload(self, file: File, path: Path, part: _Part) -> None:
        if part.again is None:
            with self._lock:
                self._save(self._books.planned(file))
        failpoint("files.after_plan")
        for rows in part.batches:
            poison("poison.upload", rows)
        self._work(lambda cursor: self._stage.put(cursor, path))
        failpoint("files.after_upload")
        self._loader.offer([file])
        failpoint("files.after_offer")
        with self._lock:
            self._staged.append(file)
        labels = (self._opening.pipeline, metrics.table_label(self._opening.table.name))
        metrics.SNOWFLAKE_ROWS_INSERTED.labels(*labels).inc(file.rows)
        metrics.FILES_STAGED.labels(*labels, self._books.path.value).inc()
        metrics.FILE_BYTES.labels(*labels, self._books.path.value).inc(file.size)
        if self._books.path is LoadPath.SNOWPIPE:  # a COPY costs its warehouse's seconds, whatever its files weigh
            metrics.BILLED_BYTES.labels(*labels, self._books.path.value).inc(file.size)

    def _pass_over(self, plans: list[File]) -> None:
        """Files that were planned and are not there, and of which no row is left: all are in the dead letter."""
        with self._lock:
            for plan in plans:
                self._staged.append(plan)
                self._ended[plan.name] = 0

    def _loaded(self, outcome: Outcome) -> int:
        """How many rows of a file are in the landing table."""
        if outcome.unread:
            self._plan_again(outcome)
        if outcome.loaded is not None:
            return outcome.loaded
        file = outcome.file
        first, last = Position.parse(file.first), Position.parse(file.last)
        return int(self._work(lambda cursor: rejected.count(cursor, self._opening, first, last)))

    def _plan_again(self, outcome: Outcome) -> None:
        """Nothing of the file could be read, so nothing of it was loaded: it is made again under a name that no loader has seen, for the pipe of now
        (an older one may name columns that are gone)."""
        file = outcome.file
        stem, _, number = file.name.removesuffix(".parquet").rpartition("_")
        with self._lock:
            self._save(
                self._books.renamed(file, replace(file, name=f"{stem}_{int(number) + 1}.parquet", pipe=self._pipe))
            )
        reason = f"a file can't be loaded: {outcome.unread}"
        raise EtlError(Kind.CHANNEL, self._place, reason, "it is made again by itself", transient=True)

    def _done(self) -> list[File]:
        """Take the files that have ended, up to the first that has not, into the books."""
        done = []
        while self._books.files and self._books.files[0].name in self._ended:
            file = self._books.files[0]
            self._books = self._books.loaded(self._ended.pop(file.name))
            self._staged = [item for item in self._staged if item.name != file.name]
            done.append(file)
        return done

    def _save(self, books: Books) -> None:
        self._work(lambda cursor: self._ledger.save(cursor, books))
        self._books = books

    def _work(self, job: Callable[[Any], Any]) -> Any:
        """Run a job with a cursor of a session; the connector's errors in our words."""

        def worded(connection: Any) -> Any:
            try:
                with connection.cursor() as cursor:
                    return job(cursor)
            except Error as error:
                raise classify(error, self._place, Kind.CHANNEL) from None

        return self._tools.sessions.run(self._opening.destination, tag_of(self._opening, "files"), worded)

    @property
    def _place(self) -> str:
        return f"pipeline {self._opening.pipeline}, table {self._opening.table.name}"


def _now() -> str:
    """As the ledger writes it, in milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _stamp(moment: datetime) -> str:
    """For _ETL_LOADED_AT."""
    return moment.isoformat(sep=" ", timespec="microseconds")
