"""The reader: one process per source, one thread, one loop.

    frames ─► intake ─(batch)─► decoder ─► roster ─► publisher ═► actors
                                                                      │ Durable
    PostgreSQL ◄─ status(confirmed) ◄─ state store ◄─ frontier ◄──────┘

One turn: beat; wait for a socket or a timer; take what the actors and the parent say; read frames, unless memory is short or we drain; seal the
batch if it is full or old; carry out what the tables need; confirm what is durable; tell the walsender.

Order that matters: a position is written to the state store *before* PostgreSQL hears of it, and a table's stream rows are landed from
the moment it is known, *before* its copy takes a snapshot. What a crash leaves at each step stands in `etl_supervisor/failpoints.py`.

SIGTERM drains: stop reading, seal, wait until all is durable, confirm, exit 0.
"""

from __future__ import annotations

import contextlib
import selectors
import time
from collections.abc import Iterable
from dataclasses import replace

import structlog

from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.exits import Exit
from etl_supervisor.failpoints import failpoint
from etl_supervisor.ipc.mailbox import Connection
from etl_supervisor.ipc.messages import ActorEnded, CopyEnded, Ready, ToPublisher
from etl_supervisor.model.pipeline import Transfer
from etl_supervisor.model.progress import SourceReport
from etl_supervisor.monitor import metrics
from etl_supervisor.state.choose import open_store
from etl_supervisor.supervision.spawn import ChildContext
from workers.reader import parking
from workers.reader import source as sources
from workers.reader.beginning import begin, still_kept
from workers.reader.ending import Ending
from workers.reader.frame import Chunk
from workers.reader.frontier import Frontier
from workers.reader.intake import intake_of
from workers.reader.interest import watch
from workers.reader.laggards import Laggards, ailing, oldest
from workers.reader.lineage import Lineage
from workers.reader.pgoutput import Decoder
from workers.reader.publisher import Publisher
from workers.reader.relations import Relations
from workers.reader.report import measure, tell
from workers.reader.roster import Roster, StreamAgain
from workers.reader.rounds import Rounds
from workers.reader.sight import Sight
from workers.reader.traces import followed
from workers.reader.transfer import BinaryForms, Manner, choose
from workers.reader.watch import Watch

STATUS_SECONDS = 5.0  # far below wal_sender_timeout (60 s by default), also when nothing is read
CONFIRM_SECONDS = 0.2  # a state write per confirmation is a disk sync of the store: at most five a second
REPORT_SECONDS = 1.0
PROBE_SECONDS = 15.0  # nothing heard for so long: ask the walsender to answer
SILENCE_SECONDS_MAX = 60.0  # still nothing: the connection is dead, whatever TCP says
JOIN_SECONDS_MAX = 30.0  # the others of its source wait while a parked pipeline comes to them
WAIT_SECONDS_MAX = 1.0  # the longest sleep: well below the heartbeat limit
WAIT_SECONDS_MIN = 0.02  # a timer that is due but has nothing to do must not spin

log = structlog.get_logger()


class Reader:
    """Everything one reader holds; `run` is its life."""

    def __init__(
        self, context: ChildContext, ending: Ending, manner: Manner, *, lost: bool = False, until: int | None = None
    ) -> None:
        """`ending` tells of SIGTERM. `lost`: the slot is to be replaced. `until`: it ends at this position, or when that takes too long."""
        assert context.spec is not None
        self._context, self._ending = context, ending
        self._manner, self._lost, self._until = manner, lost, until
        self._spec = context.spec
        self._settings = context.settings
        self._parent: Connection = context.parent
        self._resources = contextlib.ExitStack()
        self._selector = self._resources.enter_context(selectors.DefaultSelector())
        self._draining = False
        self._drain_until = float("inf") if until is None else time.monotonic() + JOIN_SECONDS_MAX
        self._rows = 0
        self._received = 0
        self._oldest_commit: float | None = None
        self._next_status = self._next_confirm = self._next_report = self._next_round = 0.0

    def __enter__(self) -> Reader:
        try:
            self._start()
        except BaseException:
            self._resources.close()  # nobody calls __exit__
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._resources.close()

    # -- start

    def _start(self) -> None:
        source, beat = self._spec.source, self._context.heartbeat.beat
        self._store = self._resources.enter_context(
            contextlib.closing(open_store(self._settings, metrics.redis_operation))
        )
        begun = begin(self._context, self._store, self._resources, self._ending.beat, lost=self._lost)
        self._catalog, self._stream, self._progress = begun.catalog, begun.stream, begun.progress
        wal = Watch(begun.access, self._progress.slot, standby=begun.standby)
        self._watch = self._resources.enter_context(contextlib.closing(wal))
        # Who streams the slot has the source: only then is an older reader's epoch passed.
        sight = Sight(self._catalog, source, beat)
        tables = sight.published()
        forms = BinaryForms(self._catalog)
        binary = self._manner.binary and choose(source, forms, tables)
        if self._manner != Manner():
            sources.await_free(self._catalog, self._progress.slot, beat)  # our last walsender may still be ending
        self._stream.start(
            self._progress.slot,
            self._progress.confirmed,
            sight.publications,
            binary=binary,
            streaming=self._manner.in_progress and source.stream_in_progress,
        )
        self._epoch = parking.next_epoch(self._store, self._spec)
        self._progress = sources.newer(self._progress, still_kept(self._store, self._spec, begun.known), source)
        self._store.save_progress(source.stream, self._progress, self._epoch)
        self._parking = parking.Parking(self._catalog, self._store, self._spec)
        self._spec = self._parking.settle(self._progress, self._ending.beat)
        self._laggards = Laggards(self._settings.park_after_seconds)
        self._frontier = Frontier(self._progress.confirmed)
        self._publisher = Publisher(
            self._context.name,
            self._context.incarnation,
            self._context.actor_addresses,
            self._settings.shared_memory_budget_mb << 20,
            self._selector,
        )
        self._resources.callback(self._publisher.stop)
        self._roster = Roster(
            self._spec,
            self._progress,
            self._epoch,
            self._store,
            self._publisher,
            self._frontier,
            sight,
            self._settings,
        )
        still_kept(self._store, self._spec, self._progress)  # the roster has read the tables' states
        self._rounds = self._resources.enter_context(
            contextlib.closing(Rounds(self._spec, begun.access, sight, self._store, self._roster))
        )
        self._relations = Relations(sight.table, self._roster.remembered)
        self._decoder = Decoder(self._relations, forms if binary else None)
        intake = intake_of(self._stream, self._spec, self._settings)
        self._intake = self._resources.enter_context(contextlib.closing(intake))
        self._publisher.connect()
        self._roster.introduce([table for _, table in tables])
        waited_for = [follower.handle for follower in self._roster.followers if not follower.held]
        self._lineage = Lineage(self._progress.forked_at, waited_for)
        self._note_proof()
        self._selector.register(self._stream, selectors.EVENT_READ, "stream")
        self._selector.register(self._parent, selectors.EVENT_READ, "parent")
        self._selector.register(self._ending, selectors.EVENT_READ, "signal")
        self._received = self._progress.confirmed
        self._parent.send(Ready())
        log.info(
            "reader_started",
            source=source.stream,
            slot=self._progress.slot,
            confirmed=self._progress.confirmed,
            transfer=Transfer.BINARY if binary else Transfer.TEXT,
        )

    def _drain(self) -> None:
        if self._ending.asked() and not self._draining:
            self._draining, self._drain_until = True, time.monotonic() + self._settings.shutdown_grace_seconds

    # -- life

    def run(self) -> int:
        """Until drained (0), or until an error ends this incarnation."""
        try:
            while not self._drained():
                self._turn()
        except StreamAgain as wanted:
            log.info("reader_restarts", reason=str(wanted))
            return Exit.STREAM
        log.info("reader_drained", source=self._spec.source.stream, confirmed=self._progress.confirmed)
        return Exit.OK

    def _turn(self) -> None:
        self._context.heartbeat.beat()
        self._wait()
        now = time.monotonic()
        if self._deaf:
            self._stream.heard = now  # silence while we do not listen says nothing
        elif not self._draining:
            self._read(now)
        if now >= self._intake.due_at() or (self._draining and self._intake.has_open_batch):
            self._decode(self._intake.seal())
        self._publisher.pump(hurry=self._draining)
        self._roster.act(now)
        self._ask_for_copies()
        if now >= self._next_confirm:
            self._confirm(now)
        if now >= self._next_status or self._stream.reply_requested:
            self._tell_status(now)
        if now >= self._next_report:
            self._report(now)
        if now >= self._next_round and not self._draining:
            self._next_round = now + self._settings.pipeline_poll_interval_secs
            self._rounds.make()
            if self._rounds.store_was_lost:
                self._write_state_again()

    def _wait(self) -> None:
        """Sleep until a socket has something or a timer is due; take the mailboxes' words."""
        self._watch_stream()
        ready = self._selector.select(self._seconds_to_wait())
        with self._roster.hearing():
            for key, _ in ready:
                match key.data:
                    case "parent":
                        self._hear_parent()
                    case "signal":
                        self._drain()
                    case "stream":
                        pass  # read in its turn
                    case _:
                        self._heard(self._publisher.ready(key.fileobj))  # type: ignore[arg-type]

    @property
    def _deaf(self) -> bool:
        """True while nothing is read: rows wait for memory, or it is not proven yet that a promotion left us nothing."""
        return self._publisher.blocked or not self._lineage.proven

    def _look_behind(self, message: ToPublisher) -> None:
        """After a promotion: what the channel that opens tells of the rows that were landed before."""
        if trouble := self._lineage.received(message):
            raise sources.lost_slot(self._spec.source, self._progress.slot, trouble)
        self._note_proof()

    def _note_proof(self) -> None:
        if self._progress.forked_at and self._lineage.proven:
            self._progress = replace(self._progress, forked_at=0)
            self._store.save_progress(self._spec.source.stream, self._progress, self._epoch)

    def _watch_stream(self) -> None:
        """Look at the walsender's socket only when we would read from it: a full socket would wake us without end."""
        reading = selectors.EVENT_READ if not (self._deaf or self._draining) else 0
        writing = 0 if self._stream.flush() else selectors.EVENT_WRITE
        watch(self._selector, self._stream, reading | writing, "stream")

    def _seconds_to_wait(self) -> float:
        if self._intake.more and not self._deaf and not self._draining:
            return 0.0  # libpq may hold frames that the socket does not tell of
        now = time.monotonic()
        due = min(self._intake.due_at(), self._next_status, self._roster.due_at(), self._next_report)
        if self._frontier.durable > self._progress.confirmed:
            due = min(due, self._next_confirm)
        return min(WAIT_SECONDS_MAX, max(WAIT_SECONDS_MIN, due - now))

    def _read(self, now: float) -> None:
        """One read or one part of it; a batch that is full makes room for the next."""
        for batch in self._intake.read(now):
            self._decode(batch)
            self._context.heartbeat.beat()
        if not self._intake.more:
            self._note_silence(now)

    def _note_silence(self, now: float) -> None:
        silent = now - self._stream.heard
        if silent > SILENCE_SECONDS_MAX:
            raise EtlError(Kind.STREAM, f"source {self._spec.source.stream}", "the walsender is silent", transient=True)
        if self._intake.idle and not self._decoder.in_transaction:
            self._received = max(self._received, self._stream.wal_end)
            if not self._frontier.in_flight:
                self._frontier.idle(self._stream.wal_end)

    def _decode(self, batch: list[Chunk]) -> None:
        decoded = self._decoder.decode(batch)
        self._publisher.trace = followed(self._spec.source.stream, batch, decoded, self._intake.opened)
        failpoint("reader.after_seal", self._stream.cut)
        self._rows += decoded.rows
        self._received = max(self._received, decoded.received)
        self._frontier.sealed(decoded.end_lsn, self._roster.publish(decoded.segments))
        failpoint("reader.after_publish", self._stream.cut)
        if decoded.first_commit_ts is not None and self._oldest_commit is None:
            self._oldest_commit = decoded.first_commit_ts / 1_000_000
        metrics.READER_ROWS.labels(self._spec.source.stream).inc(decoded.rows)
        metrics.READER_BATCHES.labels(self._spec.source.stream).inc()

    def _hear_parent(self) -> None:
        while (found := self._parent.receive()) is not None:
            if isinstance(found[0], CopyEnded):
                self._roster.copy_ended(found[0], time.monotonic())
            elif isinstance(found[0], ActorEnded):
                self._heard(self._publisher.actor_ended(found[0]))

    def _heard(self, messages: Iterable[ToPublisher]) -> None:
        """What actors say."""
        for message in messages:
            self._roster.received(message, time.monotonic())
            self._look_behind(message)

    def _ask_for_copies(self) -> None:
        if self._draining:
            return
        for wanted in self._roster.copies_wanted:
            self._parent.send(wanted)
        self._roster.copies_wanted.clear()

    # -- confirming

    def _confirm(self, now: float) -> None:
        """State store first, PostgreSQL second. A store that does not answer delays both; nothing is lost by that."""
        durable = self._frontier.durable
        if durable <= self._progress.confirmed:
            return
        assert durable <= self._received, (durable, self._received)
        self._next_confirm = now + CONFIRM_SECONDS
        failpoint("reader.before_save", self._stream.cut)
        advanced = self._progress.advanced(durable)
        if self._spec.source.parked is not None and ailing(self._roster.followers):
            advanced = replace(advanced, stuck_at=durable)  # the others would have it back only to park it again
        try:
            self._store.save_progress(self._spec.source.stream, advanced, self._epoch)
        except EtlError as error:
            if not error.transient:
                raise
            self._roster.trouble = error.line
            log.warning("state_not_saved", kind=error.kind, reason=error.reason, remedy=error.remedy)
            self._next_confirm = now + REPORT_SECONDS
            return
        failpoint("reader.after_save", self._stream.cut)
        self._progress = advanced
        if not self._frontier.in_flight:
            self._oldest_commit = None
        self._tell_status(now)
        failpoint("reader.after_confirm", self._stream.cut)

    def _park_what_is_stuck(self, now: float) -> None:
        """A pipeline that holds the others back goes on from here by itself, and we without it."""
        found = oldest(self._spec.pipelines, self._roster.followers, self._frontier)
        stuck = self._laggards.stuck(found, now, blocked=self._publisher.blocked)
        for pipeline in self._spec.pipelines:
            if pipeline.name in stuck:
                self._parking.park(pipeline, self._progress, stuck=True)
        if stuck:
            raise StreamAgain(f"pipeline {', '.join(stuck)} is parked: its rows do not become durable")

    def _write_state_again(self) -> None:
        """The state store was emptied while we ran. The epoch comes last: without it the store counts as lost."""
        self._roster.save_all()
        self._store.save_progress(self._spec.source.stream, self._progress, self._epoch)
        self._store.restore_epoch(self._spec.source.stream, self._epoch)
        log.warning("state_written_again", source=self._spec.source.stream)

    def _tell_status(self, now: float) -> None:
        """Received and confirmed; asks for an answer when nothing was heard for long (while we read at all)."""
        silent = now - self._stream.heard > PROBE_SECONDS
        self._received = max(self._received, self._progress.confirmed)
        self._stream.status(self._received, self._progress.confirmed, reply=silent)
        self._next_status = now + STATUS_SECONDS

    def _drained(self) -> bool:
        if self._until is not None and self._progress.confirmed >= self._until:
            return True
        if not self._draining and self._until is None:
            return False
        if time.monotonic() >= self._drain_until:
            log.warning("drain_cut_short", source=self._spec.source.stream)
            return True
        done = (
            self._draining
            and not self._intake.has_open_batch
            and not self._publisher.blocked
            and not self._frontier.in_flight
        )
        return done and self._frontier.durable <= self._progress.confirmed

    # -- telling people

    def _report(self, now: float) -> None:
        self._next_report = now + REPORT_SECONDS
        name = self._spec.source.stream
        self._watch.tick(now, self._rows)
        report = SourceReport(
            state="draining" if self._draining else "streaming",
            received=self._received,
            durable=self._frontier.durable,
            confirmed=self._progress.confirmed,
            lag_seconds=max(0.0, time.time() - self._oldest_commit) if self._oldest_commit else 0.0,
            rows=self._rows,
            trouble=self._roster.trouble or self._rounds.trouble or self._watch.trouble,
            together=self._roster.together.visible,
            breakers=self._roster.breakers.states,
        )
        self._park_what_is_stuck(now)
        measure(name, tell(self._store, name, report, self._watch.facts), self._publisher.used_bytes, self._intake)
