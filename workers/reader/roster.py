"""All tables of a source in all its pipelines: carries out what each `Follower` decides.

Holds the books between table (oid), pipeline and handle; writes every change of a table's state to the store before anything depends on it.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from dataclasses import replace

import structlog

from etl_supervisor.config.settings import Settings
from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.ipc import wire
from etl_supervisor.ipc.messages import (
    Applied,
    AppliedTogether,
    CopyEnded,
    CopyWanted,
    Durable,
    Failed,
    Kept,
    TableOpened,
    ToPublisher,
)
from etl_supervisor.model.pipeline import Pipeline, SourceSpec
from etl_supervisor.model.position import Position
from etl_supervisor.model.progress import Progress
from etl_supervisor.model.table import Table, TableName
from etl_supervisor.model.table_state import Phase, TableState
from etl_supervisor.monitor import logs
from etl_supervisor.state.store import StateStore, Writer
from workers.reader import pieces
from workers.reader.admission import PROVISIONAL, Admission
from workers.reader.batch import TableBatch
from workers.reader.breakers import Breakers
from workers.reader.follower import HELD_RETRY_SECONDS, Action, Follower, beginning_anew
from workers.reader.followers import Followers
from workers.reader.frontier import Frontier
from workers.reader.pace import Pace
from workers.reader.publisher import Publisher
from workers.reader.retired import Retired
from workers.reader.sight import Sight
from workers.reader.storage import Storage, rewritten
from workers.reader.stored import StoredTables
from workers.reader.together import Together

log = structlog.get_logger()


class StreamAgain(Exception):  # noqa: N818 - a request, not an error
    """Rows must come from the slot once more, for the reason given: a held table is tried again, or a pipeline has left."""


class Roster:
    """The tables of one reader."""

    def __init__(
        self,
        spec: SourceSpec,
        progress: Progress,
        epoch: int,
        store: StateStore,
        publisher: Publisher,
        frontier: Frontier,
        sight: Sight,
        settings: Settings,
    ) -> None:
        self._spec, self._progress, self._epoch = spec, progress, epoch
        self._publisher, self._frontier, self._sight = publisher, frontier, sight
        self._hold_rewritten = settings.on_rewrite == "hold"
        self._held_seconds = settings.park_after_seconds if spec.source.parked else HELD_RETRY_SECONDS
        self._handles, self.trouble, self._pace, self.breakers = 0, "", Pace(), Breakers()
        self._followers = Followers()
        self._retired = Retired(publisher, frontier)
        self.together = Together(spec.pipelines, progress.owner, epoch)
        self._gone: dict[int, int] = {}  # oid -> end of WAL when it was seen to be gone
        self._by_oid: dict[int, list[Follower]] = {}
        self._stored = StoredTables(store, spec.source.name, spec.pipelines, Writer(spec.source.stream, epoch))
        self.hearing = self._stored.gathered  # around several messages: their states are saved together
        self._admission = Admission(self._stored, progress, settings.masking())
        self.copies_wanted: list[CopyWanted] = []
        self._copying: dict[tuple[int, TableName], int] = {}  # (pipeline, table) -> handle that asked for the copy

    @property
    def followers(self) -> Iterable[Follower]:
        """All."""
        return self._followers.values()

    def introduce(self, tables: Collection[Table]) -> None:
        """Tables that are published. Their shapes may be newer than the stream: they count only until the first row comes.
        Those that are not published any more are followed until what the stream tells of them is applied; one without a shape has not begun."""
        self._sight.look_ahead([table.oid for table in tables])
        with self._stored.gathered():
            for table in tables:
                self._followers_of(replace(table, version=PROVISIONAL))
            for pipeline, state in self._stored.others(self._by_oid):
                over = state.generation < self._progress.generation or not state.shape
                if over or not pipeline.selection.takes(state.table):
                    self._stored.drop(pipeline, state.table)
                else:
                    self._followers_of(replace(wire.load(Table, state.shape), version=PROVISIONAL))
        self._sight.look_ahead([])
        self._open_begun()

    def learn(self, table: Table, first: Position) -> list[Follower]:
        """The followers of a table whose rows have this shape from the position `first` on; a table not seen before is known from now on.
        A table that is gone from the source and was never followed has none.
        """
        if table.oid not in self._by_oid and table.oid not in self._sight.storage([table.oid]):
            return []
        known = self._by_oid[table.oid] = self._reselected(self._followers_of(table), table)
        self._open_begun()
        for number, follower in enumerate(known):
            if follower.table.version != table.version:
                known[number] = self._changed(follower, table, first)
        return known

    def remembered(self, oid: int) -> Table | None:
        """The last shape that the stream told of a table, also to a reader before us."""
        shapes = [follower.state.shape for follower in self._by_oid.get(oid, []) if follower.state.shape]
        return wire.load(Table, shapes[0]) if shapes else None

    def _followers_of(self, table: Table) -> list[Follower]:
        known = self._by_oid.get(table.oid)
        if known is None:
            known = self._by_oid[table.oid] = self._reselected([], table)
        return known

    def _reselected(self, known: list[Follower], table: Table) -> list[Follower]:
        """The followers that its name leaves it, and those that it brings. What a pipeline does not take is forgotten; its target stays."""
        left = []
        for pipeline in self._spec.pipelines:
            follower = next((one for one in known if one.pipeline is pipeline), None)
            if self._admission.takes(pipeline, table):
                left.append(follower or self._follow(pipeline, table))
                continue
            if follower is not None:
                self._retire(follower, keep=False)
        return left

    # -- changes

    def observe(self, storage: dict[int, Storage], wal_end: int) -> None:
        """What the catalog says of our tables' rows now, at this end of WAL: without an event some were rewritten, or are gone."""
        for oid, known in self._by_oid.items():
            if oid not in storage:
                self._gone.setdefault(oid, wal_end)
                continue
            for number, follower in enumerate(known):
                if follower.state.phase in (Phase.CATCHUP, Phase.READY):
                    known[number] = self._observed(follower, storage[oid])

    def published(self, oids: set[int], known: set[int], wal_end: int) -> None:
        """These tables are published now, at this end of WAL; `known` are the tables that were followed before that was looked up."""
        self._gone = {oid: end for oid, end in self._gone.items() if oid not in oids}
        self._gone |= {oid: wal_end for oid in known - oids if oid not in self._gone}
        if shapes := self._sight.shapes(oids - self._by_oid.keys()):
            log.info("table_published", tables=[str(table.name) for table in shapes])
            self.introduce(shapes)

    def _observed(self, follower: Follower, storage: Storage) -> Follower:
        reason = rewritten(Storage.parse(follower.state.storage), storage) if follower.state.storage else None
        if reason is not None:
            shape = self._sight.shape(follower.table.oid)  # no row need come to tell it
            table = follower.table if shape is None else replace(shape, version=PROVISIONAL)
            return self._copy_again(follower, table, reason, "")
        if follower.state.storage != storage.text:
            follower.state = replace(follower.state, storage=storage.text)
            self._save(follower)
        return follower

    def _changed(self, follower: Follower, table: Table, first: Position) -> Follower:
        """Rows have another shape from `first` on. One that the stream has told before (it began again) needs no thought."""
        if first.place > follower.state.shape_at:
            reason = follower.why_copy(table, self._sight.storage([table.oid]).get(table.oid), first)
            if reason is not None:
                return self._copy_again(follower, table, reason, first.place)
            follower.state = replace(follower.state, shape=wire.dump(table), shape_at=first.place)
            self._save(follower)
        try:
            follower.masks.check(table)
        except EtlError as error:
            return self._hold(follower, table, error, first.place)
        self._followers.reshape(follower, table)
        since = first._replace(generation=follower.state.generation).before
        self._publisher.reshape(follower.handle, follower.masked_table, since)
        return follower

    def _complete(self, known: list[Follower], commit_lsn: int) -> None:
        """Values that no message has are taken from the source: by the copy that runs, if its snapshot comes later, or by another."""
        for number, follower in enumerate(known):
            reason = follower.judged(commit_lsn, "a row came into the row filter without its large values")
            if reason is not None:
                known[number] = self._copy_again(follower, follower.table, reason, "")

    def resync(self, pipeline: str, name: TableName | None) -> bool:
        """Copy a table of a pipeline (None: each one) again, whatever has become of it; False when it is not followed.

        One whose copy is under way is left to it.
        """
        found = False
        for known in self._by_oid.values():
            for number, follower in enumerate(known):
                if follower.pipeline.name == pipeline and name in (None, follower.table.name):
                    found = True
                    if follower.held or not follower.copying:
                        known[number] = self._begin_anew(follower, follower.table, "a person asked for it", "")
        return found

    def _copy_again(self, follower: Follower, table: Table, reason: str, place: str) -> Follower:
        """The rows that were landed are not the table's any more: it begins anew, or it is held, by policy."""
        if not self._hold_rewritten:
            return self._begin_anew(follower, table, reason, place)
        remedy = "PAUSE and START: it goes on as it is; or copy it again with `etl-supervisor resync`"
        return self._hold(follower, table, EtlError(Kind.SCHEMA, follower.place, reason, remedy), place)

    def _hold(self, follower: Follower, table: Table, error: EtlError, place: str) -> Follower:
        log.warning("table_held", pipeline=follower.pipeline.name, table=str(table.name), reason=error.reason)
        self.trouble = error.line
        state = follower.shaped(follower.state, table, place, self._sight.storage_text(table.oid))
        state = state.to(Phase.ERRORED, resume=follower.phase, trouble=error.line)
        return self._replace(follower, table, state, held=True)

    def _begin_anew(self, follower: Follower, table: Table, reason: str, place: str) -> Follower:
        """The table is copied again in a generation of its own; its target is replaced by the first apply, in one step."""
        log.warning("table_copied_again", pipeline=follower.pipeline.name, table=str(table.name), reason=reason)
        state = beginning_anew(follower.pipeline, table, follower.state.generation)
        shaped = follower.shaped(state, table, place, self._sight.storage_text(table.oid))
        return self._replace(follower, table, replace(shaped, began=place), held=False)

    def _replace(self, follower: Follower, table: Table, state: TableState, *, held: bool) -> Follower:
        """Another handle for the table."""
        if follower.table.name != table.name:
            self._stored.drop(follower.pipeline, follower.state.table)
        self._retire(follower, keep=held)
        begun = self._begin(follower.pipeline, table, state, held=held)
        self._open_begun()
        return begun

    def _retire(self, follower: Follower, *, keep: bool) -> None:
        self._open_begun()
        self._followers.remove(follower)
        self._retired.add(follower.handle, (follower.pipeline.id, follower.table.oid), keep=keep)

    def _let_go(self) -> None:
        """Tables that are gone from the source, once the stream has told all of them; their targets stay."""
        for oid, end in list(self._gone.items()):
            known = self._by_oid.get(oid, [])
            if self._frontier.decoded < end or any(f.phase is Phase.READY and f.unapplied for f in known):
                continue
            for follower in known:
                log.warning("table_gone", pipeline=follower.pipeline.name, table=str(follower.table.name))
                self._retire(follower, keep=False)
                self._stored.drop(follower.pipeline, follower.state.table)
            self._by_oid.pop(oid, None)
            del self._gone[oid]

    @property
    def oids(self) -> list[int]:
        """All tables that are followed."""
        return list(self._by_oid)

    def publish(self, batches: Iterable[TableBatch]) -> list[tuple[int, int]]:
        """Hand over a decoded batch; returns the (handle, seq) that must become durable."""
        promised: list[tuple[int, int]] = []
        for item in batches:
            first = pieces.first(item.batch)
            known = self.learn(item.table, first)
            if item.incomplete_at is not None:
                self._complete(known, item.incomplete_at)
            followers = [one for one in known if one.state.began <= first.place and not one.held]
            newest = item.batch.column(pieces.COMMIT_LSN)[-1].as_py()
            for follower in followers:
                follower.published(newest, item.batch.num_rows)
            for masks in dict.fromkeys(follower.masks for follower in followers):
                handles = [follower.handle for follower in followers if follower.masks == masks]
                promised += self._publisher.publish(handles, masks.batch(item.table, item.batch), item.table.version)
        return [(handle, seq) for handle, seq in promised if handle in self._followers or handle in self._retired]

    def received(self, message: ToPublisher, now: float) -> None:
        """A word from an actor."""
        if isinstance(message, AppliedTogether):
            for moved, became in self.together.received(message, self._followers, now):
                self._publisher.shown(moved.handle, message)
                if became:
                    self._became_ready(moved)
        handle = getattr(message, "handle", 0)
        if (follower := self._followers.get(handle)) is None:
            self._retired.received(handle, message)
            return
        self.breakers.note(follower, message, self.followers, now)
        match message:
            case TableOpened():
                follower.opened(message)
                self._save(follower)
            case Durable(seq=seq):
                if follower.durable(message):
                    self._save(follower)
                self._frontier.completed(follower.handle, seq)
            case Applied(fence=fence):
                if follower.applied_to(fence, now):
                    self._became_ready(follower)
            case Kept() if follower.kept(message, now):
                self._save(follower)
            case Failed():
                self._report(follower, follower.failed(message, now))
                self._save(follower)
            case _:
                pass

    def copy_ended(self, message: CopyEnded, now: float) -> None:
        """A copy worker ended; what it reached is in the state store."""
        name = TableName(message.schema, message.table)
        asked = self._copying.pop((message.pipeline_id, name), 0)
        named = list(self._followers.named(message.pipeline_id, name))
        for follower in [one for one in named if one.handle == asked] or named:  # a reader before us may have asked
            follower.copy_ended(self._stored.copy(follower.pipeline, name), now)
            self._save(follower)
            if (reason := follower.doubted()) is not None:
                known = self._by_oid[follower.table.oid]
                known[known.index(follower)] = self._copy_again(follower, follower.table, reason, "")

    def act(self, now: float) -> None:
        """Carry out what is due. StreamAgain when the stream must begin again at the confirmed position."""
        if not self._pace.begin(time.monotonic()):
            return
        with self._stored.gathered():
            self._act(now)
        self._pace.end(time.monotonic(), min([self.together.due_at(), *(f.due_at() for f in self.followers)]))

    def _act(self, now: float) -> None:
        self._let_go()
        short = self._publisher.blocked
        for follower in self.followers:
            fence = self._frontier.fence(follower.handle)
            if follower.settled(fence) or follower.recovered():
                self.trouble = ""
                self._save(follower)
            if keepsake := follower.keepsake(now):
                self._publisher.keep(keepsake)
            match follower.next_action(now, fence, short_of_memory=short):
                case Action.COPY:
                    self._want_copy(follower)
                case Action.APPLY:
                    follower.asked_to_apply(now)
                    self._publisher.apply(follower.handle, fence, follower.state.copied_from)
                case Action.REOPEN if self.breakers.allow(follower, now):
                    follower.reopening, follower.retry_at = True, None
                    self._publisher.reopen(follower.handle)
                case Action.HOLD:
                    follower.hold(now, self._held_seconds)
                    self._frontier.hold(follower.handle)
                    self._publisher.hold(follower.handle)
                case Action.RESTART:
                    raise StreamAgain(f"{follower.place}: a held table is tried again")
        for wanted in self.together.due(((f, self._frontier.fence(f.handle)) for f in self.followers), now):
            self._publisher.apply_together(wanted)

    def save_all(self) -> None:
        """Write the state of every table: the store has lost them."""
        with self._stored.gathered():
            for follower in self.followers:
                self._save(follower)

    def due_at(self) -> float:
        """When `act` may have something to do by time alone."""
        return self._pace.due_at

    # -- inside

    def _follow(self, pipeline: Pipeline, table: Table) -> Follower:
        """A table that this reader has not followed yet in this pipeline."""
        for follower in list(self._followers.named(pipeline.id, table.name)):
            self._by_oid.pop(follower.table.oid, None)  # the table was made anew under its name
            self._retire(follower, keep=False)
        return self._begin(pipeline, *self._admission.state(pipeline, table))

    def _begin(self, pipeline: Pipeline, table: Table, state: TableState, *, held: bool = False) -> Follower:
        """A follower with a handle of its own."""
        self._handles += 1
        storage = state.storage or self._sight.storage_text(table.oid)
        state = replace(state, storage=storage, history=self._progress.generation)
        follower = Follower(pipeline, self._handles, table, replace(state, shape=state.shape or wire.dump(table)))
        self._followers.add(follower)
        follower.held = held or not self._admission.mask(follower)
        if not follower.held and state.phase is Phase.ERRORED:
            follower.another_chance()
        self._save(follower)
        return follower

    def _open_begun(self) -> None:
        """Those that have begun are opened, all their states being saved: a later reader must know the generation."""
        if begun := self._followers.take_begun():
            self._stored.flush()
        for follower in begun:
            self._publisher.open(follower.opening(self._progress, self._epoch), held=follower.held)
            if follower.held:
                self._frontier.hold(follower.handle)

    def _want_copy(self, follower: Follower) -> None:
        follower.begin_copy()
        self._save(follower)
        self._copying[follower.pipeline.id, follower.table.name] = follower.handle
        self.copies_wanted.append(follower.copy(self._spec.source.stream, self._epoch))

    def _save(self, follower: Follower) -> None:
        follower.unkept = True
        self._stored.save(follower.pipeline, follower.state)

    def _became_ready(self, follower: Follower) -> None:
        self._save(follower)
        log.info("table_ready", pipeline=follower.pipeline.name, table=str(follower.table.name))

    def _report(self, follower: Follower, error: EtlError) -> None:
        self.trouble, retry = error.line, follower.retry_at is not None
        known = log.bind(pipeline=follower.pipeline.name, table=str(follower.table.name), retry=retry)
        logs.error_line(known, "table_stopped", error)
