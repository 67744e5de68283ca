"""Streamed transactions (protocol 2) -> plain ones: what comes out is as if protocol 1 had been spoken.

    S xid … E   a piece of a transaction in progress ─► its spool        (every message inside has an xid of its own before its body)
    A xid sub   a sub-transaction was rolled back    ─► its frames will be left out; the transaction's own xid: the spool goes
    c xid …     it was committed                     ─► Begin, the spool's frames, Commit
    all else    ─► as it is, at once

Positions come out the same, because they are made of commit LSN, WAL start and the number of rows with the same WAL start, and none of these
depends on the way a transaction comes. A transaction in progress holds no confirmed position back: it will commit behind every position told until
then, and the slot sends it again from its beginning.

Relation messages are taken in the order of commits, like rows: a shape that a rolled-back sub-transaction made is never seen, and the server
sends shapes again after a roll-back.

Memory is bounded: beyond `memory_max` bytes the largest spool goes to disk. Disk is bounded by `disk_max` and by itself; then the stream ends with
an error (kind `spool`), and nothing is lost. A crash leaves nothing: spool files have no names.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from workers.reader.frame import BODY, KIND, Chunk, Octets, broken
from workers.reader.spool import Spool, no_room, unusable

_CONTROL = np.zeros(256, dtype=bool)
_CONTROL[list(b"SEcA")] = True
_ORIGIN = ord("O")  # the one message in a piece that has no xid; nothing here needs it
_START = struct.Struct("!IB")
_COMMIT = struct.Struct("!IBqqq")
_ABORT = struct.Struct("!II")
_PLAIN_BEGIN = struct.Struct("!cqqI")
_PLAIN_COMMIT = struct.Struct("!cBqqq")


@dataclass(slots=True)
class _InProgress:
    """A transaction that has begun to come."""

    spool: Spool
    aborted: list[int] = field(default_factory=list)


class Assembler:
    """The transactions in progress of one connection."""

    def __init__(self, memory_max: int, disk_max: int, directory: Path | None, place: str) -> None:
        self._memory_max, self._disk_max, self._directory, self._place = memory_max, disk_max, directory, place
        self._open: dict[int, _InProgress] = {}
        self._current: _InProgress | None = None
        self.pieces = 0  # how many have come

    @property
    def memory_bytes(self) -> int:
        """What spools hold in memory."""
        return sum(transaction.spool.memory_bytes for transaction in self._open.values())

    @property
    def disk_bytes(self) -> int:
        """What spools hold on disk."""
        return sum(transaction.spool.disk_bytes for transaction in self._open.values())

    def take(self, chunk: Chunk) -> Iterator[Chunk]:
        """Plain frames, as far as they are there: to be used up before the next chunk is given."""
        control = np.flatnonzero(_CONTROL[chunk.kinds])
        if not len(control) and self._current is None:
            yield chunk
            return
        at = 0
        for place in [*control.tolist(), len(chunk)]:
            if place > at:
                yield from self._keep(chunk.part(at, place))
            if place < len(chunk):
                yield from self._control(bytes(chunk.data[int(chunk.start[place]) : int(chunk.end[place])]))
            at = place + 1

    def close(self) -> None:
        """Forget every transaction in progress."""
        for transaction in self._open.values():
            transaction.spool.close()
        self._open.clear()

    def _keep(self, part: Chunk) -> Iterator[Chunk]:
        if self._current is None:
            yield part
            return
        kinds = part.kinds
        self._current.spool.add(part.pick(kinds != _ORIGIN) if bool((kinds == _ORIGIN).any()) else part)
        if self.memory_bytes > self._memory_max:
            self._spill()

    def _spill(self) -> None:
        largest = max(self._open.values(), key=lambda transaction: transaction.spool.memory_bytes)
        try:
            largest.spool.spill()
        except OSError as error:
            raise unusable(error, self._directory, self._place) from None
        if self.disk_bytes > self._disk_max:
            reason = f"more than {self._disk_max >> 20} MiB of transactions in progress (SPOOL_DISK_MB)"
            raise no_room(self._place, reason, "raise SPOOL_DISK_MB")

    # -- control messages

    def _control(self, frame: bytes) -> Iterator[Chunk]:
        try:
            yield from self._obey(frame)
        except struct.error:
            raise broken("StreamStart, StreamCommit or StreamAbort", "length") from None

    def _obey(self, frame: bytes) -> Iterator[Chunk]:
        kind, body = frame[KIND : KIND + 1], frame[BODY:]
        if (kind == b"E") != (self._current is not None):
            raise broken("StreamStart, StreamStop, StreamCommit or StreamAbort", "order")
        match kind:
            case b"S":
                self._begin(*_START.unpack(body))
            case b"E":
                if body:
                    raise broken("StreamStop", "length")
                self._current = None
            case b"A":
                self._abort(*_ABORT.unpack(body))
            case _:
                yield from self._commit(frame[:KIND], *_COMMIT.unpack(body))

    def _begin(self, xid: int, first: int) -> None:
        """Of every transaction all pieces must come, each once."""
        if bool(first) == (xid in self._open):
            raise broken("StreamStart", "first segment")
        self._current = self._open.setdefault(xid, _InProgress(Spool(self._directory)))
        self.pieces += 1

    def _abort(self, xid: int, subxid: int) -> None:
        """Of a transaction of which nothing has come there is nothing to forget."""
        if xid != subxid:
            if xid in self._open:
                self._open[xid].aborted.append(subxid)
        elif (transaction := self._open.pop(xid, None)) is not None:
            transaction.spool.close()

    def _commit(
        self, header: bytes, xid: int, flags: int, commit_lsn: int, end_lsn: int, clock: int
    ) -> Iterator[Chunk]:
        transaction = self._open.pop(xid, None)
        if transaction is None:
            raise broken("StreamCommit", "xid")
        yield Chunk.of([header + _PLAIN_BEGIN.pack(b"B", commit_lsn, clock, xid)])
        try:
            for part in transaction.spool.parts():
                kept = _without(part, transaction.aborted)
                if len(kept):
                    yield kept
        except OSError as error:
            raise unusable(error, self._directory, self._place) from None
        finally:
            transaction.spool.close()
        yield Chunk.of([header + _PLAIN_COMMIT.pack(b"C", flags, commit_lsn, end_lsn, clock)])


def _without(part: Chunk, aborted: list[int]) -> Chunk:
    """The frames whose xid was not rolled back."""
    sizes = part.end - part.start
    if bool((sizes < BODY + 4).any()):
        raise broken("a message of a streamed transaction", "xid")
    if not aborted:
        return part
    at, octets = part.start + BODY, part.octets
    xid = np.zeros(len(part), dtype=np.int64)
    for offset in range(4):
        byte: Octets = octets[at + offset]
        xid = (xid << 8) | byte
    return part.pick(~np.isin(xid, aborted))
