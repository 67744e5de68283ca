"""What a child does before its own code runs.

In order: the parent's descriptors are closed, die with the parent (PR_SET_PDEATHSIG, then a look whether it is still there), a name for
`ps`, signals reset (Ctrl-C is the parent's business; what came since the fork arrives now), logs and metrics under the child's own name, then the
entry is imported and called. Heavy libraries and threads begin only there, so the parent can fork for ever; a child from the nursery finds the
libraries imported.

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
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from etl_supervisor.errors import EtlError
from etl_supervisor.exits import Exit, code_of
from etl_supervisor.ipc import mailbox
from etl_supervisor.ipc.heartbeat import Heartbeat
from etl_supervisor.ipc.messages import CopyWanted, Trouble
from etl_supervisor.model.pipeline import SourceSpec
from etl_supervisor.monitor import logs
from etl_supervisor.supervision.signals import SIGNALS
from etl_supervisor.supervision.spec import ChildSpec

if TYPE_CHECKING:
    from etl_supervisor.config.settings import Settings

_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15
_libc = ctypes.CDLL(None, use_errno=True)

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ChildContext:
    """What a child gets. `incarnation` rises over restarts and over supervisors: it is about the nanosecond of the fork; `until` as in ChildSpec."""

    name: str
    slot: int
    incarnation: int
    parent: mailbox.Connection
    heartbeat: Heartbeat
    parent_heartbeat: Heartbeat
    settings: Settings
    listener: socket.socket | None
    actor: int
    actor_addresses: tuple[bytes, ...]
    spec: SourceSpec | None
    copies: tuple[CopyWanted, ...]
    until: float = float("inf")


def run(spec: ChildSpec, context: ChildContext, parent: int) -> int:
    """A child's life, in its own process; its exit code. `parent` is the supervisor's pid."""
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
    except mailbox.PeerGoneError:  # the parent: whom a child has other mailboxes with, it parts with there
        log.info("parent_gone")  # the kernel's word for it (prctl) was about to come
        return Exit.UNEXPECTED
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
