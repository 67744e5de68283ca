"""How children come to be: from the nursery, or by a fork of the supervisor itself; and how the supervisor sees one that runs."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import multiprocess

from etl_supervisor.ipc import mailbox
from etl_supervisor.ipc.heartbeat import Heartbeat, HeartbeatPage
from etl_supervisor.ipc.messages import CopyWanted, Message
from etl_supervisor.supervision.nursery import Forked, Nursery
from etl_supervisor.supervision.signals import SIGNALS, held
from etl_supervisor.supervision.spawn import ChildContext, run
from etl_supervisor.supervision.spec import HEAVY, ChildKind, ChildSpec

if TYPE_CHECKING:
    from etl_supervisor.config.settings import Settings

_incarnation = 0  # the newest
_fork = multiprocess.get_context("fork")


@dataclass(frozen=True, slots=True)
class Order:
    """What a child is to be. It is pickled on its way to the nursery."""

    spec: ChildSpec
    settings: Settings
    slot: int
    incarnation: int
    actor_addresses: tuple[bytes, ...]


@dataclass(slots=True)
class Child:
    """A child that runs: its process, the descriptor that tells its end, our end of its connection.

    `copying` are the tables that a copy worker has not reported yet; `fenced`: killed, because its source is not ours any more.
    """

    spec: ChildSpec
    process: multiprocess.Process | Forked
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

    def tell(self, message: Message) -> bool:
        """Send a message; False where it is ending."""
        try:
            self.connection.send(message)
        except ConnectionError:
            return False
        return True

    def push(self) -> None:
        """Send what it has not taken yet."""
        with contextlib.suppress(ConnectionError):
            self.connection.flush()

    def close_in_child(self) -> None:
        """In a sibling that was forked later: this child is none of its business."""
        os.close(self.pidfd)
        self.connection.close()

    def reap(self) -> int:
        """The exit code of a child that has ended (negative: the signal); gives everything back."""
        self.process.join()
        code = int(self.process.exitcode)  # type: ignore[arg-type]
        self.process.close()
        os.close(self.pidfd)
        self.connection.close()
        return code


def _module(entry: str) -> str:
    return entry.partition(":")[0]


def _next_incarnation() -> int:
    """The Unix nanosecond, or later than the one before where the clock was set back: an actor refuses an older incarnation."""
    global _incarnation
    _incarnation = max(_incarnation + 1, time.time_ns())
    return _incarnation


class Births:
    """How children come to be: from the nursery those that work with heavy libraries, the others, and all while there is none, from here.

    `forget` runs in a child and closes what only the supervisor may hold.
    """

    def __init__(
        self,
        listeners: Sequence[socket.socket],
        page: HeartbeatPage,
        selector: selectors.BaseSelector,
        entries: Mapping[ChildKind, str],
        forget: Callable[[], None],
    ) -> None:
        self._listeners, self._page, self._forget = listeners, page, forget
        self.nursery = Nursery({_module(entries[kind]) for kind in HEAVY}, self._live, self._forgotten, selector)

    def wait(self, spec: ChildSpec) -> bool:
        """Whether a child comes sooner from the nursery, which is not ready yet."""
        return self.nursery.importing and self.nursery.knows(_module(spec.entry))

    def spawn(self, spec: ChildSpec, settings: Settings) -> Child:
        """A child that begins now. OSError when the machine has no process, descriptor or memory for it."""
        heartbeat = self._page.allot()
        try:
            return self._begin(spec, settings, heartbeat)
        except OSError:
            self._page.give_back(heartbeat)
            raise

    def _begin(self, spec: ChildSpec, settings: Settings, heartbeat: Heartbeat) -> Child:
        order = Order(spec, settings, heartbeat.slot, _next_incarnation(), tuple(map(mailbox.address, self._listeners)))
        process, ours = self._from_nursery(order) or self._from_here(order)
        pid = int(process.pid)
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            ours.close()
            os.kill(pid, signal.SIGKILL)  # nobody would see its end
            raise
        return Child(spec, process, pid, pidfd, ours, heartbeat, time.monotonic(), copying=list(spec.copies))

    def _from_nursery(self, order: Order) -> tuple[Forked, mailbox.Connection] | None:
        if not self.nursery.ready or not self.nursery.knows(_module(order.spec.entry)):
            return None
        ours, theirs = mailbox.pair()
        with contextlib.closing(theirs):
            child = self.nursery.fork(order, ours, theirs)
        if child is None:
            ours.close()
            return None
        return child, ours

    def _from_here(self, order: Order) -> tuple[multiprocess.Process, mailbox.Connection]:
        ours, theirs = mailbox.pair()
        parent = os.getpid()

        def body() -> None:
            self._forgotten()
            ours.close()
            os._exit(self._live(order, theirs, parent))

        process = _fork.Process(target=body, name=order.spec.name, daemon=False)
        try:
            with contextlib.closing(theirs), held(SIGNALS):
                process.start()
        except OSError:
            ours.close()
            raise
        return process, ours

    def _forgotten(self) -> None:
        self._forget()
        self.nursery.close_in_child()

    def _live(self, order: Order, connection: mailbox.Connection, parent: int) -> int:
        """In the child."""
        spec = order.spec
        listener = self._listeners[spec.actor] if spec.actor >= 0 else None
        for item in self._listeners:
            if item is not listener:
                item.close()
        context = ChildContext(
            name=spec.name,
            slot=order.slot,
            incarnation=order.incarnation,
            parent=connection,
            heartbeat=self._page.of(order.slot),
            parent_heartbeat=self._page.parent,
            settings=order.settings,
            listener=listener,
            actor=spec.actor,
            actor_addresses=order.actor_addresses,
            spec=spec.source,
            copies=spec.copies,
            until=spec.until,
        )
        return run(spec, context, parent)
