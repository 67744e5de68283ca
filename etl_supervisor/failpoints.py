"""Named places where a crash matters. In production each is one dictionary look-up that finds nothing.

    ETL_FAILPOINTS="reader.before_save=kill@3,reader.after_seal=cut"    the 3rd visit kills this process with SIGKILL; `cut` breaks
                                                                       the connection that the place is about
    ETL_FAILPOINTS="poison.encode=poison:TEXT"                         a batch with this text in a column is a segmentation fault, every time;
                                                                       `hoard:TEXT` asks for more memory than there is, `fill:TEXT` uses
                                                                       memory until the kernel kills
    ETL_FAILPOINTS_LOG=/path/log                                       a line per landed kill or cut, written before it

A failpoint fires once per log file: a restarted process whose line is there already passes, so that a test sees one crash and
the recovery from it. Every name stands in `NAMES` with what a crash there leaves; the chaos tests visit each.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any, Protocol

NAMES: dict[str, str] = {
    "reader.after_seal": "frames of a batch are decoded, nothing handed over: the slot sends them again",
    "reader.after_publish": "segments are with the actors: resent by the new reader, filtered against the channel's token",
    "reader.before_save": "rows durable, state not written: resent from the old position, filtered",
    "reader.after_save": "state written, PostgreSQL not told: START_REPLICATION with our position skips what is durable",
    "reader.after_confirm": "PostgreSQL told: nothing is in flight",
    "parking.after_slot_copy": "a pipeline's slot is made, its position is not written: the position is taken from the slot",
    "parking.after_join": "a parked position is forgotten, its slot is there: the pipeline is parked again, at what the slot was told",
    "parking.after_leave": "a slot of an older generation is dropped, its position is known: it leaves again",
    "removal.after_tables": "a deleted pipeline's tables are forgotten, its slots are there: cleaned up again, or asked for in Snowflake",
    "removal.after_slots": "its slots are dropped, their positions are known: cleaned up again, or the slot counts as lost",
    "supervisor.after_desired": "readers are known and not started: the next supervisor reads the configuration itself",
    "supervisor.after_spawn": "a child has just been forked: the kernel ends it with its parent",
    "supervisor.after_reap": "a dead child is reaped and not replaced: the next supervisor starts all of them",
    "copy.after_snapshot": "snapshot exported, no row sent: the copy goes on under a new one",
    "copy.mid_rows": "part of a range landed: it is read again at a later position, which overrides it",
    "copy.after_range": "a range is durable and written down: the next copy goes on with the others",
    "copy.before_finish": "copy durable, not written down: the last range is read again, of the others what has changed",
    "actor.after_open": "channel opened (old owner fenced), reader not told: opened again by the next incarnation",
    "poison.encode": "a row kills whoever encodes it: found by halves, and brought to the dead letter",
    "poison.upload": "a row kills whoever uploads its file: found by rehearsals, the file that was planned is made again without it",
    "actor.before_append": "segment in the actor, not in the SDK: the reader sends it again",
    "actor.after_append": "rows in the SDK's buffer: lost with it, sent again",
    "actor.before_durable": "rows committed, reader not told: sent again, filtered by the committed token",
    "shards.between_appends": "one of a table's channels has its part of a segment, another not: looked up in the landing table",
    "files.after_plan": "a file is planned, not uploaded: made again of the same rows, under the same name",
    "files.after_upload": "a file is on the stage, no loader was told: offered again",
    "files.after_offer": "a loader was told of a file, nothing noted: offered again, which loads it once",
    "files.after_load": "a file is loaded, its token not noted: found loaded",
    "files.after_note": "the token is noted, the file still on the stage: removed with the channel's folder",
    "dead_letter.before_write": "a row that can't be loaded is found, nothing written: found again when it is sent again",
    "dead_letter.after_write": "the dead row is written, its token not passed: written again, which does nothing",
    "actor.before_apply": "durable, target behind: the next Apply covers it",
    "rotation.before_commit": "a secret is encrypted anew, not committed: it stays under the key before, and the next rotation takes it",
    "actor.after_apply": "target moved, reader not told: the fence has moved, the block does nothing when it comes again",
}


POISONS = ("poison:", "hoard:", "fill:")
HOARD_BYTES = 1 << 60  # beyond every address space
FILL_BYTES, FILL_BYTES_MAX = 16 << 20, 4 << 30  # at a time; a machine without a limit on us is left alone


class _Plan:
    """The failpoints armed in this process: name -> visits that are left before it fires, and what it does then."""

    def __init__(self, text: str) -> None:
        self.left: dict[str, int] = {}
        self.cuts: set[str] = set()
        self.poison: dict[str, tuple[str, str]] = {}  # name -> what it does, and the text that it looks for
        for item in filter(None, (part.strip() for part in text.split(","))):
            name, _, action = item.partition("=")
            verb, _, visit = action.partition("@")
            if name in NAMES and action.startswith(POISONS):
                kind, _, sought = action.partition(":")
                self.poison[name] = kind, sought
                continue
            if name not in NAMES or verb not in ("kill", "cut"):
                raise ValueError(
                    f"unknown failpoint {item!r}; known: {', '.join(sorted(NAMES))}; action: kill[@N], cut[@N], poison:TEXT, hoard:TEXT, fill:TEXT"
                )
            self.left[name] = int(visit or "1")
            self.cuts |= {name} if verb == "cut" else set()


_plan = _Plan(os.environ.get("ETL_FAILPOINTS", ""))


def failpoint(name: str, cut: Callable[[], None] | None = None) -> None:
    """Die here (or break a connection by `cut`) if this place is armed and its count is reached."""
    if name not in _plan.left:
        assert name in NAMES, name
        return
    _plan.left[name] -= 1
    if _plan.left[name] != 0 or _has_fired(name):
        return
    _record(name)
    if name not in _plan.cuts:
        os.kill(os.getpid(), signal.SIGKILL)
    elif cut is not None:
        cut()


class Batch(Protocol):
    """Rows with columns (pyarrow's, which is not imported here)."""

    columns: list[Any]


def poison(name: str, rows: Batch) -> None:
    """Die as of a fault in a library (or fail for want of memory), if this place is armed and its text is a value of the rows."""
    if name not in _plan.poison:
        assert name in NAMES, name
        return
    kind, sought = _plan.poison[name]
    if any(sought in column.to_pylist() for column in rows.columns):
        _record(name)
        if kind == "hoard":
            bytearray(HOARD_BYTES)
        if kind == "fill":
            _held = [b"\1" * FILL_BYTES + bytes([part & 255]) for part in range(FILL_BYTES_MAX // FILL_BYTES)]
        signal.raise_signal(signal.SIGSEGV)  # in this thread, at once; a kill lets others go on for a moment


def _has_fired(name: str) -> bool:
    path = os.environ.get("ETL_FAILPOINTS_LOG")
    if not path or not os.path.exists(path):
        return False
    with open(path) as log:
        return any(line.split(" ")[0] == name for line in log)


def _record(name: str) -> None:
    path = os.environ.get("ETL_FAILPOINTS_LOG")
    if path:
        with open(path, "a") as log:
            log.write(f"{name} {os.getpid()}\n")
