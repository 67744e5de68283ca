"""How far a source has come, and the rule that orders it:

    received >= accepted >= durable >= confirmed          each only rises within a life of the reader

`received`   the end of the last frame read from the walsender
`accepted`   everything at or before it is in the SDK's hands (may still be lost)
`durable`    everything at or before it is committed in Snowflake, at every destination
`confirmed`  the state store has said `durable`, and PostgreSQL has been told
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from etl_supervisor.model import names


@dataclass(frozen=True, slots=True)
class Progress:
    """What the state store keeps of a source. LSNs are ints.

    `forked_at` is where the present timeline began, as long as it is not proven that nothing of the lost one was landed (0: proven).
    `former` is who owned the tables before this slot was made in another cluster ("": nobody else): they are taken over from it.
    `stuck_at` is where a pipeline broke that was parked for it (0: it was paused).
    """

    system_identifier: str
    timeline: int
    slot: str
    generation: int
    confirmed: int
    forked_at: int = 0
    former: str = ""
    stuck_at: int = 0

    @property
    def owner(self) -> str:
        """Whose rows the landing tables hold: one source's slot of one cluster, for a parked pipeline too."""
        return f"{self.system_identifier}/{names.shared_slot(self.slot)}"

    def advanced(self, confirmed: int) -> Progress:
        """The same, confirmed further. Going back is a fault of ours."""
        assert confirmed >= self.confirmed, (confirmed, self.confirmed)
        return replace(self, confirmed=confirmed)


@dataclass(frozen=True, slots=True)
class Visible:
    """How far a pipeline with `consistency: transaction` is shown (0: not moved yet by this reader), and what it waits for ("": nothing)."""

    pipeline: str
    lsn: int
    waits: str


@dataclass(frozen=True, slots=True)
class SourceReport:
    """What `status` shows of a source: a snapshot the reader writes every second or so.

    LSNs are ints; `lag_bytes` is the source's WAL end minus confirmed; `lag_seconds` the age of the oldest change that is not
    durable (0 when there is none); `trouble` the line of the last error, empty when all is well. `wal_status` of the slot is reserved, extended,
    unreserved or lost; `safe_wal_bytes` may be written until it is lost (None: PostgreSQL sets no limit). `breakers`: destination -> closed, open or
    half_open.
    """

    state: str
    received: int = 0
    accepted: int = 0
    durable: int = 0
    confirmed: int = 0
    wal_end: int = 0
    lag_seconds: float = 0.0
    rows: int = 0
    trouble: str = ""
    reported_at: float = 0.0
    wal_status: str = ""
    safe_wal_bytes: int | None = None
    together: tuple[Visible, ...] = ()
    breakers: dict[str, str] = field(default_factory=dict)

    @property
    def lag_bytes(self) -> int:
        """How much WAL the source holds back for us."""
        return max(0, self.wal_end - self.confirmed)
