"""The model of the protocol: PostgreSQL, the state store, Snowflake, and pairs of a reader and an actor; hypothesis chooses what happens next.

A reader or an actor dies between any two steps, or is thought dead and goes on beside its successor. The world is in `protocol_model`, a reader in
`protocol_reader`, an actor in `protocol_actor`, and what must hold in `protocol_invariants`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from etl_supervisor.errors import EtlError
from etl_supervisor.ipc.messages import OpenTable
from etl_supervisor.model import names
from etl_supervisor.model.progress import Progress
from etl_supervisor.model.table_state import Phase, TableState
from tests.support.protocol_actor import Actor
from tests.support.protocol_invariants import Invariants, Pair
from tests.support.protocol_model import BEGINNING, GONE, GOOD, REFUSED, TOO_LARGE, Postgres, Snowflake, Store
from tests.support.protocol_reader import DESTINATION, PIPELINE, SHAPES, SOURCE, TABLES, Reader, World
from workers.reader import source as sources
from workers.reader.frontier import Frontier
from workers.reader.retired import Retired
from workers.reader.roster import StreamAgain
from workers.snowflake import owner
from workers.snowflake.channel import Channel

GENERATION = 7
OLDER_MAX = 2
tables = st.integers(1, TABLES)
few = st.integers(1, 4)
sorts = st.sampled_from([GOOD, GOOD, GOOD, GONE, TOO_LARGE, REFUSED])
transactions = st.lists(st.tuples(tables, few, sorts), min_size=1, max_size=5)
pairs = st.sampled_from([0, 0, 0, 1, 2])  # the newest, or an older one that goes on

STEPS = [
    *("reader reads", "reader hears", "reader acts", "reader saves", "reader confirms", "reader dies"),
    *("reader carries out what was asked", "reader has a table copied", "copy dies"),
    *("actor hears", "actor prepares", "actor opens", "actor asks by name"),
    *("actor rests", "actor dies", "Snowflake commits"),
]
EVENTS = [
    *("others_write", "a_keepalive_comes", "postgres_flushes_its_slot", "postgres_crashes"),
    *("a_reader_dies_with_a_new_epoch", "no_table_is_refused", "some_time_passes", "an_hour_passes"),
]


class Protocol(Invariants, RuleBasedStateMachine):
    """Pairs of a reader and an actor, two tables. Every rule is one step; a death may come between any two."""

    frontier: ClassVar[type[Frontier]] = Frontier
    channel: ClassVar[type[Channel]] = Channel
    store: ClassVar[type[Store]] = Store
    snowflake: ClassVar[type[Snowflake]] = Snowflake
    retired: ClassVar[type[Retired]] = Retired
    newer: ClassVar[Callable[..., Progress]] = staticmethod(sources.newer)
    take_over: ClassVar[Callable[..., None]] = staticmethod(owner.take_over)
    confirms_first: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        self.postgres, self.snowflakes = Postgres(), type(self).snowflake(DESTINATION, SHAPES)
        self.states = type(self).store()
        self.world = World(self.postgres, self.states, self.snowflakes)
        self.begin_tables()
        self.known: Progress | None = None  # what a successor has read, which has not begun
        self.asked: set[int] = set()
        self.kept = BEGINNING
        self.taken = 0  # the epoch of the newest reader of which a table was opened
        self.fences = {shape.oid: self.snowflakes.mark(shape.oid) for shape in SHAPES}
        self.older: list[Pair] = []
        self.pair: Pair | None = None
        self.begin_reader()

    def begin_tables(self) -> None:
        """Both have been followed for a while."""
        progress = self.states.kept = Progress("1", 1, SOURCE.slot, GENERATION, BEGINNING)
        for shape in SHAPES:
            state = TableState(shape.name, shape.oid, GENERATION, Phase.READY, BEGINNING, BEGINNING)
            self.states.states[shape.name] = state
            channel = names.stream_channel(PIPELINE.id, GENERATION)
            ours = (PIPELINE.id, PIPELINE.name, progress.owner, 0, GENERATION, channel, DESTINATION)
            opening = OpenTable(0, *ours, shape, "")
            self.snowflakes.begun(opening)

    # -- lives

    def begin_reader(self) -> None:
        """As `process.Reader` begins: the slot is taken, then the epoch, then the older one's last word counts."""
        known = self.known or self.states.progress(SOURCE.stream)
        self.known = None
        assert known is not None
        assert self.postgres.told <= known.confirmed, "the slot is taken for a lost one"
        self.take_walsender()
        epoch = self.states.next_epoch(SOURCE.stream)
        progress = type(self).newer(known, self.states.progress(SOURCE.stream), SOURCE)
        self.states.save_progress(SOURCE.stream, progress, epoch)
        if self.pair is not None:
            self.pair.reader.mail.stop()
        reader = Reader(self.world, progress, epoch, type(self).frontier, type(self).retired)
        self.pair = Pair(reader, type(self).channel, type(self).take_over)
        self.postgres.walsender = self.pair.reader

    def take_walsender(self) -> None:
        """Who had it reads what had come to it, and is not heard any more."""
        if isinstance(self.postgres.walsender, Reader):
            self.postgres.walsender.horizon = self.postgres.end
        self.postgres.walsender = None

    def of(self, who: int) -> Pair:
        """The newest pair, or an older one."""
        assert self.pair is not None
        return [self.pair, *self.older][min(who, len(self.older))]

    @contextlib.contextmanager
    def life(self, who: int) -> Iterator[Pair]:
        """A step of a reader, which may end its life: a newer one was found, or the stream is to begin again."""
        pair = self.of(who)
        try:
            yield pair
        except StreamAgain:
            self.ends(pair)
        except EtlError:
            if pair.reader.epoch >= self.states.newest:
                raise
            self.ends(pair)

    def ends(self, pair: Pair) -> None:
        """A reader dies; of the newest one there is soon another."""
        if pair is self.pair:
            self.begin_reader()
        else:
            self.older.remove(pair)
            pair.reader.mail.stop()

    @precondition(lambda self: self.known is None)
    @rule()
    def a_successor_looks(self) -> None:
        self.take_walsender()
        self.known = self.states.progress(SOURCE.stream)

    @precondition(lambda self: len(self.older) < OLDER_MAX)
    @rule(
        rows=transactions,
        before=st.sampled_from([0, 3, 5, 6, 9, 10, 10, 15, 15]),
        after=st.sampled_from([0, 4, 6, 17, 17]),
    )
    def a_successor_begins(self, rows: list[tuple[int, int, int]], before: int, after: int) -> None:
        """The older pair was thought dead in the middle of something, and goes on."""
        assert self.pair is not None
        self.postgres.commit(rows)
        for stage in self.way(0)[:before]:
            stage()
        self.older.insert(0, self.pair)
        self.pair = None
        self.begin_reader()
        self.postgres.commit(rows)
        for stage in self.way(0)[:after]:
            stage()

    def a_reader_dies_with_a_new_epoch(self) -> None:
        self.states.next_epoch(SOURCE.stream)

    # -- the whole way

    @rule(rows=transactions, stages=st.integers(1, 17))
    def everything_goes_on(self, rows: list[tuple[int, int, int]], stages: int) -> None:
        """A transaction commits, and goes so many stages of the way from the source to the target; the next one may find anything dead."""
        self.postgres.commit(rows)
        for stage in self.way(0)[:stages]:
            stage()

    @precondition(lambda self: self.older)
    @rule(who=st.integers(1, OLDER_MAX), first=st.integers(0, 15), stages=st.integers(1, 17))
    def an_older_pair_goes_on(self, who: int, first: int, stages: int) -> None:
        for stage in self.way(who)[first : first + stages]:
            stage()

    @rule(rows=transactions)
    def an_actor_dies_in_an_apply(self, rows: list[tuple[int, int, int]]) -> None:
        """Its block may run later, twice, or never; the next actor goes the whole way."""
        self.postgres.commit(rows)
        stages = self.way(0)
        for stage in [*stages[:15], *(lambda table=oid: self.actor_applies(0, table, dies=True) for oid in self.oids)]:
            stage()
        for stage in stages:
            stage()

    def way(self, who: int) -> list[Callable[[], Any]]:
        confirmed = [lambda: self.reader_saves(who), lambda: self.reader_confirms(who)]
        return [
            lambda: self.reader_reads(who, 8, 4),
            lambda: self.reader_acts(who),
            lambda: self.actor_hears(who, 100),
            lambda: [self.actor_prepares(who, table) for table in self.oids],
            lambda: [self.actor_opens(who, table) for table in self.oids],
            lambda: [self.actor_appends(who, table, 4, dies=False) for table in self.oids],
            lambda: [self.snowflakes.commit(table, 100) for table in self.oids],
            lambda: [self.actor_asks(who, table, by_name=False) for table in self.oids],
            lambda: [self.actor_sifts(who, table, dies=False) for table in self.oids],
            lambda: self.reader_hears(who, 100),
            *(reversed(confirmed) if self.confirms_first else confirmed),
            lambda: self.reader_has_a_table_copied(who, fails=False),
            lambda: self.reader_acts(who),
            lambda: self.actor_hears(who, 100),
            lambda: [self.actor_applies(who, table, dies=False) for table in self.oids],
            lambda: self.reader_hears(who, 100),
        ]

    @rule(who=pairs, step=st.sampled_from(STEPS), table=tables, count=few)
    def one_step(self, who: int, step: str, table: int, count: int) -> None:
        match step:
            case "reader reads":
                self.reader_reads(who, 2 * count, count)
            case "reader hears":
                self.reader_hears(who, count)
            case "reader dies":
                self.ends(self.of(who))
            case "copy dies":
                self.reader_has_a_table_copied(who, fails=True)
            case "actor hears":
                self.actor_hears(who, count)
            case "actor asks by name":
                self.actor_asks(who, table, by_name=True)
            case "actor dies":
                self.of(who).begin_actor()
            case "Snowflake commits":
                self.snowflakes.commit(table, count)
            case _:
                of_table = (table,) if step.startswith("actor") else ()
                getattr(self, step.replace(" ", "_"))(who, *of_table)

    @rule(event=st.sampled_from(EVENTS))
    def something_happens(self, event: str) -> None:
        getattr(self, event)()

    @rule(table=tables, event=st.sampled_from(["is_rewritten", "is_refused", "is_to_be_copied"]))
    def to_a_table(self, table: int, event: str) -> None:
        getattr(self, f"a_table_{event}")(table)

    # -- the source

    @rule(rows=transactions)
    def a_transaction_commits(self, rows: list[tuple[int, int, int]]) -> None:
        self.postgres.commit(rows)

    def others_write(self) -> None:
        self.postgres.end += 40

    def postgres_flushes_its_slot(self) -> None:
        self.postgres.flushed = self.postgres.told

    def postgres_crashes(self) -> None:
        self.take_walsender()
        self.postgres.crash()
        self.begin_reader()

    def a_table_is_rewritten(self, table: int) -> None:
        """By policy it is held until a person asks for its copy, or the reader begins again."""
        self.postgres.files[table] = self.postgres.files.get(table, 0) + 1
        assert self.pair is not None
        with self.life(0) as pair:
            pair.reader.roster.observe(self.postgres.storage(self.oids), self.postgres.end)

    # -- people and time

    def a_table_is_refused(self, table: int) -> None:
        self.world.refusing.add(table)

    def no_table_is_refused(self) -> None:
        self.world.refusing.clear()

    def some_time_passes(self) -> None:
        self.world.now += 10

    def an_hour_passes(self) -> None:
        self.world.now += 4000

    def a_table_is_to_be_copied(self, table: int) -> None:
        self.asked.add(table)

    def reader_carries_out_what_was_asked(self, who: int) -> None:
        for table in sorted(self.asked):
            with self.life(who) as pair:
                pair.reader.roster.resync(PIPELINE.name, SHAPES[table - 1].name)
                self.asked.remove(table)

    # -- the reader

    def reader_reads(self, who: int, rows: int, cuts: int) -> None:
        with self.life(who) as pair:
            if not pair.reader.mail.blocked:
                pair.reader.read(rows, cuts)

    def reader_hears(self, who: int, messages: int) -> None:
        said = self.of(who).actor.said
        for _ in range(min(messages, len(said))):
            with self.life(who) as pair:
                if pair.actor.said:
                    pair.reader.hear(pair.actor.said.popleft())

    def reader_acts(self, who: int) -> None:
        with self.life(who) as pair:
            pair.reader.act()

    def reader_has_a_table_copied(self, who: int, *, fails: bool = False) -> None:
        with self.life(who) as pair:
            pair.reader.copy(fails)

    def reader_saves(self, who: int) -> None:
        with self.life(who) as pair:
            pair.reader.save()

    def reader_confirms(self, who: int) -> None:
        reader = self.of(who).reader
        reader.tell(reader.frontier.durable if self.confirms_first else reader.progress.confirmed)

    def a_keepalive_comes(self, who: int = 0) -> None:
        self.of(who).reader.keepalive()

    # -- the actor

    def actor_hears(self, who: int, messages: int) -> None:
        pair = self.of(who)
        for _ in range(min(messages, len(pair.reader.sent))):
            pair.actor.hear(*pair.reader.sent.popleft())
        for desk in list(pair.actor.desks.values()):
            pair.actor.close(desk)

    def each(self, who: int, table: int, job: Callable[[Actor, Any], None]) -> None:
        for desk in self.of(who).actor.of(table):
            job(self.of(who).actor, desk)

    def actor_prepares(self, who: int, table: int) -> None:
        self.each(who, table, Actor.prepare)

    def actor_opens(self, who: int, table: int) -> None:
        self.each(who, table, Actor.open)

    @rule(who=pairs, table=tables, segments=few, dies=st.booleans())
    def actor_appends(self, who: int, table: int, segments: int, dies: bool) -> None:
        pair = self.of(who)
        for desk in pair.actor.of(table):
            if not pair.actor.append(desk, segments):
                continue
            if dies:
                pair.begin_actor()
                return
            pair.actor.appended(desk)

    def actor_asks(self, who: int, table: int, by_name: bool) -> None:
        actor = self.of(who).actor
        for desk in actor.of(table):
            actor.ask(desk, by_name)

    @rule(who=pairs, table=tables, dies=st.booleans())
    def actor_sifts(self, who: int, table: int, dies: bool) -> None:
        pair = self.of(who)
        for desk in pair.actor.of(table):
            if not pair.actor.sift(desk):
                continue
            if dies:
                pair.begin_actor()
                return
            pair.actor.sifted(desk)

    def actor_applies(self, who: int, table: int, dies: bool) -> None:
        """Who dies has begun a block, which may run later or never."""
        pair = self.of(who)
        self.snowflakes.breaks_off = dies
        try:
            for desk in pair.actor.of(table):
                pair.actor.apply(desk)
        except ConnectionError:
            pair.begin_actor()
        self.snowflakes.breaks_off = False

    def actor_rests(self, who: int, table: int) -> None:
        self.each(who, table, Actor.rest)

    # -- Snowflake

    @precondition(lambda self: self.snowflakes.running)
    @rule(number=st.integers(0, 9), again=st.booleans())
    def a_late_block_runs(self, number: int, again: bool) -> None:
        """Of an actor that is dead; a block may come twice."""
        running = self.snowflakes.running
        text = running[number % len(running)] if again else running.pop(number % len(running))
        self.snowflakes.block(text)

    # -- what must hold

    def teardown(self) -> None:
        """Once nothing dies any more, everything arrives: of the tables that Snowflake takes first, while the others are held; then of all."""
        try:
            self.begin_reader()
            for _ in range(2):
                taken = [table for table in self.oids if table not in self.world.refusing]
                self.settle(lambda taken=taken: all(map(self.is_shown, taken)))
                self.world.refusing.clear()
            self.settle(self.is_done)
        finally:
            for pair in filter(None, [self.pair, *self.older]):
                pair.reader.mail.stop()

    def settle(self, done: Callable[[], bool]) -> None:
        for _ in range(100):
            if done():
                return
            self.reader_carries_out_what_was_asked(0)
            for stage in self.way(0):
                stage()
            self.a_keepalive_comes(0)
            self.world.now += 100
            self.everything_holds()
        raise AssertionError("it hangs")
