"""What goes to an actor of a handle on trial. The memory is real; what is told is kept in a list, or comes over a real mailbox."""

from __future__ import annotations

import os
import selectors
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest

from etl_supervisor.exits import Exit
from etl_supervisor.ipc import arrow, mailbox
from etl_supervisor.ipc.messages import Begun, OpenTable, ReshapeTable, Segment, ToActor
from etl_supervisor.model.burial import Bury
from etl_supervisor.model.pipeline import Destination, Load, LoadPath
from etl_supervisor.model.table import Column, Table, TableName
from etl_supervisor.model.types import ValueKind, ValueType
from etl_supervisor.supervision.shortage import Shortage
from etl_supervisor.supervision.spec import ChildKind, ChildSpec
from workers.reader.outlets import Handle, Sending, accuse
from workers.reader.pieces import position
from workers.reader.publisher import Publisher
from workers.reader.shelf import Memory, Shelf
from workers.reader.trial import POISON_KILLS

TABLE = Table(TableName("public", "items"), 1, (Column("id", ValueType(ValueKind.INT32), key=True),))
THERE = Destination(1, "there", "snowflake", "A", "U", "DB", "S", None, None, "key", None, None, "L", 1.0)
ROWS = 4  # of a segment


def batch(first: int) -> pa.RecordBatch:
    rows = [
        {"_etl_op": "I", "_etl_commit_lsn": n, "_etl_lsn": n, "_etl_index": 0, "id": n}
        for n in range(first, first + ROWS)
    ]
    return pa.RecordBatch.from_pylist(rows, schema=arrow.change_log_schema(TABLE))


@dataclass
class Court:
    """A handle whose actor dies of some rows: `deadly`, by (seq, row)."""

    handle: Handle
    sending: Sending
    told: list[ToActor]
    deadly: set[tuple[int, int]] = field(default_factory=set)

    def rehearse(self) -> tuple[int, list[tuple[int, int]]]:
        """The whole trial: how many actors died, and which rows were buried."""
        deaths, buried = 0, []
        self.sending.again(self.handle, [])
        while self.handle.trial is not None:
            piece = self.told[-1]
            assert isinstance(piece, Segment)
            assert piece.trial
            assert piece.rehearse
            assert self.handle.trial is not None
            self.handle.trial.begun = True
            rows = [(piece.seq, row) for row in range(piece.start, piece.start + piece.rows)]
            if piece.bury is Bury.NO and self.deadly & set(rows):
                deaths += 1
                accuse([self.handle])
                self.sending.again(self.handle, [])
                continue
            buried += rows if piece.bury is not Bury.NO else []
            self.told.clear()
            self.sending.tried(self.handle)
        return deaths, buried


@pytest.fixture
def court() -> Iterator[Court]:
    shelf, told = Shelf(4 << 20), []
    load = Load(LoadPath.SNOWPIPE)
    handle = Handle(OpenTable(1, 1, "pipe", "sys/slot", 1, 100, "channel", THERE, TABLE, "", load=load), 0)

    def tell(_: int, message: ToActor, __: Memory | None) -> None:
        told.append(message)

    for seq in (1, 2, 3):
        rows = batch(seq * 10)
        memory = shelf.put(rows, arrow.ipc_size(rows))
        assert memory is not None
        assert memory.run is not None
        tokens = position(rows, 0, 100).token, position(rows, -1, 100).token
        segment = Segment(1, seq, memory.run.slot, memory.run.generation, memory.length, ROWS, *tokens, 1)
        handle.in_flight.append((segment, memory))
    handle.seq = handle.begun = 3
    assert accuse([handle]) == [handle]
    yield Court(handle, Sending(shelf, tell), told)
    shelf.close()


def test_rehearsed_segments_go_out_again_whole_and_apart_without_the_rows_that_are_buried(court: Court) -> None:
    court.deadly = {(1, 0), (3, 2)}
    deaths, buried = court.rehearse()
    assert buried == [(1, 0), (3, 2)]
    assert 0 < deaths <= 2 * 4
    sent = [message for message in court.told if isinstance(message, Segment)]
    assert [(s.seq, s.start, s.rows, s.left_out) for s in sent] == [(1, 0, 4, (0,)), (2, 0, 4, ()), (3, 0, 4, (2,))]
    assert all(s.apart and not s.trial and not s.rehearse for s in sent), "it may be several together that kill"
    assert not court.handle.suspect, "nothing of it is in hand any more"


def test_a_later_trial_does_not_forget_which_rows_are_in_the_dead_letter(court: Court) -> None:
    court.deadly = {(2, 1)}
    court.rehearse()
    court.handle.begun = 3
    assert accuse([court.handle]) == [court.handle]
    court.deadly = {(2, 3)}
    assert court.rehearse()[1] == [(2, 3)]
    assert [message.left_out for message in court.told if isinstance(message, Segment)] == [(), (1, 3), ()]


def test_rows_of_a_later_shape_are_not_rehearsed_before_the_others_are_loaded(court: Court) -> None:
    segment, memory = court.handle.in_flight[2]
    changed = Table(TABLE.name, TABLE.oid, TABLE.columns, version=2)
    court.handle.in_flight[2] = replace(segment, version=2), memory
    court.handle.reshapes.append(ReshapeTable(1, changed, segment.first))
    court.deadly = {(3, 0)}
    assert court.rehearse() == (0, [])
    kinds = [(type(message).__name__, getattr(message, "seq", 0)) for message in court.told]
    assert kinds == [("Segment", 1), ("Segment", 2), ("ReshapeTable", 0), ("Segment", 3)]


def test_a_trial_that_has_begun_as_a_rehearsal_stays_one_whatever_channel_is_opened_next(court: Court) -> None:
    court.deadly = {(1, 3)}
    court.sending.again(court.handle, [])
    court.sending.tried(court.handle)  # the first segment: it has not killed this time
    court.handle.opening = replace(court.handle.opening, load=Load(LoadPath.STREAMING))
    court.sending.again(court.handle, [])
    piece = court.told[-1]
    assert isinstance(piece, Segment)
    assert piece.rehearse, "a later piece that was loaded would let the token pass the first"


@dataclass
class Deaths:
    """A real publisher, and one address at which actors come and go. `shortage` has the supervisor's word for each end."""

    publisher: Publisher
    listener: socket.socket
    shortage: Shortage
    actor: mailbox.Connection | None = None

    def begun(self) -> Segment:
        """The piece that a fresh actor gets; it has begun with it."""
        self.actor = mailbox.accept(self.listener)
        assert self.actor is not None, "the publisher is connected"
        while (found := self.actor.receive()) is not None:
            message, descriptors = found
            for descriptor in descriptors:
                os.close(descriptor)
            if isinstance(message, Segment):
                self.actor.send(Begun(message.handle, message.seq))
                return message
        raise AssertionError("nothing was sent")

    def ends(self, code: int, **child: object) -> None:
        """It ends so; the publisher hears it of the supervisor."""
        assert self.actor is not None
        self.actor.close()
        spec = ChildSpec("actor-0", ChildKind.ACTOR, "m:f", actor=0)
        dead = SimpleNamespace(**{"spec": spec, "stopping": False, "kill_at": float("inf"), **child})
        memory = self.shortage.took(code)
        self.publisher.actor_ended(self.shortage.word_of_end(dead, code, memory=memory))


@pytest.fixture
def deaths(tmp_path: Path) -> Iterator[Deaths]:
    listener, selector = mailbox.listen(), selectors.DefaultSelector()
    publisher = Publisher("reader-test", 1, [mailbox.address(listener)], 4 << 20, selector)
    publisher.connect()
    publisher.open(OpenTable(1, 1, "pipe", "sys/slot", 1, 100, "channel", THERE, TABLE, ""))
    publisher.publish([1], batch(10), 1)
    it = Deaths(publisher, listener, Shortage(tmp_path / "nobody counts"))
    yield it
    publisher.stop()
    if it.actor is not None:
        it.actor.close()
    listener.close()
    selector.close()


FROM_OUTSIDE = {
    "SIGKILL": (-signal.SIGKILL, {}),
    "SIGTERM": (-signal.SIGTERM, {}),
    "silent, so we abort it": (-signal.SIGABRT, {"kill_at": 5.0}),
    "drained, and crashed over it": (-signal.SIGSEGV, {"stopping": True}),
    "an error of no name": (Exit.UNEXPECTED, {}),
}


@pytest.mark.parametrize(("code", "child"), FROM_OUTSIDE.values(), ids=FROM_OUTSIDE)
def test_a_row_on_trial_does_not_answer_for_deaths_from_outside(
    deaths: Deaths, code: int, child: dict[str, object]
) -> None:
    assert not deaths.begun().trial
    for rows in (ROWS, 2, 1):
        deaths.ends(-signal.SIGSEGV)
        piece = deaths.begun()
        assert (piece.trial, piece.start, piece.rows) == (True, 0, rows)
        for _ in range(POISON_KILLS + 1):
            deaths.ends(code, **child)
            assert deaths.begun() == piece, "the same once more: not cut, not buried"
    for kills in range(1, POISON_KILLS + 1):
        deaths.ends(-signal.SIGSEGV)
        assert deaths.begun().bury is (Bury.WHOLE if kills == POISON_KILLS else Bury.NO), "no kill was counted before"
