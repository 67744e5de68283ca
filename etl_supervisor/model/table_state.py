"""The life of a table in one pipeline: states are a table of transitions, and all of them are durable.

INIT          known; its stream rows are landed from now on (route first, then snapshot)
DATASYNC      a copy worker is busy; a crash here means another copy under a new snapshot
FINISHEDCOPY  every row of the copy is durable in the landing table, at position copy_lsn - 1
CATCHUP       the target may be built once the stream is durable up to copy_lsn
READY         the target has been built and follows the stream
ERRORED       stopped with kind and reason; the other tables go on; a retry leads back to where it was
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from etl_supervisor.model.table import TableName


class Phase(StrEnum):
    """Where a table is in its life."""

    INIT = "INIT"
    DATASYNC = "DATASYNC"
    FINISHEDCOPY = "FINISHEDCOPY"
    CATCHUP = "CATCHUP"
    READY = "READY"
    ERRORED = "ERRORED"


TRANSITIONS: dict[Phase, frozenset[Phase]] = {
    Phase.INIT: frozenset({Phase.DATASYNC, Phase.ERRORED}),
    Phase.DATASYNC: frozenset({Phase.INIT, Phase.DATASYNC, Phase.FINISHEDCOPY, Phase.ERRORED}),
    Phase.FINISHEDCOPY: frozenset({Phase.CATCHUP, Phase.INIT, Phase.ERRORED}),
    Phase.CATCHUP: frozenset({Phase.READY, Phase.INIT, Phase.ERRORED}),
    Phase.READY: frozenset({Phase.INIT, Phase.ERRORED}),
    Phase.ERRORED: frozenset({Phase.INIT, Phase.DATASYNC, Phase.FINISHEDCOPY, Phase.CATCHUP, Phase.READY}),
}


@dataclass(frozen=True, slots=True)
class TableState:
    """What the state store keeps of one table in one pipeline.

    `copy_lsn` is the consistent point S of the finished copy (0 before), `copy_since` that of the oldest snapshot that a part of it was read under.
    `errors` is the baseline of Snowflake's error counter: refused rows up to it are accounted for.
    `dead` is how many rows the dead letter held when the last one came into it.
    `resume` is the phase that a retry of an ERRORED table goes back to.

    `shape` is the shape (as `ipc.wire` writes it) that rows have from the place `shape_at` on. `began` is the place where this generation began: rows
    before it are of an older one. A place is `<commit_lsn>-<lsn>` in hexadecimal, in text order. `storage` is where the rows were (`reader.storage`).
    `channels` is how many channels the stream has in this generation.
    `masks` is what its columns are masked by (`reader.masks`).
    `history` is the generation of the source in which it was followed last (0: not known).
    `kept` is the digest of what Snowflake keeps of this state, for a store that is lost.
    """

    table: TableName
    oid: int
    generation: int
    phase: Phase = Phase.INIT
    copy_lsn: int = 0
    copy_since: int = 0
    rows_copied: int = 0
    applied: int = 0
    errors: int = 0
    dead: int = 0
    attempts: int = 0
    trouble: str = ""
    resume: Phase = Phase.INIT
    shape: str = ""
    shape_at: str = ""
    began: str = ""
    storage: str = ""
    kept: str = ""
    channels: int = 1
    masks: str = ""
    history: int = 0

    @property
    def copied_from(self) -> int:
        """The lowest commit_lsn of a row of the copy; 0 before there is one."""
        return max(0, (self.copy_since or self.copy_lsn) - 1)

    def to(self, phase: Phase, **changes: object) -> TableState:
        """The next state. A transition that is missing from the table is a fault of ours."""
        if phase is not self.phase:
            assert phase in TRANSITIONS[self.phase], f"{self.table}: {self.phase} -> {phase}"
        return replace(self, phase=phase, **changes)  # type: ignore[arg-type]
