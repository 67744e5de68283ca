"""What a reader tells of itself every second: to `status` by way of the state store, and as metrics."""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace

from etl_supervisor.errors import EtlError
from etl_supervisor.model.progress import SourceReport
from etl_supervisor.monitor import metrics
from etl_supervisor.state.store import StateStore
from workers.reader.intake import Intake
from workers.reader.watch import Facts


def tell(store: StateStore, stream: str, report: SourceReport, facts: Facts) -> SourceReport:
    """Write the report, with what was seen of the source. Best effort: `status` shows how old a report is."""
    told = replace(
        report,
        wal_end=max(report.received, facts.wal_end),
        reported_at=time.time(),
        wal_status=facts.slot.wal_status if facts.slot else "",
        safe_wal_bytes=facts.slot.safe_wal_bytes if facts.slot else None,
    )
    with contextlib.suppress(EtlError):
        store.save_report(stream, told)
    return told


def measure(stream: str, report: SourceReport, used_bytes: int, intake: Intake) -> None:
    """The same as metrics. `used_bytes` is shared memory in use."""
    metrics.source_report(stream, report, used_bytes)
    metrics.spool_report(stream, intake.spooled_bytes, intake.new_pieces())
