"""Segments on their way to Snowflake: what can be loaded is appended, the rest goes to the dead letter. These jobs run in threads.

    segments ─► not sent before? ─► too large? ─► dead letter (MERGE by SQL) ─► the others: encode, append with the last segment's last token

The dead letter comes first: the token of an append covers the rows that are left out of it. A crash between the two repeats the write, which does
nothing then.

`alive` is False once the desk has begun another life: its publisher may use the memory of the rows again. It is asked after the rows have been
copied, and before anything is done with them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from etl_supervisor.errors import EtlError
from etl_supervisor.failpoints import failpoint, poison
from etl_supervisor.ipc.messages import OpenTable, Segment
from etl_supervisor.model.burial import Bury
from etl_supervisor.model.pipeline import LoadPath
from etl_supervisor.model.table import Table
from etl_supervisor.monitor import metrics
from workers.snowflake import dead_letter, rejected
from workers.snowflake.channel import ChannelStatus, Underway, unsent
from workers.snowflake.connection import Decrypt
from workers.snowflake.failure import Directive, explain
from workers.snowflake.inquiry import Inquiries
from workers.snowflake.inventory import Inventory
from workers.snowflake.limits import LINE_BYTES_MAX, Limits, Verdict, line_too_long, too_large
from workers.snowflake.ndjson import encode, names_bytes
from workers.snowflake.sessions import Sessions
from workers.snowflake.tagging import tag_of
from workers.snowflake.traces import stage

APPEND_BYTES_MAX = (
    2 << 20
)  # of Arrow: small segments that wait go together; the SDK holds the GIL while it copies an append
SOON_MS_MAX = (
    100  # a pipeline that fills its batches for no longer wants its rows soon: they are sent without waiting for more
)
ESCAPED_FACTOR_MAX = 6  # a control character is six in JSON
POISON = Verdict("alone it has killed every actor that it came to", None, 0)


class LoadChannel(Protocol):
    """A way into the landing table: streaming, or files. All methods may block on the network.

    Rows are encoded, then appended, segment by segment; `seal` ends a job. The committed token tells what need not come again.
    """

    opened: ChannelStatus

    @property
    def whole(self) -> bool:
        """False while rows of before have to come again all together (`files`)."""

    def encode(self, rows: pa.RecordBatch, table: Table, generation: int, loaded_at: str) -> Any:
        """Rows in the form that `append` takes."""

    def append(self, data: Any, rows: int, first: str, last: str) -> int:
        """Take rows that end with token `last`; how many bytes have left for Snowflake by that."""

    def rehearse(self, data: Any, alive: Callable[[], bool]) -> None:
        """Do with encoded rows what a load does to them, without loading them: they may kill whoever does it."""

    def seal(self, alive: Callable[[], bool], reached: str) -> str | None:
        """Everything appended is on its way, up to the token that is returned. None: nothing is, the same rows are to be appended again. Rows up to
        `reached` have been appended, or never will be."""

    def flush(self) -> bool:
        """Send rows now that would wait for more, and wait a moment: whether Snowflake has accepted all of them."""

    def status(self, inquiries: Inquiries | None = None) -> ChannelStatus:
        """What is committed; as of now, if the channel can ask by `inquiries`."""

    def close(self, *, flush: bool, drop: bool = False) -> None:
        """End it, within a limit; with `drop` Snowflake forgets the channel."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What every desk of an actor uses."""

    sessions: Sessions
    inquiries: Inquiries
    decrypt: Decrypt
    directory: Path
    incarnation: int
    inventory: Inventory = field(default_factory=Inventory)


@dataclass(slots=True)
class Taken:
    """The SDK's token after each segment that was taken, with the commit time of its oldest row (see `channel.Underway`), and the rows that
    the dead letter holds then (None: nothing went there)."""

    handed: list[tuple[str, float | None]] = field(default_factory=list)
    dead: int | None = None


@dataclass(frozen=True, slots=True)
class Suspicion:
    """Segments among whose rows Snowflake may have refused some: its counter says `errors`. Rows up to `doubt` are of an earlier life."""

    items: list[Underway]
    errors: int
    message: str
    doubt: str


@dataclass(frozen=True, slots=True)
class Loading:
    """One table, for one job."""

    opening: OpenTable
    limits: Limits
    tools: Tools
    alive: Callable[[], bool]

    def append(
        self, channel: LoadChannel, segments: list[tuple[Segment, pa.RecordBatch]], reached: str, handed: str
    ) -> Taken:
        """Bring the segments to the channel; fewer are taken after back-pressure, or when the life is over.

        While rows of a file are missing that must be made again, what stands before it is taken, of which no row is to be sent: it may have an
        older shape, which holds up the rest.
        """
        taken, appended, passed = Taken(), False, 0
        for group in coalesced(segments):
            rests = self._rests(group, reached, taken)
            full = [(segment, rest) for (segment, _), rest in zip(group, rests, strict=False) if rest.num_rows]
            if len(rests) < len(group) or (full and not self._append(channel, full)):
                break
            for (segment, _), rest in zip(group, rests, strict=True):
                appended = appended or bool(rest.num_rows)
                passed += not appended
                handed, reached = segment.last if rest.num_rows else handed, max(reached, segment.last)
                taken.handed.append((handed, committed_at(rest)))
        if appended or (taken.handed and not channel.whole):
            with stage("upload", self.opening, self._by_file(segments[: len(taken.handed)])):
                sealed = self._seal(channel, reached)
            if sealed is None:
                del taken.handed[passed:]
            else:
                taken.handed = [(min(token, sealed), since) for token, since in taken.handed]
        if 0 < self.opening.fill_ms <= SOON_MS_MAX and self.alive():
            self._flush(channel, [since for _, since in taken.handed if since is not None])
        return taken

    def rehearse(self, channel: LoadChannel, piece: Segment, batch: pa.RecordBatch, reached: str) -> int | None:
        """Rows on trial: do with them what a load does, or bring them to the dead letter; how many rows that holds then, if it was written to."""
        taken, opening = Taken(), self.opening
        rows = self._loadable(unsent(batch, reached, opening.generation), taken, piece.bury)
        if rows is not None and rows.num_rows:
            poison("poison.encode", rows)
            try:
                channel.rehearse(channel.encode(rows, opening.table, opening.generation, _now()), self.alive)
            except Exception as error:
                raise in_our_words(error, opening) from None
        return taken.dead

    def _rests(self, group: list[tuple[Segment, pa.RecordBatch]], reached: str, taken: Taken) -> list[pa.RecordBatch]:
        """What is to be appended of each segment; fewer when the life is over."""
        rests = []
        for segment, batch in group:
            unsent_ = unsent(batch, reached, self.opening.generation)
            rest = self._loadable(unsent_, taken, segment.bury) if self.alive() else None
            if rest is None:
                break
            reached = max(reached, segment.last)
            rests.append(rest)
        return rests

    def _flush(self, channel: LoadChannel, commits: list[float]) -> None:
        """Have rows sent at once, and note how long their way was. What comes meanwhile goes together with the next append."""
        try:
            accepted = bool(commits) and channel.flush()
        except Exception as error:
            raise in_our_words(error, self.opening) from None
        if accepted:
            metrics.observe_since(metrics.ACCEPTED_SECONDS.labels(self.opening.pipeline), commits)

    def sift(self, suspicion: Suspicion, batches: list[pa.RecordBatch]) -> tuple[int, int | None]:
        """Bring refused rows into the dead letter: how many of this life there were, and how many rows it holds then (None: none were found)."""
        found, dead = 0, None
        for batch in batches:
            missing = self.tools.sessions.run(
                self.opening.destination,
                tag_of(self.opening, "rejected"),
                partial(rejected.missing, opening=self.opening, batch=batch),
            )
            refused = sorted(set(missing) - self._unloadable(batch).keys()) if missing else []
            if refused:
                verdict = Verdict("Snowflake refuses the row", None, 0, suspicion.message)
                dead = self._bury(batch, dict.fromkeys(refused, verdict))
            found += len(refused) - rejected.within(batch, refused, suspicion.doubt)
        return found, dead

    # -- inside

    def _append(self, channel: LoadChannel, parts: list[tuple[Segment, pa.RecordBatch]]) -> bool:
        """One append of all parts, in order; False after back-pressure, or when the life is over."""
        opening = self.opening
        rows = pa.concat_batches([rest for _, rest in parts]) if len(parts) > 1 else parts[0][1]
        poison("poison.encode", rows)
        followed = [segment for segment, _ in parts if segment.trace is not None]
        with stage("encode", opening, followed, rows.num_rows):
            data = channel.encode(rows, opening.table, opening.generation, _now())
        failpoint("actor.before_append")
        if not self.alive():
            return False
        try:
            with stage("append", opening, followed, rows.num_rows):
                size = channel.append(data, rows.num_rows, parts[0][0].first, parts[-1][0].last)
            metrics.snowflake_request(opening.destination.name, "append")
        except Exception as error:
            metrics.snowflake_request(opening.destination.name, "append", failed=True)
            if explain(error, "").directive is Directive.AGAIN:
                return False
            raise in_our_words(error, opening) from None
        if size:
            labels = (opening.pipeline, metrics.table_label(opening.table.name))
            metrics.SNOWFLAKE_ROWS_INSERTED.labels(*labels).inc(rows.num_rows)
            metrics.SNOWFLAKE_BYTES.labels(*labels).inc(size)
            billed = size - rows.num_rows * names_bytes(rows, opening.table)
            metrics.BILLED_BYTES.labels(*labels, LoadPath.STREAMING.value).inc(max(0, billed))
        failpoint("actor.after_append")
        return True

    def _by_file(self, segments: list[tuple[Segment, pa.RecordBatch]]) -> list[Segment]:
        """Those that are followed, where rows travel as files: there the end of a job takes time."""
        by_file = self.opening.load.path is not LoadPath.STREAMING
        return [segment for segment, _ in segments if by_file and segment.trace is not None]

    def _seal(self, channel: LoadChannel, reached: str) -> str | None:
        try:
            return channel.seal(self.alive, reached)
        except Exception as error:
            raise in_our_words(error, self.opening) from None

    def _loadable(self, batch: pa.RecordBatch, taken: Taken, bury: Bury) -> pa.RecordBatch | None:
        """The rows that can be loaded, once the others are in the dead letter; None when the life is over."""
        verdicts = self._unloadable(batch) if bury is Bury.NO else dict.fromkeys(range(batch.num_rows), POISON)
        if not verdicts:
            return batch
        dead = self._bury(batch, verdicts, bare=bury is Bury.BARE)
        if dead is None:
            return None
        taken.dead = dead
        return batch.take(pa.array(sorted(set(range(batch.num_rows)) - verdicts.keys()), pa.int64()))

    def _unloadable(self, batch: pa.RecordBatch) -> dict[int, Verdict]:
        """Rows that can't be loaded. A row of many megabytes stands alone in its batch; its line tells what escapes make of it."""
        verdicts = too_large(batch, self.limits)
        if not verdicts and batch.num_rows == 1 and batch.nbytes * ESCAPED_FACTOR_MAX > LINE_BYTES_MAX:
            size = encode(batch, self.opening.table, self.opening.generation, _now()).size
            if size > LINE_BYTES_MAX:
                return {0: line_too_long(size)}
        return verdicts

    def _bury(self, batch: pa.RecordBatch, verdicts: dict[int, Verdict], *, bare: bool = False) -> int | None:
        """Bring these rows into the dead letter; how many rows of the table are there then. None, and nothing written, when the life is over."""
        opening = self.opening
        rows = dead_letter.dead_rows(batch, verdicts, opening.table, opening.generation, _now(), bare=bare)
        if not self.alive():
            return None
        failpoint("dead_letter.before_write")

        def job(connection: Any) -> int:
            dead_letter.write(connection, opening, rows)
            failpoint("dead_letter.after_write")
            return dead_letter.count(connection, opening)

        return self.tools.sessions.run(opening.destination, tag_of(opening, "dead letter"), job)


def coalesced(segments: list[tuple[Segment, pa.RecordBatch]]) -> Iterator[list[tuple[Segment, pa.RecordBatch]]]:
    """Segments that go together in one append: in order, of one shape, within APPEND_BYTES_MAX. A large one goes alone."""
    group: list[tuple[Segment, pa.RecordBatch]] = []
    size = 0
    for segment, batch in segments:
        if group and (size + segment.length > APPEND_BYTES_MAX or batch.schema != group[0][1].schema):
            yield group
            group, size = [], 0
        group.append((segment, batch))
        size += segment.length
    if group:
        yield group


def committed_at(rows: pa.RecordBatch) -> float | None:
    """When the first row was committed in the source, Unix seconds."""
    stamp = rows.column("_etl_commit_ts")[0].value if rows.num_rows else None
    return None if stamp is None else stamp / 1_000_000


def in_our_words(error: Exception, opening: OpenTable) -> Exception:
    """An error of the SDK as an EtlError. Want of memory stays what it is: the process ends by it."""
    if isinstance(error, EtlError | MemoryError):
        return error
    return explain(error, f"pipeline {opening.pipeline}, table {opening.table.name}")


def _now() -> str:
    """For _ETL_LOADED_AT."""
    return datetime.now(UTC).isoformat(sep=" ", timespec="microseconds")
