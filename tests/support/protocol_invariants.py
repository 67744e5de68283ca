"""What must hold in the model of the protocol after every step (invariants 1 to 8 of docs/architecture.md)."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from hypothesis.stateful import invariant

from etl_supervisor.model.table_state import Phase
from tests.support.protocol_actor import Actor
from tests.support.protocol_model import GONE, GOOD, Postgres, Snowflake, Store
from tests.support.protocol_reader import SHAPES, TABLES, Reader
from workers.snowflake.channel import Channel


class Pair:
    """A reader and its actor. What was in their mailboxes is gone with either."""

    def __init__(self, reader: Reader, channel: type[Channel], take_over: Callable[..., None]) -> None:
        self.reader, self._kinds = reader, (channel, take_over)
        self.actor = Actor(reader.world, *self._kinds)
        self.marks = reader.marks
        self.counts: dict[int, tuple[int, int]] = {}

    def begin_actor(self) -> None:
        """Another actor; the reader sends again what is not durable."""
        self.actor = Actor(self.reader.world, *self._kinds)
        self.reader.sent.clear()
        self.reader.mail.actor_began()


class Invariants:
    """Over the state of `protocol_machine`."""

    oids: ClassVar[range] = range(1, TABLES + 1)
    postgres: Postgres
    states: Store
    snowflakes: Snowflake
    pair: Pair | None
    older: list[Pair]
    asked: set[int]
    fences: dict[int, tuple[int, ...]]
    kept: int
    taken: int

    @property
    def pairs(self) -> list[Pair]:
        """All, the newest first."""
        return [*([self.pair] if self.pair is not None else []), *self.older]

    def positions_are_in_order(self) -> None:
        assert self.states.kept is not None
        assert self.states.kept.confirmed >= self.kept, "an older reader has written"
        self.kept = self.states.kept.confirmed
        assert self.postgres.flushed <= self.postgres.told <= self.states.kept.confirmed <= self.postgres.end

    def positions_of_a_life_are_in_order_and_only_rise(self) -> None:
        for pair in self.pairs:
            marks, counts = pair.reader.marks, pair.reader.mail.counts()
            assert list(marks) == sorted(marks, reverse=True), marks
            assert all(now >= before for now, before in zip(marks, pair.marks, strict=True)), (pair.marks, marks)
            for handle, (sealed, accepted) in counts.items():
                before = pair.counts.get(handle, (0, 0))
                assert before[0] <= sealed >= accepted >= before[1]
            pair.marks, pair.counts = marks, counts

    def what_is_confirmed_is_in_snowflake(self) -> None:
        """Or will be in a copy, under a snapshot that shows it."""
        assert self.states.kept is not None
        states = {state.oid: state for state in self.states.states.values()}
        for transaction in self.postgres.wal:
            if transaction.end > self.states.kept.confirmed:
                break
            for row in transaction.rows:
                state = states[row.table]
                phase = state.resume if state.phase is Phase.ERRORED else state.phase
                if phase in (Phase.INIT, Phase.DATASYNC) or row.place[0] < state.copy_lsn:
                    continue
                there = (row.table, state.generation)
                if row.sort in (GOOD, GONE):
                    assert row in self.snowflakes.landing.get(there, ()), row
                else:
                    assert row.place in self.snowflakes.dead.get(there, ()), row

    def rows_are_landed_once_and_in_order(self) -> None:
        for there, rows in self.snowflakes.landing.items():
            places, dead = [row.place for row in rows], self.snowflakes.dead.get(there, [])
            assert places == sorted(set(places))
            assert len(dead) == len(set(dead))
            assert not set(places) & set(dead)

    def targets_are_moved_forward_and_by_nobody_who_was_passed(self) -> None:
        self.taken = max([self.taken, *(pair.actor.epoch for pair in self.pairs)])
        for table in self.oids:
            generation, applied, epoch, _ = self.snowflakes.mark(table)
            before = self.fences[table]
            assert (generation, applied) >= before[:2]
            assert epoch >= before[2]
            self.fences[table] = self.snowflakes.mark(table)
            assert epoch >= self.taken, "an older reader may move it"

    def targets_are_what_the_source_was(self) -> None:
        for table in self.oids:
            _, applied, *_ = self.snowflakes.mark(table)
            if applied:
                assert self.snowflakes.shows(table) == self.postgres.shows(table, applied), table

    @invariant()
    def everything_holds(self) -> None:
        self.positions_are_in_order()
        self.positions_of_a_life_are_in_order_and_only_rise()
        self.what_is_confirmed_is_in_snowflake()
        self.rows_are_landed_once_and_in_order()
        self.targets_are_moved_forward_and_by_nobody_who_was_passed()
        self.targets_are_what_the_source_was()

    def is_shown(self, table: int) -> bool:
        """Its target is READY and shows what the source does."""
        state = self.states.states[SHAPES[table - 1].name]
        shown = self.snowflakes.shows(table) == self.postgres.shows(table, self.postgres.end)
        return shown and state.phase is Phase.READY and table not in self.asked

    def is_done(self) -> bool:
        """Every table is shown, and the source may forget all its WAL."""
        return all(map(self.is_shown, self.oids)) and self.postgres.told == self.postgres.end
