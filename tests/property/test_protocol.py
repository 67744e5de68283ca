"""Nothing is confirmed that is not durable, nothing is landed twice, and nothing is lost, whatever dies when."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, ClassVar

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from etl_supervisor.ipc.messages import Accepted, Durable, Segment
from tests.support import protocol_model as model
from tests.support.protocol_model import GOOD, REFUSED, TOO_LARGE, Desk, Postgres, Reader, Snowflake
from workers.reader.frontier import Frontier
from workers.snowflake.channel import Channel, ChannelStatus, Underway

TABLES = 2
tables = st.integers(0, TABLES - 1)
few = st.integers(1, 4)


class Protocol(RuleBasedStateMachine):
    """One reader, one actor, two tables. Every rule is one step; a crash may come between any two."""

    frontier: ClassVar[Callable[[int], Frontier]] = Frontier
    channel: ClassVar[type[Channel]] = Channel
    confirms_first: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        self.postgres = Postgres()
        self.snowflakes = [Snowflake() for _ in range(TABLES)]
        self.stored = self.postgres.told
        self.stored_errors: dict[int, int] = {}
        self.begin_reader()

    @rule(stages=st.integers(1, 9))
    def everything_goes_on(self, stages: int) -> None:
        """So many stages of the way from the source to the confirmation; the next one may find anything dead."""
        way: list[Callable[[], Any]] = [
            lambda: self.reader_reads(8, 4),
            lambda: self.actor_hears(100),
            lambda: [self.actor_opens(table) for table in range(TABLES)],
            lambda: [self.actor_appends(table, 4, dies=False) for table in range(TABLES)],
            lambda: [self.snowflake_commits(table, 100) for table in range(TABLES)],
            lambda: [self.actor_asks(table) for table in range(TABLES)],
            lambda: [self.actor_sifts(table, dies=False) for table in range(TABLES)],
            lambda: self.reader_hears(100),
            self.reader_saves,
        ]
        for stage in way[:stages]:
            stage()

    # -- lives

    def begin_reader(self) -> None:
        """Its first look at the slot, and handles of its own: the actor's desks for the older ones end with the connection."""
        begin = max(self.stored, self.postgres.told)
        self.reader = Reader(begin, self.stored_errors, TABLES, type(self).frontier)
        self.batches: list[dict[int, pa.RecordBatch]] = [{} for _ in range(TABLES)]
        self.begin_actor()

    def begin_actor(self) -> None:
        """New desks; the reader sends again what is not durable. What was in the mailboxes is gone."""
        self.to_reader: deque[Accepted | Durable] = deque()
        self.to_actor: deque[Segment] = deque()
        self.desks = []
        for handle in self.reader.handles.values():
            self.desks.append(Desk(type(self).channel(errors=handle.errors)))
            self.to_actor += handle.in_flight

    # -- the source

    @rule(
        rows=st.lists(
            st.tuples(tables, st.sampled_from([GOOD, GOOD, GOOD, TOO_LARGE, REFUSED])), min_size=1, max_size=5
        )
    )
    def a_transaction_commits(self, rows: list[tuple[int, int]]) -> None:
        self.postgres.commit(rows)

    @rule()
    def others_write(self) -> None:
        self.postgres.end += 40

    @rule()
    def postgres_flushes_its_slot(self) -> None:
        self.postgres.flushed = self.postgres.told

    @rule()
    def postgres_crashes(self) -> None:
        self.postgres.crash()
        self.begin_reader()

    # -- the reader

    @rule(rows=st.integers(1, 8), cuts=few)
    def reader_reads(self, rows: int, cuts: int) -> None:
        for segment, batch in self.reader.sealed(self.reader.read(self.postgres.wal, rows), cuts):
            self.batches[segment.handle][segment.seq] = batch
            self.to_actor.append(segment)

    @rule(messages=few)
    def reader_hears(self, messages: int) -> None:
        for _ in range(min(messages, len(self.to_reader))):
            message = self.to_reader.popleft()
            if isinstance(message, Durable):
                self.stored_errors[message.handle] = message.errors
            self.reader.note(message)

    @rule()
    def reader_hears_and_dies_before_the_books_are_right(self) -> None:
        message = self.to_reader.popleft() if self.to_reader else None
        if isinstance(message, Durable):
            self.stored_errors[message.handle] = message.errors
        self.begin_reader()

    @rule()
    def reader_saves(self) -> None:
        self.stored = max(self.stored, self.reader.frontier.durable)

    @rule()
    def reader_confirms(self) -> None:
        position = self.reader.frontier.durable if self.confirms_first else self.stored
        self.postgres.told = max(self.postgres.told, position)

    @precondition(lambda self: self.caught_up())
    @rule()
    def a_keepalive_comes(self) -> None:
        self.reader.frontier.idle(self.postgres.end)

    @rule()
    def reader_dies(self) -> None:
        self.begin_reader()

    # -- the actor

    @rule(segments=few)
    def actor_hears(self, segments: int) -> None:
        for _ in range(min(segments, len(self.to_actor))):
            segment = self.to_actor.popleft()
            self.desks[segment.handle].channel.waiting.append((segment, None))

    @rule(table=tables)
    def actor_opens(self, table: int) -> None:
        desk = self.desks[table]
        if not desk.is_open:
            desk.channel.opened(self.snowflakes[table].open(), desk.channel.baseline)
            desk.is_open = True

    @rule(table=tables, segments=few, dies=st.booleans())
    def actor_appends(self, table: int, segments: int, dies: bool) -> None:
        desk = self.desks[table]
        if not desk.is_open or not desk.channel.waiting:
            return
        model.append(desk, table, self.snowflakes[table], self.batches[table], segments)
        if dies:
            self.begin_actor()
            return
        self.to_reader.append(Accepted(table, desk.channel.accepted_seq))
        if desk.suspicion is None:
            status = ChannelStatus(desk.channel.committed, desk.channel.errors, valid=True)
            self.tell(model.come_through(desk, status))

    @rule(table=tables)
    def actor_asks(self, table: int) -> None:
        desk = self.desks[table]
        if desk.is_open and desk.channel.undurable and desk.suspicion is None:
            self.tell(model.come_through(desk, self.snowflakes[table].status()))

    @rule(table=tables, dies=st.booleans())
    def actor_sifts(self, table: int, dies: bool) -> None:
        desk = self.desks[table]
        if desk.suspicion is not None:
            word = model.sift(desk, table, self.snowflakes[table], self.batches[table])
            if dies:
                self.begin_actor()
            else:
                self.tell(word)

    @rule(table=tables)
    def actor_rests(self, table: int) -> None:
        desk = self.desks[table]
        if desk.is_open and desk.channel.idle:
            desk.channel.rest()
            desk.is_open = False

    @rule()
    def actor_dies(self) -> None:
        self.begin_actor()

    def tell(self, word: Durable | None) -> None:
        if word is not None:
            self.to_reader.append(word)

    # -- Snowflake

    @rule(table=tables, appends=few)
    def snowflake_commits(self, table: int, appends: int) -> None:
        self.snowflakes[table].commit(appends)

    # -- what must hold

    def caught_up(self) -> bool:
        read = all(transaction.end <= self.reader.received for transaction in self.postgres.wal)
        return read and not self.reader.frontier.in_flight

    @invariant()
    def positions_are_in_order(self) -> None:
        assert self.postgres.flushed <= self.postgres.told <= self.stored <= self.postgres.end

    @invariant()
    def what_is_confirmed_is_in_snowflake(self) -> None:
        for transaction in self.postgres.wal:
            if transaction.end <= self.stored:
                for row in transaction.rows:
                    snowflake = self.snowflakes[row.table]
                    assert row.place in (snowflake.landing if row.sort == GOOD else snowflake.dead), row

    @invariant()
    def rows_are_landed_once_and_in_order(self) -> None:
        for snowflake in self.snowflakes:
            assert snowflake.landing == sorted(set(snowflake.landing))
            assert len(snowflake.dead) == len(set(snowflake.dead))
            assert not set(snowflake.landing) & set(snowflake.dead)

    def teardown(self) -> None:
        """Once nothing dies any more, everything arrives and is confirmed."""
        for _ in range(100):
            if self.caught_up() and not self.to_reader:
                break
            self.everything_goes_on(9)
        assert self.caught_up(), "it hangs"
        self.a_keepalive_comes()
        self.reader_saves()
        self.reader_confirms()
        assert self.postgres.told == self.postgres.end
        self.positions_are_in_order()
        self.what_is_confirmed_is_in_snowflake()
        self.rows_are_landed_once_and_in_order()


EXAMPLES = settings(max_examples=300, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck))
FIRST = settings(EXAMPLES, max_examples=5000, phases=[Phase.generate], database=None)  # not the smallest one


def test_nothing_is_lost_or_doubled_whatever_dies_when() -> None:
    run_state_machine_as_test(Protocol, settings=EXAMPLES)


class Hasty(Frontier):
    """Takes what was decoded for durable."""

    @property
    def durable(self) -> int:
        return self.decoded


class Forgetful(Channel):
    """Does not ask what an earlier life left behind."""

    def opened(self, status: ChannelStatus, known: int) -> None:
        super().opened(status, status.errors)


class Trusting(Channel):
    """Never looks for refused rows."""

    def suspicious(self, items: list[Underway], errors: int) -> bool:
        return False


class Unfiltered(Channel):
    """Sends again what Snowflake has."""

    @property
    def reached(self) -> str:
        return self.appended or ""


@pytest.mark.parametrize(
    "hole",
    [
        {"frontier": Hasty},
        {"channel": Forgetful},
        {"channel": Trusting},
        {"channel": Unfiltered},
        {"confirms_first": True},
    ],
    ids=[
        "confirmed before it is durable",
        "an earlier life's refusals",
        "refused rows",
        "rows that were committed",
        "confirmed before it is saved",
    ],
)
def test_a_protocol_with_a_hole_is_caught(hole: dict[str, Any]) -> None:
    broken = type("Broken", (Protocol,), hole)
    with pytest.raises(AssertionError):
        run_state_machine_as_test(broken, settings=FIRST)
