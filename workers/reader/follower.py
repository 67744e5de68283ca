"""One table in one pipeline, as its reader sees it: pure decisions, no I/O.

Facts come in (`opened`, `failed`, `applied`, `copy_ended`), and `next_action` says what is to be done now:

    phase          opened?   what is wanted
    INIT           yes       a copy worker (the table's stream rows are landed meanwhile: route first, then snapshot)
    DATASYNC       yes       the copy worker's end; a copy that nobody works on (its worker or our predecessor died) starts again
    CATCHUP        yes       the first Apply, as soon as everything below the copy's position is durable
    READY          yes       an Apply each interval in which rows came (as far as the policy has them applied by us, and not `together`)
    ERRORED        -         a retry after its delay, until its attempts are used up; then it is held, and tried once an hour or when a person asks

A failure that is not the table's own (destination unreachable, key refused: see `policy`) is tried again for ever, attempts are not counted, and the
rows wait. Rows that can't be loaded are the actor's business: they are in the dead letter before it says Durable; `durable` keeps its baseline of
Snowflake's error counter, so that the next open knows whether rows were refused while nobody looked.
"""

from __future__ import annotations

import time
import zlib
from dataclasses import dataclass, replace
from enum import Enum, auto

from etl_supervisor.errors import EtlError
from etl_supervisor.ipc import wire
from etl_supervisor.ipc.messages import CopyWanted, Durable, Failed, Keep, Kept, OpenTable, TableOpened
from etl_supervisor.model import names
from etl_supervisor.model.apply_policy import ApplyMode, ApplyPolicy
from etl_supervisor.model.copy_state import CopyState
from etl_supervisor.model.pipeline import Pipeline
from etl_supervisor.model.position import Position
from etl_supervisor.model.progress import Progress
from etl_supervisor.model.table import Table
from etl_supervisor.model.table_state import Phase, TableState
from etl_supervisor.policy import Directive, directive
from etl_supervisor.state.store import dump
from workers.reader.change import must_copy
from workers.reader.masks import NOTHING_MASKED, Masks
from workers.reader.storage import Storage, rewritten

HELD_RETRY_SECONDS = 3600.0  # the stream begins again for it: the WAL since its last row is read once more
KEEP_RETRY_SECONDS = 60.0  # what could not be kept is missed only when the state store is lost
COPY_RETRY_SECONDS_MAX = 60.0  # a copy is tried for ever: its table's rows are landed meanwhile
VIEW_TAIL_ROWS_MAX = (
    1_000_000  # every query of <TABLE>_LIVE reads the tail of the log: about a second of an X-Small warehouse
)
DESTINATION_RETRY_SECONDS_MAX = 60.0  # an outage is noticed to be over within a minute


class Action(Enum):
    """What is to be done for a table now."""

    COPY = auto()
    APPLY = auto()
    REOPEN = auto()
    HOLD = auto()
    RESTART = auto()  # a held table is tried again: the stream must start again at the confirmed position


@dataclass(slots=True)
class Follower:
    """The table's place in its life, and what is under way for it. Times are seconds of the monotonic clock."""

    pipeline: Pipeline
    handle: int
    table: Table
    state: TableState
    open: bool = False
    held: bool = False
    reopening: bool = False  # a retry is under way: TableOpened or Failed ends it
    copying: bool = False
    applying: bool = False
    applied: int = 0
    shown: int = 0  # the generation of the rows in the target; 0: none
    last_commit: int = 0  # commit_lsn of the newest row handed over
    inherited: bool = True  # a predecessor may have landed rows that were never applied
    apply_at: float = 0.0
    rest_until: float = 0.0  # `view` waits so long, unless many rows have come
    tail: int = 0  # rows handed over since the last apply began
    asked_at: float = 0.0
    retry_at: float | None = None
    outages: int = 0
    unkept: bool = True  # the state may differ from what Snowflake keeps of it
    keeping: str = ""  # the digest of what it is asked to keep
    keep_at: float = 0.0
    masks: Masks = NOTHING_MASKED
    doubt: tuple[int, str] | None = (
        None  # a change during the copy: its commit_lsn, and why it needs a copy if it came after
    )

    @property
    def place(self) -> str:
        """For errors and logs."""
        return f"pipeline {self.pipeline.name}, table {self.table.name}"

    def opening(self, progress: Progress, epoch: int) -> OpenTable:
        """How its actor is to open it. The shape is taken as the oldest one: what the tables have from a later place stays."""
        return OpenTable(
            handle=self.handle,
            pipeline_id=self.pipeline.id,
            pipeline=self.pipeline.name,
            owner=progress.owner,
            epoch=epoch,
            generation=self.state.generation,
            channel=names.stream_channel(self.pipeline.id, self.state.generation),
            destination=self.pipeline.destination,
            table=self.masked_table,
            since=Position(self.state.generation, 0, 0, 0).token,
            errors=self.state.errors,
            policy=self.policy,
            fill_ms=self.pipeline.batch_max_fill_ms,
            load=self.pipeline.load,
            former=progress.former,
            prove=progress.forked_at > 0,
            channels=self.state.channels,
        )

    def copy(self, source: str, epoch: int) -> CopyWanted:
        """What a copy worker is asked for."""
        name = self.table.name
        return CopyWanted(source, self.pipeline.id, name.schema, name.name, self.state.generation, epoch)

    @property
    def masked_table(self) -> Table:
        """Its shape as its pipeline shows it."""
        return self.masks.shown(self.table)

    @property
    def policy(self) -> ApplyPolicy:
        """How the table is applied."""
        return self.pipeline.policy_of(self.table.name)

    def keepsake(self, now: float) -> Keep | None:
        """What Snowflake is to keep of the state of a table that is READY, unless it has that already."""
        if (
            not self.unkept
            or self.keeping
            or not self.open
            or self.state.phase is not Phase.READY
            or now < self.keep_at
        ):
            return None
        plain = replace(self.state, applied=0, errors=0, dead=0, attempts=0, trouble="", resume=Phase.INIT, kept="")
        text = dump(plain).decode()
        digest = f"{zlib.crc32(text.encode()):08x}"
        if digest == self.state.kept:
            self.unkept = False
            return None
        self.keeping = digest
        table = self.state.table
        return Keep(self.handle, self.pipeline.name, self.state.generation, self.pipeline.destination, table, text)

    # -- facts

    def kept(self, message: Kept, now: float) -> bool:
        """The answer; True when the state has changed with it."""
        digest, self.keeping = self.keeping, ""
        self.keep_at = 0.0 if message.ok else now + KEEP_RETRY_SECONDS
        if message.ok:
            self.state = replace(self.state, kept=digest)
        return message.ok

    def opened(self, message: TableOpened) -> None:
        """The actor has it open; an Apply that its predecessor was asked for died with it."""
        self.applying, self.keeping = False, ""
        self.open, self.reopening, self.retry_at = True, False, None
        self.applied, self.shown = max(self.applied, message.applied), message.shown
        if self.state.phase is Phase.ERRORED:
            self.state = self.state.to(self.state.resume, trouble="")

    def durable(self, message: Durable) -> bool:
        """Rows are durable; True when the counters in the state have changed with it."""
        self.outages = 0  # not when it was opened: its channel is opened for the first rows
        dead = self.state.dead if message.dead is None else message.dead
        attempts = self.state.attempts if self._is_applied else 0
        before, self.state = self.state, replace(self.state, errors=message.errors, dead=dead, attempts=attempts)
        return self.state != before

    def published(self, commit_lsn: int, rows: int = 1) -> None:
        """So many rows up to this one were handed over: the target will be behind."""
        self.tail += rows
        self.last_commit = max(self.last_commit, commit_lsn)

    @property
    def unapplied(self) -> bool:
        """True while there may be rows that the target does not show."""
        return self.policy.mode.has_target and (self.inherited or self.last_commit >= self.applied)

    def asked_to_apply(self, now: float) -> None:
        """An Apply is under way."""
        self.applying, self.asked_at, self.tail = True, now, 0

    def applied_to(self, fence: int, now: float) -> bool:
        """The target shows everything below `fence`; True when the table became READY by that."""
        self.applying, self.inherited, self.applied, self.outages = False, False, max(self.applied, fence), 0
        self.apply_at = now + self._pause(now - self.asked_at)
        self.rest_until = now + self.policy.interval_seconds_max
        became = self.state.phase is Phase.CATCHUP
        phase, trouble = (Phase.READY, "") if became else (self.state.phase, self.state.trouble)
        self.state = self.state.to(phase, applied=self.applied, attempts=0, trouble=trouble)
        return became

    def recovered(self) -> bool:
        """Something became durable or was applied since a trouble that was not its own: it is forgotten. True when the state has changed with it."""
        well = self.open and not self.outages and self.retry_at is None
        if not self.state.trouble or not well or self.state.phase not in (Phase.CATCHUP, Phase.READY):
            return False
        self.state = replace(self.state, trouble="")
        return True

    def begin_copy(self) -> None:
        """A copy is asked for."""
        self.copying, self.retry_at = True, None
        if self.state.phase is Phase.INIT:
            self.state = self.state.to(Phase.DATASYNC)

    def copy_ended(self, found: CopyState | None, now: float) -> None:
        """The copy of the table ended; `found` is what its worker wrote to the state store."""
        self.copying = False
        finished = copied(self.state, found)
        if finished is not None:
            self.state = finished.to(Phase.CATCHUP)
            self.apply_at = now
        else:
            trouble = found.trouble if found is not None else ""
            self.state = replace(self.state, attempts=self.state.attempts + 1, trouble=trouble)
            self.retry_at = now + min(COPY_RETRY_SECONDS_MAX, self._delay() * 2 ** min(self.state.attempts - 1, 10))

    def failed(self, message: Failed, now: float) -> EtlError:
        """The actor stopped the table; returns the error to report."""
        self.open = self.applying = self.reopening = False
        error = EtlError(message.kind, message.place or self.place, message.reason, message.remedy)
        self.trouble(error, now)
        return error

    def trouble(self, error: EtlError, now: float) -> None:
        """Note a failure and when to try again."""
        if directive(error.kind) is not Directive.TABLE:
            self.outages += 1
            self.retry_at = now + min(DESTINATION_RETRY_SECONDS_MAX, self._delay() * 2 ** min(self.outages - 1, 10))
            self.state = replace(self.state, trouble=error.line)
            return
        resume = self.state.resume if self.state.phase is Phase.ERRORED else self.state.phase
        attempts = self.state.attempts + 1
        self.state = self.state.to(Phase.ERRORED, trouble=error.line, resume=resume, attempts=attempts)
        self.retry_at = None if attempts >= self._attempts_max else now + self._delay()

    def hold(self, now: float, again_seconds: float) -> None:
        """Its attempts are used up, or memory is short: it stops, and is tried again after so long (or sooner, if that was said)."""
        self.held = True
        if self.retry_at is None:
            self.retry_at = now + again_seconds

    def settled(self, fence: int) -> bool:
        """A table that is appended only has no target to build: READY as soon as its copy and stream meet. True when it changed."""
        if (
            self.policy.mode is not ApplyMode.APPEND
            or self.state.phase is not Phase.CATCHUP
            or fence < self.state.copy_lsn
        ):
            return False
        self.state = self.state.to(Phase.READY)
        return True

    def another_chance(self) -> None:
        """The reader has started, by a person's doing or after a crash: one more try."""
        self.state = replace(self.state, attempts=max(0, min(self.state.attempts, self._attempts_max - 1)))
        self.reopening = True

    # -- changes of shape

    def shaped(self, state: TableState, table: Table, place: str, storage: str) -> TableState:
        """`state` with a shape that counts from `place` on ("": from where the present one does), and where the rows are."""
        shape_at, masks = place or self.state.shape_at, state.masks or self.state.masks
        return replace(state, shape=wire.dump(table), shape_at=shape_at, storage=storage, masks=masks)

    def judged(self, commit_lsn: int, reason: str | None) -> str | None:
        """Whether `reason` to copy again still counts for a change at this place: the copy may show it already, or will."""
        if reason is None or commit_lsn < self.state.copy_lsn:
            return None
        if self.phase in (Phase.INIT, Phase.DATASYNC):
            self.doubt = (commit_lsn, reason)
            return None
        return reason

    def why_copy(self, table: Table, storage: Storage | None, first: Position) -> str | None:
        """Why rows that have the shape `table` from `first` on need another copy; `storage` is where they are now (None: nowhere any more)."""
        if storage is None:
            return None  # there is nothing to copy
        if self.table.name != table.name:
            return f"it was renamed from {self.table.name}"
        reason = must_copy(wire.load(Table, self.state.shape), table)
        if reason is None and self.state.storage:
            reason = rewritten(Storage.parse(self.state.storage), storage)
        return self.judged(first.commit_lsn, reason)

    def doubted(self) -> str | None:
        """After a copy: why it did not see the last change."""
        doubt, self.doubt = self.doubt, None
        return doubt[1] if doubt is not None and self.state.copy_lsn and doubt[0] >= self.state.copy_lsn else None

    @property
    def phase(self) -> Phase:
        """Where the table is in its life, whether it is in trouble or not."""
        return self.state.resume if self.state.phase is Phase.ERRORED else self.state.phase

    # -- decisions

    def next_action(self, now: float, fence: int, *, short_of_memory: bool) -> Action | None:
        """What to do now; None when there is nothing to do. `fence`: everything of this table below is durable."""
        if self.reopening:
            return None
        if self.state.phase is Phase.ERRORED:
            return self._heal(now, short_of_memory)
        if self.retry_at is not None and now >= self.retry_at and not self.open and not self.held:
            return Action.REOPEN
        if not self.open:
            return None
        if self.state.phase in (Phase.INIT, Phase.DATASYNC):
            due = self.retry_at is None or now >= self.retry_at
            return Action.COPY if due and not self.copying else None
        return Action.APPLY if self._apply_is_due(now, fence) else None

    def _heal(self, now: float, short_of_memory: bool) -> Action | None:
        due = self.retry_at is not None and now >= self.retry_at
        if self.held:
            return Action.RESTART if due else None
        if self.retry_at is None or short_of_memory:
            return Action.HOLD
        return Action.REOPEN if due else None

    def _apply_is_due(self, now: float, fence: int) -> bool:
        mode = self.policy.mode
        if self.applying or now < self._apply_at or mode is ApplyMode.APPEND or self.policy.together:
            return False
        if self.state.phase is Phase.CATCHUP:
            return fence >= self.state.copy_lsn
        return self.unapplied and fence > self.applied

    @property
    def _is_applied(self) -> bool:
        """Whether an apply has to go well before all is well; of a dynamic table there is none after the copy's."""
        mode = self.policy.mode
        return mode.has_target or (mode is not ApplyMode.APPEND and self.phase is not Phase.READY)

    def _pause(self, apply_seconds: float) -> float:
        """Seconds from the end of an apply to the next: as long as it took, so that half of the time none runs."""
        return min(self.policy.interval_seconds_max, max(self.policy.interval_seconds_min, apply_seconds))

    @property
    def _apply_at(self) -> float:
        """No apply before."""
        rests = self.policy.mode is ApplyMode.VIEW and self.tail < VIEW_TAIL_ROWS_MAX
        return max(self.apply_at, self.rest_until) if rests else self.apply_at

    @property
    def _attempts_max(self) -> int:
        return self.pipeline.table_error_retry_max_attempts

    def _delay(self) -> float:
        return self.pipeline.table_error_retry_delay_ms / 1000

    def due_at(self) -> float:
        """When the next action may become due by time alone; infinity when none waits for the clock."""
        times = [at for at in (self.retry_at,) if at is not None]
        if self.open and not self.applying and self.unapplied and not self.policy.together:
            times.append(self._apply_at)
        return min(times, default=float("inf"))


def beginning_anew(pipeline: Pipeline, table: Table, older: int) -> TableState:
    """The state of a table that begins in a generation of its own, later than any before."""
    generation = max(int(time.time()), older + 1)
    return TableState(table.name, table.oid, generation, channels=pipeline.channels_of(table))


def copied(state: TableState, found: CopyState | None) -> TableState | None:
    """The state with its finished copy; None when the copy of this generation is not complete."""
    if found is None or not found.copy_lsn or found.generation != state.generation:
        return None
    dead = max(state.dead, found.dead)
    return state.to(
        Phase.FINISHEDCOPY,
        copy_lsn=found.copy_lsn,
        copy_since=found.since_lsn,
        rows_copied=found.rows,
        dead=dead,
        trouble="",
        attempts=0,
    )
