"""The monitor child: does what waits on networks, so that the parent never does.

    start    migrations (retried until the config database answers), metrics endpoint
    poll     every PIPELINE_POLL_INTERVAL_SECS (and on SIGHUP): what should run? `Desired` goes to the parent when it has changed;
             how the children are goes to the config database, for the API
    beside   the WAL monitor, the delivery of its alerts, the leases and the meter, in threads of their own, once the migrations have run

A pipeline that was deleted is cleaned up when its reader has been told so long ago that it has ended, or was killed.
A poll that fails sends nothing, so it changes nothing; it is logged once, not at every poll. A row that is wrong leaves its pipeline out and says so.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import os
import selectors
import signal
import threading
import time

import structlog

from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.exits import Exit
from etl_supervisor.ipc.messages import Desired, Leased, Ready, Supervised
from etl_supervisor.monitor import logs, metrics
from etl_supervisor.monitor.collectors import SupervisedCollector, WalCollector
from etl_supervisor.monitor.delivery import Delivery
from etl_supervisor.monitor.leases import Leases
from etl_supervisor.monitor.meter import Meter
from etl_supervisor.monitor.silence import Parent
from etl_supervisor.monitor.wal import WalMonitor
from etl_supervisor.repository.desired import Loaded, load
from etl_supervisor.repository.newest import bring_up
from etl_supervisor.repository.removed import Removed, done, due
from etl_supervisor.repository.report import save
from etl_supervisor.state.choose import open_store
from etl_supervisor.state.streams import arrange
from etl_supervisor.supervision.signals import SignalInbox
from etl_supervisor.supervision.spawn import ChildContext

WAIT_SECONDS_MAX = 1.0  # the heartbeat's pace
KILL_SECONDS_MAX = 10.0  # from the end of a reader's grace until the supervisor has killed it
REPORTS_MISSED_MAX = 3  # a report of the children comes at every poll; when so many are missed, `/ready` says so

log = structlog.get_logger()


def main(context: ChildContext) -> int:
    """Entry point of the monitor process; returns the exit code."""
    monitor = Monitor(context)
    monitor.run()
    return Exit.OK


class Monitor:
    """The poll, the metrics endpoint, and what was said last."""

    def __init__(self, context: ChildContext) -> None:
        self._context = context
        self._settings = context.settings
        self._supervised = SupervisedCollector()
        self._wal = WalMonitor(self._settings)
        self._delivery = Delivery(self._settings, metrics.alert_tried)
        self._meter = Meter(self._settings)
        self._sending = threading.Lock()
        self._leases = Leases(self._settings, self._tell, Parent(os.getppid(), context.parent_heartbeat))
        self._serving = False
        self._migrated = False
        self._store = open_store(self._settings, metrics.redis_operation)
        self._loaded: Loaded | None = None
        self._told: Desired | None = None
        self._said: frozenset[str] = frozenset()
        self._without: dict[
            int, float
        ] = {}  # deleted pipelines that are due -> since when the parent knows that they are gone
        self._next_poll = 0.0
        self._news = False
        self._stopping = False

    def run(self) -> None:
        """Until SIGTERM."""
        inbox = SignalInbox((signal.SIGTERM, signal.SIGHUP))
        with selectors.DefaultSelector() as selector:
            selector.register(inbox, selectors.EVENT_READ)
            selector.register(self._context.parent, selectors.EVENT_READ)
            self._serve()
            self._tell(Ready())
            while not self._stopping:
                self._context.heartbeat.beat()
                if time.monotonic() >= self._next_poll:
                    self._poll()
                elif self._news and self._migrated:
                    self._report()
                selector.select(max(0.0, min(WAIT_SECONDS_MAX, self._next_poll - time.monotonic())))
                self._take(inbox.take())
                self._hear()
            self._hear()
        inbox.close()
        self._leases.close(give_up=self._at_rest)
        self._wal.close()
        self._delivery.close()
        self._meter.close()

    @property
    def _at_rest(self) -> bool:
        """Whether it is known that no child moves rows."""
        children = self._supervised.told.children
        return bool(children) and not any(c.running for c in children if c.name.startswith(("reader-", "copy-")))

    def _tell(self, message: Desired | Leased | Ready) -> None:
        """To the parent, from any thread."""
        with self._sending:
            self._context.parent.send(message)

    def _take(self, signals: list[signal.Signals]) -> None:
        self._stopping |= signal.SIGTERM in signals
        if signal.SIGHUP in signals:
            self._next_poll = 0.0

    def _hear(self) -> None:
        while (found := self._context.parent.receive()) is not None:
            if isinstance(found[0], Supervised):
                self._supervised.told = found[0]
                self._news = True

    def _report(self) -> None:
        """How the children are, for the API's `/ready`. One that can't be written is missed there; the poll says why."""
        self._news = False
        if not self._supervised.told.children:
            return  # nothing is known yet: no child in trouble would be good news
        if self._leases.standby:
            return  # the other one's children are those that matter
        good_seconds = REPORTS_MISSED_MAX * self._settings.pipeline_poll_interval_secs
        with contextlib.suppress(EtlError):
            save(self._settings, self._supervised.told, good_seconds)

    def _poll(self) -> None:
        self._next_poll = time.monotonic() + self._settings.pipeline_poll_interval_secs
        try:
            if not self._migrated:
                bring_up(self._settings)
                self._migrated = True
                self._delivery.start()
                self._meter.start()
                if self._settings.wal_monitor_enabled:
                    self._wal.start()
            removed = due(self._settings)
            cleaned = self._clean_up(removed)
            self._loaded = loaded = load(self._settings, self._loaded)
            self._leases.want({spec.source.id for spec in loaded.specs})
            desired = Desired(arrange(loaded.specs, self._store))
            self._tell_verified(desired)
        except EtlError as error:
            self._say([error])
            return
        finally:
            self._serve()
        self._say([*loaded.troubles, *cleaned, *self._risks()])
        self._report()
        if desired != self._told:
            self._tell(desired)
            self._told = desired
            log.info("configuration_read", sources=[spec.source.stream for spec in desired.sources])
        now = time.monotonic()
        self._without = {item.id: self._without.get(item.id, now) for item in removed}

    def _tell_verified(self, desired: Desired) -> None:
        """What `verify` has noted; it has no metrics of its own."""
        for spec in desired.sources:
            for pipeline in spec.pipelines:
                found = self._store.verified(spec.source.name, pipeline.name)
                metrics.verified(pipeline.name, found.values())

    def _risks(self) -> list[EtlError]:
        """A state store that may forget; said once."""
        try:
            risk = self._store.risk()
        except EtlError:
            return []
        return [EtlError(Kind.STATE_STORE, "state store", risk, "see `etl-supervisor doctor`")] if risk else []

    def _clean_up(self, due_now: list[Removed]) -> list[EtlError]:
        """After pipelines that were deleted; why not, where it was not possible yet."""
        troubles = []
        told_before = time.monotonic() - self._settings.shutdown_grace_seconds - KILL_SECONDS_MAX
        for removed in [item for item in due_now if self._without.get(item.id, math.inf) <= told_before]:
            try:
                if self._leases.is_elsewhere(removed.source.id):
                    continue  # that one's reader may not have ended
                # This package does not import workers: the one that knows the source is named.
                importlib.import_module("workers.reader.removal").clean_up(self._settings, self._store, removed)
                done(self._settings, removed)
            except EtlError as error:
                troubles.append(error)
            self._context.heartbeat.beat()
        return troubles

    def _say(self, troubles: list[EtlError]) -> None:
        """Each trouble once, until it has gone and come back."""
        for trouble in troubles:
            if trouble.line not in self._said:
                logs.error_line(log, "configuration_trouble", trouble)
        self._said = frozenset(trouble.line for trouble in troubles)

    def _serve(self) -> None:
        """Metrics are worth a log line, never the data: a port that is taken is tried again at the next poll."""
        if self._serving:
            return
        address = self._settings.metrics_addr
        try:
            metrics.serve(address, [self._supervised, WalCollector(lambda: self._wal.newest)])
        except OSError as error:
            reason = f"can't listen on {address}: {error.strerror or type(error).__name__}"
            remedy = "set METRICS_ADDR to a free address; data goes on without metrics until then"
            trouble = EtlError(Kind.CONFIG, "metrics endpoint", reason, remedy)
            if self._next_poll == 0.0:
                logs.error_line(log, "metrics_not_served", trouble)
            return
        self._serving = True
        log.info("metrics_served", address=address)
