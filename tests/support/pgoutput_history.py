"""A history of transactions, and the frames that a walsender makes of it: whole transactions at their commit (protocol 1), or the same with
some of them streamed in blocks while they are open (protocol 2).

Both forms of one history must give the same rows. As in pgoutput, a Relation message goes before the first change of a table's shape on a
connection; what a streamed transaction has sent counts for that transaction alone until it commits, and not at all after an abort in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.support import pgoutput_frames as pg
from tests.support.pgoutput_frames import TableOf, Value

FIRST_LSN, FIRST_XID = 0x1_0000, 700


@dataclass(frozen=True)
class Change:
    """A row message to be: `kind` is I(nsert), U(pdate), D(elete) or T(runcate); `mark` tells what `old` is (K key, O row)."""

    xid: int
    subxid: int
    lsn: int
    kind: str
    tables: tuple[TableOf, ...]
    new: tuple[Value, ...] = ()
    old: tuple[Value, ...] | None = None
    mark: str = "K"

    def message(self, xid: int | None) -> bytes:
        """The message; `xid` for one inside a block."""
        oids = [table.oid for table in self.tables]
        match self.kind:
            case "I":
                return pg.insert(oids[0], self.new, xid)
            case "U":
                return pg.update(oids[0], self.new, self.old, self.mark, xid)
            case "D":
                assert self.old is not None
                return pg.delete(oids[0], self.old, self.mark, xid)
            case _:
                return pg.truncate(oids, 0, xid)


@dataclass(frozen=True)
class Commit:
    """A transaction's end."""

    xid: int
    commit_lsn: int
    end_lsn: int
    time: int


@dataclass(frozen=True)
class Abort:
    """Subtransactions that are rolled back, the inner ones first; with the transaction's own id the whole of it."""

    xid: int
    subxids: tuple[int, ...]
    lsn: int


@dataclass(frozen=True)
class Stream:
    """The moment at which a server that is short of memory sends what an open transaction has done so far."""

    xid: int
    lsn: int


@dataclass
class _Session:
    xid: int
    savepoints: list[list[int]] = field(default_factory=list)  # the ids of each, with those released into it
    subxids: list[int] = field(default_factory=list)


class History:
    """What sessions did, in the order of the WAL."""

    def __init__(self) -> None:
        self.events: list[Change | Commit | Abort | Stream] = []
        self._lsn, self._xid = FIRST_LSN, FIRST_XID
        self._sessions: dict[int, _Session] = {}

    def __repr__(self) -> str:
        return "\n".join(map(repr, self.events))

    def open_sessions(self) -> list[int]:
        """Sessions with an open transaction."""
        return list(self._sessions)

    def change(
        self,
        session: int,
        kind: str,
        tables: Sequence[TableOf],
        new: Sequence[Value] = (),
        old: Sequence[Value] | None = None,
        mark: str = "K",
    ) -> None:
        """A change of the session's transaction, which begins with it if none is open."""
        now = self._of(session)
        subxid = self._subxid(now)
        before = tuple(old) if old is not None else None
        self.events.append(Change(now.xid, subxid, self._next(), kind, tuple(tables), tuple(new), before, mark))

    def inserts(self, session: int, table: TableOf, rows: Sequence[Sequence[Value]]) -> None:
        """Rows of one WAL record, as COPY writes them."""
        now = self._of(session)
        subxid, lsn = self._subxid(now), self._next()
        self.events += [Change(now.xid, subxid, lsn, "I", (table,), tuple(row)) for row in rows]

    def savepoint(self, session: int) -> None:
        self._of(session).savepoints.append([])

    def release(self, session: int) -> None:
        """What the newest savepoint did belongs to the one around it."""
        now = self._of(session)
        if now.savepoints:
            ids = now.savepoints.pop()
            if now.savepoints:
                now.savepoints[-1] += ids

    def roll_back_to_savepoint(self, session: int) -> None:
        now = self._of(session)
        ids = now.savepoints.pop() if now.savepoints else []
        if ids:
            self.events.append(Abort(now.xid, tuple(reversed(ids)), self._next()))
            now.subxids = [subxid for subxid in now.subxids if subxid not in ids]

    def roll_back(self, session: int) -> None:
        now = self._of(session)
        self.events.append(Abort(now.xid, (*reversed(now.subxids), now.xid), self._next()))
        del self._sessions[session]

    def commit(self, session: int) -> None:
        now = self._of(session)
        lsn = self._next()
        self.events.append(Commit(now.xid, lsn, lsn + 0x30, time=len(self.events) * 1_000_003))
        self._lsn = lsn + 0x30
        del self._sessions[session]

    def stream(self, session: int) -> None:
        if session in self._sessions:
            self.events.append(Stream(self._sessions[session].xid, self._lsn))

    def _of(self, session: int) -> _Session:
        if session not in self._sessions:
            self._sessions[session] = _Session(self._new_xid())
        return self._sessions[session]

    def _subxid(self, now: _Session) -> int:
        """The id under which a change is written; an outer savepoint has an older id than an inner one."""
        for ids in now.savepoints:
            if not ids:
                ids.append(self._new_xid())
                now.subxids.append(ids[0])
        return now.savepoints[-1][0] if now.savepoints else now.xid

    def _new_xid(self) -> int:
        self._xid += 1
        return self._xid

    def _next(self) -> int:
        self._lsn += 0x28
        return self._lsn


def frames(history: History, *, streamed: bool = False) -> list[bytes]:
    """The frames of the whole history. With `streamed`, its Stream events count."""
    sender = _Walsender()
    for event in history.events:
        match event:
            case Change():
                sender.pending.setdefault(event.xid, []).append(event)
            case Commit():
                sender.commit(event)
            case Abort():
                sender.abort(event)
            case Stream() if streamed:
                sender.stream(event.xid, event.lsn)
    return sender.frames


class _Walsender:
    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.pending: dict[int, list[Change]] = {}  # by transaction: what is not sent yet
        self.sent: dict[int, TableOf] = {}  # by relation: the shape that the other side knows
        self.streamed: dict[int, dict[int, TableOf]] = {}  # by streamed transaction: what it alone has sent
        self.streamed_subxids: set[int] = set()

    def commit(self, event: Commit) -> None:
        if event.xid in self.streamed:
            self.stream(event.xid, event.commit_lsn)
            self.emit(event.end_lsn, pg.stream_commit(event.xid, event.commit_lsn, event.end_lsn, event.time))
            self.sent.update(self.streamed.pop(event.xid))
            return
        changes = self.pending.pop(event.xid, [])
        start = changes[0].lsn if changes else event.commit_lsn
        self.emit(start, pg.begin(event.commit_lsn, event.time, event.xid))
        self.changes(changes, self.sent, inside=False)
        self.emit(event.end_lsn, pg.commit(event.commit_lsn, event.end_lsn, event.time))

    def abort(self, event: Abort) -> None:
        for subxid in event.subxids:
            if subxid in self.streamed_subxids or (subxid == event.xid and event.xid in self.streamed):
                self.emit(event.lsn, pg.stream_abort(event.xid, subxid))
                self.streamed[event.xid].clear()
        left = [change for change in self.pending.pop(event.xid, []) if change.subxid not in event.subxids]
        if event.xid in event.subxids:
            self.streamed.pop(event.xid, None)
        elif left:
            self.pending[event.xid] = left

    def stream(self, xid: int, lsn: int) -> None:
        """One block of what has come since the last."""
        changes = self.pending.pop(xid, [])
        if not changes:
            return
        self.emit(lsn, pg.stream_start(xid, first=xid not in self.streamed))
        self.changes(changes, self.streamed.setdefault(xid, {}), inside=True)
        self.streamed_subxids.update(change.subxid for change in changes)
        self.emit(lsn, pg.stream_stop())

    def changes(self, changes: list[Change], sent: dict[int, TableOf], *, inside: bool) -> None:
        for change in changes:
            xid = change.subxid if inside else None
            for table in change.tables:
                if sent.get(table.oid) != table:
                    sent[table.oid] = table
                    self.emit(change.lsn, pg.relation(table, xid))
            self.emit(change.lsn, change.message(xid))

    def emit(self, start: int, message: bytes) -> None:
        self.frames.append(pg.frame(start, message))
