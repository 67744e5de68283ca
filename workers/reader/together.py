"""When the tables of a pipeline become visible together, and how far (`consistency: transaction`).

Every table has a fence of its own: a transaction's end below which all its rows are durable. The lowest of them is the pipeline's: one block
moves all tables there (`workers/snowflake/together.py`), at the actor that the pipeline's id names. So the targets show the source at that position.

    READY                     takes part; nothing is shown without it
    CATCHUP                   joins as soon as the pipeline's fence has reached its copy, with its first window in the same block
    INIT, DATASYNC            not shown before, it is left out until then. Shown before (it is copied again), the others wait for it: its target
                              is what it was, and theirs must not leave it behind
    ERRORED, held, not open   the others wait for it

What waits is durable in the change logs; nothing is lost by it, and `status` says why. A block that fails is tried again with growing pauses, for
ever.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from etl_supervisor.errors import EtlError
from etl_supervisor.ipc.messages import AppliedTogether, ApplyTogether, Part
from etl_supervisor.model.pipeline import Pipeline
from etl_supervisor.model.progress import Visible
from etl_supervisor.model.table_state import Phase
from etl_supervisor.monitor import logs
from workers.reader.follower import Follower

TABLES_MAX = 1000  # of one pipeline: each has a line in the block's compare-and-set, and a statement holds 1 MB
RETRY_SECONDS_MAX = 60.0  # an outage is noticed to be over within a minute

log = structlog.get_logger()

Standing = tuple[Follower, int]  # a table, and its own fence


@dataclass(frozen=True, slots=True)
class Plan:
    """How far the tables can be moved, which of them, and why none can ("": they can)."""

    fence: int = 0
    joined: tuple[Follower, ...] = ()
    waits: str = ""

    @property
    def joins(self) -> bool:
        """Whether a table is shown for the first time in its generation."""
        return any(follower.state.phase is Phase.CATCHUP for follower in self.joined)

    @property
    def moves(self) -> bool:
        """Whether there may be rows to show."""
        return any(follower.unapplied and self.fence > follower.applied for follower in self.joined)


def plan(standing: Sequence[Standing]) -> Plan:
    """What can be shown of a pipeline now."""
    for follower, _ in standing:
        if reason := _blocked(follower):
            return Plan(waits=f"table {follower.table.name} {reason}")
    whole = [item for item in standing if item[0].phase is Phase.READY or _copied(*item)]
    fence = min((fence for _, fence in whole), default=0)
    joined = tuple(follower for follower, _ in whole if follower.phase is Phase.READY or _copied(follower, fence))
    for follower, _ in standing:
        if follower.shown and follower not in joined:
            return Plan(waits=f"table {follower.table.name} is copied again")
    if len(joined) > TABLES_MAX:
        reason = f"{len(joined)} tables are more than the {TABLES_MAX} that one statement can move"
        return Plan(waits=f"{reason}: cut the pipeline into several, or set its consistency to table")
    if not joined or fence < max(follower.applied for follower in joined):
        return Plan()
    return Plan(fence, joined)


def _blocked(follower: Follower) -> str:
    """Why nothing can be shown as long as this table is as it is."""
    if follower.held or follower.state.phase is Phase.ERRORED:
        return f"is stopped: {follower.state.trouble}"
    return "" if follower.open else f"is being opened{f': {t}' if (t := follower.state.trouble) else ''}"


def _copied(follower: Follower, fence: int) -> bool:
    return follower.phase is Phase.CATCHUP and fence >= follower.state.copy_lsn


@dataclass(slots=True)
class _Pipeline:
    """One pipeline, and the block that is under way for it. Times are seconds of the monotonic clock."""

    pipeline: Pipeline
    asked: tuple[int, ...] = ()  # handles
    asked_at: float = 0.0
    apply_at: float = 0.0
    due_at: float = float("inf")
    failures: int = 0
    visible: int = 0
    waits: str = ""

    def wait(self, reason: str) -> None:
        """Note why nothing moves; told once."""
        if reason and reason != self.waits:
            log.info("pipeline_waits", pipeline=self.pipeline.name, reason=reason)
        self.waits = reason

    def applied(self, fence: int, now: float) -> None:
        """The block is done: the next one comes no sooner than it took."""
        policy, took = self.pipeline.policy, now - self.asked_at
        self.asked, self.failures, self.visible, self.waits = (), 0, fence, ""
        self.apply_at = now + min(policy.interval_seconds_max, max(policy.interval_seconds_min, took))

    def failed(self, now: float) -> None:
        """It did nothing: another comes after a pause."""
        self.asked = ()
        first = self.pipeline.table_error_retry_delay_ms / 1000
        self.apply_at = now + min(RETRY_SECONDS_MAX, first * 2 ** min(self.failures, 10))
        self.failures += 1


@dataclass(slots=True)
class Together:
    """The pipelines of a source that want it."""

    pipelines: Iterable[Pipeline]
    owner: str
    epoch: int
    _known: dict[int, _Pipeline] = field(init=False)

    def __post_init__(self) -> None:
        self._known = {item.id: _Pipeline(item) for item in self.pipelines if item.policy.together}

    def due(self, tables: Iterable[Standing], now: float) -> list[ApplyTogether]:
        """The blocks that are to be asked for now; `tables` are all of the source."""
        if not self._known:
            return []
        standing: dict[int, list[Standing]] = {}
        for follower, fence in tables:
            standing.setdefault(follower.pipeline.id, []).append((follower, fence))
        found = (
            self._look(item, plan(standing.get(number, ())), now)
            for number, item in self._known.items()
            if not item.asked
        )
        return [message for message in found if message is not None]

    def _look(self, item: _Pipeline, found: Plan, now: float) -> ApplyTogether | None:
        if found.waits or not item.failures:
            item.wait(found.waits)
        item.due_at = float("inf")
        if not found.joins and not found.moves:
            return None
        if now < item.apply_at and (item.failures or not found.joins):
            item.due_at = item.apply_at
            return None
        item.asked, item.asked_at = tuple(follower.handle for follower in found.joined), now
        line, parts = item.pipeline, tuple(_part(follower) for follower in found.joined)
        return ApplyTogether(line.id, line.name, self.owner, self.epoch, line.destination, found.fence, parts)

    def received(
        self, answer: AppliedTogether, followers: Mapping[int, Follower], now: float
    ) -> list[tuple[Follower, bool]]:
        """The outcome of a block; the tables that it has moved, and whether they have become READY with it."""
        item = self._known[answer.pipeline_id]
        if answer.reason:
            error = EtlError(answer.kind, answer.place, answer.reason, answer.remedy)
            logs.error_line(log.bind(pipeline=item.pipeline.name, retry=True), "pipeline_not_applied", error)
            item.failed(now)
            item.waits = error.line
            return []
        moved = [followers[handle] for handle in item.asked if handle in followers]
        item.applied(answer.fence, now)
        return [(follower, follower.applied_to(answer.fence, now)) for follower in moved]

    def due_at(self) -> float:
        """When `act` may have something to do by time alone."""
        return min((item.due_at for item in self._known.values()), default=float("inf"))

    @property
    def visible(self) -> tuple[Visible, ...]:
        """How far each pipeline is shown, for `status`."""
        return tuple(Visible(item.pipeline.name, item.visible, item.waits) for item in self._known.values())


def _part(follower: Follower) -> Part:
    copied = follower.state.copied_from
    return Part(follower.table.name, follower.state.generation, copied, follower.unapplied)
