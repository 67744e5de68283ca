"""The actor of the model of the protocol: the product's own modules, without threads and the network.

    Channel, unsent         which rows are sent, and what is durable
    own, take_over, apply   with their SQL (`workers.snowflake.owner`, `apply`)

What `workers.snowflake.process`, `desk` and `loading` do around them is written here once more, in the same order, one step at a time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.ipc.messages import (
    Accepted,
    Applied,
    Apply,
    CloseTable,
    Durable,
    Failed,
    OpenTable,
    Segment,
    TableClosed,
    TableOpened,
    ToActor,
    ToPublisher,
)
from tests.support.protocol_model import TOO_LARGE, Place, kept, rows_of, token
from tests.support.protocol_reader import DESTINATION, World
from workers.snowflake import apply as applying
from workers.snowflake import owner
from workers.snowflake.channel import Channel, ChannelStatus, Underway, unsent
from workers.snowflake.identifiers import objects_of
from workers.snowflake.owner import Watermark


@dataclass
class Desk:
    """One handle at the actor: what `workers.snowflake.desk` keeps."""

    opening: OpenTable
    channel: Channel
    prepared: bool = False
    dead: bool = False
    owner: int | None = None  # of the channel, when it is open
    watermark: Watermark | None = None
    fence: int = 0
    copied: int = 0
    closing: bool | None = None
    batches: dict[int, pa.RecordBatch] = field(default_factory=dict)
    suspicion: tuple[list[Underway], int, str] | None = None


class Actor:
    """One life of an actor, for one reader. Its words go into `said`."""

    def __init__(self, world: World, channel: type[Channel], take_over: Callable[..., None]) -> None:
        self.world, self._channel, self._take_over = world, channel, take_over
        self.epoch = 0  # of the reader of which a table was opened
        self.desks: dict[int, Desk] = {}
        self.said: deque[ToPublisher] = deque()

    def of(self, table: int) -> list[Desk]:
        """The desks of a table that work."""
        return [desk for desk in self.desks.values() if desk.opening.table.oid == table and not desk.dead]

    def hear(self, message: ToActor, batch: pa.RecordBatch | None) -> None:
        """A word from the reader, as `Process._take` has it."""
        if isinstance(message, OpenTable):
            self.desks[message.handle] = Desk(message, self._channel(errors=message.errors))
            return
        desk = self.desks.get(getattr(message, "handle", 0))
        match message:
            case Segment() if desk is not None and not desk.dead:
                assert batch is not None
                desk.channel.waiting.append((message, None))
                desk.batches[message.seq] = batch
            case Apply() if desk is not None:
                desk.fence, desk.copied = max(desk.fence, message.fence), message.copied
            case CloseTable() if desk is not None:
                desk.closing = message.drop
            case _:
                pass

    def _refused(self, desk: Desk) -> bool:
        """Snowflake gives an error for everything that is done for this table: the desk's life ends."""
        if desk.opening.table.oid not in self.world.refusing:
            return False
        self._fail(desk, EtlError(Kind.CHANNEL, "a table", "Snowflake refuses", "", transient=True))
        return True

    def _fail(self, desk: Desk, error: EtlError) -> None:
        desk.dead = True
        self.said.append(Failed(desk.opening.handle, "job", error.kind, error.place, error.reason, "", error.transient))

    def prepare(self, desk: Desk) -> None:
        """Look after the table, as `ddl.ensure` has it: its watermark is ours, and no older reader moves any of the pipeline's."""
        if desk.prepared or self._refused(desk):
            return
        cursor: Any = self.world.snowflake
        opening = desk.opening
        try:
            mark, _ = owner.own(cursor, opening, objects_of(DESTINATION, opening.table), "a table")
        except EtlError as error:
            self._fail(desk, error)
            return
        if mark.epoch < opening.epoch:
            self._take_over(cursor, opening, objects_of(DESTINATION, opening.table))
        self.epoch = opening.epoch
        desk.prepared, desk.watermark = True, mark
        books = desk.channel
        self.said.append(TableOpened(opening.handle, 0, books.committed, None, books.errors, mark.applied, mark.shown))

    def open(self, desk: Desk) -> None:
        """The channel, for rows that wait."""
        if desk.prepared and desk.owner is None and desk.channel.waiting and not self._refused(desk):
            desk.owner, status = self.world.snowflake.open(desk.opening)
            desk.channel.opened(status, desk.channel.baseline)

    def append(self, desk: Desk, segments: int) -> bool:
        """One append job, as `Loading.append` has it; whether there was one. `appended` follows, unless the actor dies between."""
        if desk.owner is None or not desk.channel.waiting or self._refused(desk):
            return False
        channel, opening = desk.channel, desk.opening
        reached, handed, tokens = channel.reached, channel.handed or "", []
        for segment, _ in list(channel.waiting)[:segments]:
            rows = rows_of(opening.table.oid, unsent(desk.batches[segment.seq], reached, opening.generation))
            self.world.snowflake.bury(opening, [row.place for row in rows if row.sort == TOO_LARGE])
            rest = [row for row in rows if row.sort != TOO_LARGE]
            if rest:
                self.world.snowflake.append(opening, desk.owner, rest, segment.last)
                handed = segment.last
            reached = max(reached, segment.last)
            tokens.append(handed)
        for handed in tokens:
            channel.took(handed)
        return True

    def appended(self, desk: Desk) -> None:
        """The result of the job, as `Process._appended` has it."""
        self.said.append(Accepted(desk.opening.handle, desk.channel.accepted_seq))
        if desk.suspicion is None:  # wholly filtered or dead: through already
            self._come_through(desk, ChannelStatus(desk.channel.committed, desk.channel.errors, valid=True))

    def ask(self, desk: Desk, by_name: bool) -> None:
        """What is committed: by the SDK, or `by_name` of the channel (`inquiry`), whoever has it now."""
        if desk.owner is None or not desk.channel.undurable or desk.suspicion is not None or self._refused(desk):
            return
        status = self.world.snowflake.status(desk.opening, None if by_name else desk.owner)
        if status.valid:
            self._come_through(desk, status)
        else:
            self._fail(desk, EtlError(Kind.CHANNEL, "a table", "the channel is not valid any more", "", transient=True))

    def _come_through(self, desk: Desk, status: ChannelStatus) -> None:
        """As `Process._come_through` has it."""
        items = desk.channel.told(status.committed)
        if items and desk.channel.suspicious(items, status.errors):
            desk.suspicion = (items, status.errors, desk.channel.doubt)
        elif items:
            desk.channel.settled(items)
            self._tell_durable(desk)

    def sift(self, desk: Desk) -> bool:
        """Refused rows are found and buried, as `Loading.sift` has it; whether there was a job. `sifted` follows, unless the actor dies between."""
        if desk.suspicion is None or self._refused(desk):
            return False
        self.world.snowflake.bury(desk.opening, self._refusals(desk))
        return True

    def _refusals(self, desk: Desk) -> list[Place]:
        assert desk.suspicion is not None
        landed = {row.place for row in self.world.snowflake.landing.get(kept(desk.opening), ())}
        items, oid = desk.suspicion[0], desk.opening.table.oid
        rows = [row for item in items for row in rows_of(oid, desk.batches[item.segment.seq])]
        return [row.place for row in rows if row.sort != TOO_LARGE and row.place not in landed]

    def sifted(self, desk: Desk) -> None:
        """As `Process._sifted` has it."""
        assert desk.suspicion is not None
        (items, errors, doubt), refused = desk.suspicion, self._refusals(desk)
        within = sum(token(desk.opening.generation, place) <= doubt for place in refused)
        desk.suspicion = None
        desk.channel.sifted(items, len(refused) - within, errors)
        self._tell_durable(desk)

    def _tell_durable(self, desk: Desk) -> None:
        books = desk.channel
        self.said.append(Durable(desk.opening.handle, books.durable_seq, books.committed, books.baseline))

    def apply(self, desk: Desk) -> None:
        """One apply block; ConnectionError when the actor dies while it runs."""
        if not desk.prepared or not desk.fence or self._refused(desk):
            return
        assert desk.watermark is not None
        fence, desk.fence = desk.fence, 0
        desk.watermark = applying.apply(self.world.snowflake, desk.opening, desk.watermark, fence, desk.copied)
        self.said.append(Applied(desk.opening.handle, desk.watermark.applied))

    def rest(self, desk: Desk) -> None:
        """Do without the channel until the next row."""
        if desk.owner is not None and desk.channel.idle:
            desk.channel.rest()
            desk.owner = None

    def close(self, desk: Desk) -> None:
        """The orderly end of a handle, once nothing is under way."""
        if desk.closing is not None and (desk.dead or desk.channel.idle):
            if desk.closing and desk.owner is not None and not desk.dead:
                self.world.snowflake.drop(desk.opening, desk.owner)
            del self.desks[desk.opening.handle]
            self.said.append(TableClosed(desk.opening.handle))
