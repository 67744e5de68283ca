"""The WAL monitor: every WAL_MONITOR_INTERVAL_SECONDS, how much WAL each source keeps for us, and what people must know of it.

    round    a thread of its own reads which sources there are and gives each a thread: at most `AT_ONCE` of them, and connections, at a time
    source   connect, measure, hang up, within WAL_MONITOR_TIMEOUT_SECONDS; tried again WAL_MONITOR_MAX_RETRIES times with growing pauses
    write    in one transaction: the measurements, what is too old, the new state, the alerts that follow from it (`alerts.step`)

The configuration poll never waits for any of this. A source that is still being measured is not asked again; one that failed in the round before is
asked last and once, so that many dead servers do not hold up the others. A source that can't be measured keeps its state; the log says so once.

A slot that was there (the source has a row in app.wal_states) and is gone, while a pipeline of its source is started, is LOST, too.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import psycopg
import structlog
import tenacity

from etl_supervisor.errors import EtlError
from etl_supervisor.model.wal import Level, Outlook, SlotMeasure, SourceState, outlook
from etl_supervisor.monitor import logs
from etl_supervisor.monitor.alerts import MB, Alert, Thresholds, step, worst
from etl_supervisor.monitor.delivery import channels_of
from etl_supervisor.monitor.rounds import Rounds
from etl_supervisor.repository import wal as books
from etl_supervisor.repository.alerting import in_force
from etl_supervisor.repository.connection import connect, trouble
from etl_supervisor.repository.wal import Watched

if TYPE_CHECKING:
    from etl_supervisor.config.settings import Settings

AT_ONCE = 16  # connections to sources at a time; a dead server holds one for the time limit
PAUSE_SECONDS = 1.0  # before the first try again; doubled each time
PAUSE_SECONDS_MAX = 30.0

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class SourceWal:
    """The newest of a source: its slots with their outlooks, and how bad it is."""

    slots: tuple[tuple[SlotMeasure, Outlook], ...]
    level: Level
    measured_at: datetime


class WalMonitor:
    """Looks at every source again and again, in threads of its own. `newest` is by the source's name."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        seconds = settings.wal_monitor_interval_seconds
        self._rounds = Rounds("wal", seconds, "wal_not_measured", self.begin_round)
        self._places = threading.BoundedSemaphore(AT_ONCE)
        self._under_way: set[int] = set()
        self._failing: dict[int, str] = {}
        self.newest: dict[str, SourceWal] = {}

    def start(self) -> None:
        """Begin, with a look at once."""
        self._rounds.start()

    def close(self) -> None:
        """End; what hangs is left to the process's end."""
        self._rounds.close()

    def begin_round(self) -> None:
        """Have every source measured that is not being measured. EtlError(CONFIG_DATABASE)."""
        found = books.watched(self._settings)
        names = {item.source.name for item in found}
        self.newest = {name: wal for name, wal in self.newest.items() if name in names}
        for item in sorted(found, key=lambda item: item.source.id in self._failing):
            if item.source.id not in self._under_way and not self._rounds.ending.is_set():
                self._places.acquire()
                self._under_way.add(item.source.id)
                # Not a pool of concurrent.futures: a process's end would wait for its threads.
                threading.Thread(target=self._look, args=(item,), name="wal-source", daemon=True).start()

    def _look(self, item: Watched) -> None:
        source = item.source
        try:
            measures = self._measure(item)
            self._write(item, measures, datetime.now(UTC))
            self._failing.pop(source.id, None)
        except EtlError as error:
            if self._failing.get(source.id) != error.line:
                logs.error_line(log, "wal_not_measured", error)
            self._failing[source.id] = error.line
        except Exception:
            log.exception("wal_not_measured", source=source.name)
        finally:
            self._under_way.discard(source.id)
            self._places.release()

    def _measure(self, item: Watched) -> list[SlotMeasure]:
        settings, source = self._settings, item.source
        password = settings.keyring().decrypt(source.pg_password) if source.pg_password is not None else None
        tries = 1 if source.id in self._failing else 1 + settings.wal_monitor_max_retries
        again = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(tries) | tenacity.stop_when_event_set(self._rounds.ending),
            wait=tenacity.wait_random_exponential(PAUSE_SECONDS, PAUSE_SECONDS_MAX),
            retry=tenacity.retry_if_exception(lambda error: isinstance(error, EtlError) and error.transient),
            sleep=tenacity.sleep_using_event(self._rounds.ending),
            reraise=True,
        )
        # This package does not import workers: the one that knows the source is named.
        measure = importlib.import_module("workers.reader.measure").measure
        found: list[SlotMeasure] = again(measure, source, password, settings.wal_monitor_timeout_seconds)
        return found

    def _write(self, item: Watched, measures: list[SlotMeasure], now: datetime) -> None:
        source = item.source
        try:
            with connect(self._settings.config_dsn()) as connection:
                before = books.state(connection, source.id)
                found = []
                for measure in measures:
                    seen = outlook(measure, books.samples(connection, source.id, measure.slot), now.timestamp())
                    books.record(connection, source.id, measure, seen, now)
                    found.append((measure, seen))
                level = self._judge(connection, item, found, before, now)
                books.forget(connection, source.id, self._settings.wal_monitor_retention_days)
        except psycopg.Error as error:
            raise trouble(error) from None
        self.newest[source.name] = SourceWal(tuple(found), level, now)

    def _judge(
        self,
        connection: psycopg.Connection[Any],
        item: Watched,
        found: list[tuple[SlotMeasure, Outlook]],
        before: SourceState | None,
        now: datetime,
    ) -> Level:
        """The source's level; what follows from it is written and queued."""
        alerting = in_force(connection, self._settings)
        thresholds = Thresholds.between(alerting, item.warning_mb, item.danger_mb)
        bad = worst((measure for measure, _ in found), thresholds)
        level = Level.OK
        if bad is not None:
            level = thresholds.level_of(bad)
        elif before is not None and item.started:
            level = Level.LOST
        lasting = timedelta(minutes=alerting.time_check_notification)
        after, alert = step(before or SourceState(), level, now, lasting)
        wanted = bad is not None or (before is not None and item.started)
        books.save_state(connection, item.source.id, after if wanted else None)
        if alert is not None:
            told = body_of(item.source.name, alert, bad, thresholds, now)
            detail = detail_of(bad, (outlook for measure, outlook in found if measure is bad))
            books.enqueue(connection, channels_of(alerting), told, detail)
            log.warning("wal_alert", **{key: value for key, value in told.items() if key != "type"}, detail=detail)
        return level


def body_of(
    source: str, alert: Alert, bad: SlotMeasure | None, thresholds: Thresholds, now: datetime
) -> dict[str, Any]:
    """What a webhook gets. `duration_mins` is how long the state has lasted; of OK, how long the trouble had."""
    return {
        "type": "wal_alert",
        "source_name": source,
        "status": alert.level.value,
        "wal_size_mb": round(bad.retained_bytes / MB, 1) if bad is not None else 0.0,
        "threshold_mb": thresholds.of(alert.level),
        "duration_mins": round(alert.lasted.total_seconds() / 60, 1),
        "timestamp": now.isoformat(timespec="seconds"),
    }


def detail_of(bad: SlotMeasure | None, seen: Iterable[Outlook]) -> str:
    """The slot and where it goes, for people."""
    if bad is None:
        return "the slot is gone"
    if bad.lost:
        return f"slot {bad.slot} is lost: {bad.lost}"
    view = next(iter(seen))
    text = f"slot {bad.slot} ({bad.wal_status}) is {bad.lag_bytes / MB:.0f} MB behind"
    if view.dies_in_seconds is not None:
        text += f"; it dies in {view.dies_in_seconds / 60:.0f} min at this rate"
    return text
