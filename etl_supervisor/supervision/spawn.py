"""The fork, and what a child does before its own code runs.

Order in the child: the parent's descriptors are closed, die with the parent (PR_SET_PDEATHSIG, then a look whether it is still there), a name for
`ps`, signals reset (Ctrl-C is the parent's business; what came since the fork arrives now), logs and metrics under the child's own name, then the
entry is imported and called. Heavy libraries and threads begin only there, so the parent can fork for ever.

An EtlError that leaves the entry is the child's last word: one log line, a Trouble message to the parent, and the exit code of its kind. Anything
else is a traceback in the log and exit code 70.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import multiprocess
import structlog

from etl_supervisor.errors import EtlError
from etl_supervisor.exits import Exit, code_of
from etl_supervisor.ipc import mailbox
from etl_supervisor.ipc.heartbeat import Heartbeat
from etl_supervisor.ipc.messages import CopyWanted, Trouble
from etl_supervisor.model.pipeline import SourceSpec
from etl_supervisor.monitor import logs
from etl_supervisor.supervision.signals import SIGNALS, held
from etl_supervisor.supervision.spec import ChildSpec

if TYPE_CHECKING:
    from etl_supervisor.config.settings import Settings

_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15
_libc = ctypes.CDLL(None, use_errno=True)
_incarnation = 0  # the newest
_fork = multiprocess.get_context("fork")

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ChildContext:
    """What a child gets. `incarnation` rises over restarts and over supervisors: it is about the nanosecond of the fork; `until` as in ChildSpec."""

    name: str
    slot: int
    incarnation: int
    parent: mailbox.Connection
    heartbeat: Heartbeat
    settings: Settings
    listener: socket.socket | None
    actor: int
    actor_addresses: tuple[bytes, ...]
    spec: SourceSpec | None
    copies: tuple[CopyWanted, ...]
    until: float = float("inf")


@dataclass(slots=True)
class Child:
    """A child that runs: its process, the descriptor that tells its end, our end of its connection.

    `copying` are the tables that a copy worker has not reported yet; `fenced`: killed, because its source is not ours any more.
    """

    spec: ChildSpec
    process: multiprocess.Process
    pid: int
    pidfd: int
    connection: mailbox.Connection
    heartbeat: Heartbeat
    started: float
    ready: bool = False
    stopping: bool = False
    fenced: bool = False
    kill_at: float = float("inf")
    copying: list[CopyWanted] = field(default_factory=list)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; one to a child that has just ended goes nowhere."""
        try:
            signal.pidfd_send_signal(self.pidfd, number)
        except ProcessLookupError:
            return

    def close_in_child(self) -> None:
        """In a sibling that was forked later: this child is none of its business."""
        os.close(self.pidfd)
        self.connection.close()

    def reap(self) -> int:
        """The exit code of a child that has ended (negative: the signal); gives everything back."""
        self.process.join()
        code = int(self.process.exitcode)
        self.process.close()
        os.close(self.pidfd)
        self.connection.close()
        return code


def _next_incarnation() -> int:
    """The Unix nanosecond, or later than the one before where the clock was set back: an actor refuses an older incarnation."""
    global _incarnation
    _incarnation = max(_incarnation + 1, time.time_ns())
    return _incarnation


def spawn(
    spec: ChildSpec,
    settings: Settings,
    heartbeat: Heartbeat,
    listeners: list[socket.socket],
    forget_parent: Callable[[], None],
) -> Child:
    """Fork a child. `forget_parent` runs in the child and closes what only the parent may hold."""
    ours, theirs = mailbox.pair()
    listener = listeners[spec.actor] if spec.actor >= 0 else None
    context = ChildContext(
        name=spec.name,
        slot=heartbeat.slot,
        incarnation=_next_incarnation(),
        parent=theirs,
        heartbeat=heartbeat,
        settings=settings,
        listener=listener,
        actor=spec.actor,
        actor_addresses=tuple(mailbox.address(item) for item in listeners),
        spec=spec.source,
        copies=spec.copies,
        until=spec.until,
    )
    parent = os.getpid()

    def body() -> None:
        forget_parent()
        ours.close()
        for item in listeners:
            if item is not listener:
                item.close()
        os._exit(_run(spec, context, parent))

    process = _fork.Process(target=body, name=spec.name, daemon=False)
    with held(SIGNALS):
        process.start()
    theirs.close()
    pid = int(process.pid)
    started = time.monotonic()
    return Child(spec, process, pid, os.pidfd_open(pid), ours, heartbeat, started, copying=list(spec.copies))


def _run(spec: ChildSpec, context: ChildContext, parent: int) -> int:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        return Exit.UNEXPECTED  # it died between the fork and the prctl
    _libc.prctl(_PR_SET_NAME, f"etl-{spec.name}"[:15].encode(), 0, 0, 0)
    _reset_signals()
    gc.disable()  # until all is imported: a sixth of that time went into looking for garbage that is not there
    try:
        logs.configure(context.settings, process=spec.name)
        _identify_metrics(spec.name)
        module, _, function = spec.entry.partition(":")
        with _traced(spec, context.settings):
            enter = getattr(importlib.import_module(module), function)
            gc.freeze()  # what was imported stays: to look through it all takes 0.1 s, in which rows wait
            gc.enable()
            return int(enter(context))
    except EtlError as error:
        logs.error_line(log, "child_failed", error)
        _last_word(context, error)
        return code_of(error.kind)
    except MemoryError:
        log.exception("child_out_of_memory")
        return Exit.MEMORY
    except Exception:
        log.exception("child_crashed")
        return Exit.UNEXPECTED
    finally:
        logs.flush()


def _reset_signals() -> None:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def _identify_metrics(name: str) -> None:
    """prometheus-client is the child's: the parent never imports it."""
    importlib.import_module("etl_supervisor.monitor.metrics").identify(name)


@contextlib.contextmanager
def _traced(spec: ChildSpec, settings: Settings) -> Iterator[None]:
    """Batches are followed by readers and actors, if there is a collector; imported only then. Copies are not followed."""
    endpoint = settings.otel_exporter_otlp_endpoint
    if endpoint is None or spec.copies or not spec.entry.startswith("workers."):
        yield
        return
    tracing = importlib.import_module("etl_supervisor.monitor.tracing")
    tracing.begin(endpoint.get_secret_value(), spec.name)
    try:
        yield
    finally:
        tracing.end()


def _last_word(context: ChildContext, error: EtlError) -> None:
    try:
        context.parent.send(Trouble(error.kind, error.place, error.reason, error.remedy))
    except ConnectionError:
        return
