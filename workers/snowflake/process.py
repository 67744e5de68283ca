"""The actor process: one loop that never waits on a network, and threads that may.

    mailbox ──► desk (one per handle) ──► jobs in threads ──► results ──► desk ──► mailbox
                 append: filter, encode, SDK          Accepted
                 status: committed token, errors      Durable, or Failed(ROWS_REJECTED)
                 ensure, apply: SQL                   TableOpened, Applied

An actor keeps nothing: the offset tokens in Snowflake are its memory. When a publisher's connection ends, its desks are closed and forgotten.
When the actor dies, its publishers connect to the same address and send again what was not durable.

SIGTERM (the readers have drained before): close the channels within a limit, exit 0.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

import structlog

from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.exits import Exit
from etl_supervisor.failpoints import failpoint
from etl_supervisor.ipc import mailbox
from etl_supervisor.ipc.messages import (
    Accepted,
    Applied,
    Apply,
    CloseTable,
    Durable,
    Failed,
    Hello,
    OpenTable,
    Ready,
    Segment,
    TableClosed,
    TableOpened,
    ToPublisher,
    Welcome,
)
from etl_supervisor.ipc.segment import SlabReader
from etl_supervisor.monitor import metrics
from etl_supervisor.supervision.signals import SignalInbox
from etl_supervisor.supervision.spawn import ChildContext
from workers.snowflake.desk import AGAIN_SECONDS, STATUS_SECONDS, Desk, State, Tools, close_descriptor
from workers.snowflake.sessions import Sessions
from workers.snowflake.streaming import ChannelStatus

THREADS = 12  # jobs wait on the network most of the time; a destination that hangs holds one per lane and table
WAIT_SECONDS_MAX = 1.0
WAIT_SECONDS_BUSY = 0.1  # while something is under way: statuses are asked for
CLOSE_SECONDS_MAX = 6.0  # of all channels together, at the end

log = structlog.get_logger()


def main(context: ChildContext) -> int:
    """Entry point of an actor process; returns the exit code."""
    assert context.listener is not None
    keyring = context.settings.keyring()
    sessions = Sessions(keyring.decrypt, context.settings.directory, context.name)
    tools = Tools(sessions, keyring.decrypt, context.settings.directory, context.incarnation)
    actor = Actor(context.actor, context.listener, tools, context.heartbeat.beat)
    context.parent.send(Ready())
    actor.run(lambda: parent_is_there(context.parent))
    return Exit.OK


def parent_is_there(parent: mailbox.Connection) -> None:
    """Take what the parent says (nothing, so far)."""
    parent.receive()


class _Guest:
    """A publisher's connection, with its slab and desks."""

    def __init__(self, connection: mailbox.Connection) -> None:
        self.connection = connection
        self.name = ""
        self.slab: SlabReader | None = None
        self.desks: dict[int, Desk] = {}


class Actor:
    """The loop and its jobs."""

    def __init__(self, number: int, listener: socket.socket, tools: Tools, beat: Callable[[], None]) -> None:
        self._number, self._listener, self._tools, self._beat = number, listener, tools, beat
        self._guests: list[_Guest] = []
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="job")
        self._results: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._wake, self._waker = socket.socketpair()
        for end in (self._wake, self._waker):
            end.setblocking(False)
        self._selector = selectors.DefaultSelector()

    def run(self, each_turn: Callable[[], None] = lambda: None) -> None:
        """Until SIGTERM."""
        inbox = SignalInbox((signal.SIGTERM,))
        self._selector.register(inbox, selectors.EVENT_READ, "signal")
        self._selector.register(self._wake, selectors.EVENT_READ, "wake")
        self._selector.register(self._listener, selectors.EVENT_READ, "listener")
        stopping = False
        while not stopping:
            self._beat()
            each_turn()
            for key, _ in self._selector.select(WAIT_SECONDS_BUSY if self._busy() else WAIT_SECONDS_MAX):
                match key.data:
                    case "signal":
                        stopping = signal.SIGTERM in inbox.take()
                    case "wake":
                        self._drain_wake()
                    case "listener":
                        self._accept()
                    case guest:
                        self._serve(guest)
            self._take_results()
            self._start_jobs()
        self._stop()

    # -- publishers

    def _accept(self) -> None:
        while (connection := mailbox.accept(self._listener)) is not None:
            guest = _Guest(connection)
            self._guests.append(guest)
            self._selector.register(connection, selectors.EVENT_READ, guest)

    def _serve(self, guest: _Guest) -> None:
        try:
            guest.connection.flush()
            while (found := guest.connection.receive()) is not None:
                self._take(guest, *found)
            self._watch(guest)
        except (ConnectionError, ValueError) as error:
            log.info("publisher_left", publisher=guest.name, reason=str(error))
            self._part(guest)

    def _take(self, guest: _Guest, message: object, fds: list[int]) -> None:
        match message:
            case Hello(publisher=name, incarnation=incarnation, slots=slots, slot_bytes=slot_bytes):
                for other in [g for g in self._guests if g.name == name and g is not guest]:
                    self._part(other)  # an older incarnation that has not been noticed to be dead
                guest.name, guest.slab = name, SlabReader(fds.pop(), slots, slot_bytes)
                self._send(guest, Welcome(self._number, self._tools.incarnation))
                log.info("publisher_joined", publisher=name, incarnation=incarnation)
            case OpenTable():
                self._open(guest, message)
            case Segment(handle=handle):
                desk = guest.desks.get(handle)
                fd = fds.pop() if fds else None
                if desk is None or desk.state is State.DEAD:
                    close_descriptor(fd)
                else:
                    desk.channel.waiting.append((message, fd))
            case Apply(handle=handle, fence=fence) if handle in guest.desks:
                guest.desks[handle].fence = max(guest.desks[handle].fence, fence)
            case CloseTable(handle=handle, drop=drop) if handle in guest.desks:
                guest.desks[handle].closing = drop
            case _:
                pass
        for fd in fds:
            os.close(fd)

    def _open(self, guest: _Guest, opening: OpenTable) -> None:
        desk = guest.desks.get(opening.handle)
        if desk is not None and desk.state is not State.DEAD and opening.table.version > desk.opening.table.version:
            desk.altering = opening  # the channel stays; what is under way of the older shape comes first
            return
        assert guest.slab is not None, "OpenTable before Hello"
        if desk is None:
            desk = guest.desks[opening.handle] = Desk(opening, guest.slab, self._tools)
        else:
            self._discard(desk)
        desk.opening, desk.state, desk.altering, desk.fence, desk.life = opening, State.OPENING, None, 0, desk.life + 1
        desk.sdk_busy = desk.sql_busy = desk.status_busy = False
        desk.sdk_busy = True
        self._submit(guest, desk, "open", desk.open_job, partial(self._opened, guest, desk))

    def _part(self, guest: _Guest) -> None:
        """A publisher is gone: its channels are closed without a flush, its rows come again."""
        if guest not in self._guests:
            return
        self._guests.remove(guest)
        self._selector.unregister(guest.connection)
        guest.connection.close()
        for desk in guest.desks.values():
            self._discard(desk)
            desk.state, desk.life = State.DEAD, desk.life + 1
        guest.desks.clear()

    def _send(self, guest: _Guest, message: ToPublisher) -> None:
        if guest in self._guests:
            with contextlib.suppress(ConnectionError):  # the selector tells, and the guest is parted with there
                guest.connection.send(message)
                self._watch(guest)

    def _watch(self, guest: _Guest) -> None:
        if guest in self._guests:
            write = selectors.EVENT_WRITE if guest.connection.wants_write else 0
            self._selector.modify(guest.connection, selectors.EVENT_READ | write, guest)

    # -- jobs

    def _start_jobs(self) -> None:
        now = time.monotonic()
        for guest in list(self._guests):
            for desk in list(guest.desks.values()):
                self._start_for(guest, desk, now)

    def _start_for(self, guest: _Guest, desk: Desk, now: float) -> None:
        if desk.wants_append(now):
            segments = desk.next_segments()
            desk.sdk_busy = True
            self._submit(
                guest,
                desk,
                "append",
                partial(desk.append_job, segments),
                partial(self._appended, guest, desk, len(segments)),
            )
            del segments  # the job alone holds the views of the slab
        if desk.wants_status(now):
            desk.status_busy = True
            self._submit(guest, desk, "commit", desk.status_job, partial(self._committed, guest, desk))
        if desk.wants_alter():
            opening, desk.altering = desk.altering, None
            assert opening is not None
            desk.state, desk.sql_busy = State.ALTERING, True
            self._submit(
                guest, desk, "open", partial(desk.alter_job, opening), partial(self._altered, guest, desk, opening)
            )
        if desk.wants_apply():
            fence, desk.fence, desk.sql_busy = desk.fence, 0, True
            self._submit(guest, desk, "apply", partial(desk.apply_job, fence), partial(self._applied, guest, desk))
        if desk.wants_close():
            self._close(guest, desk)

    def _submit(
        self, guest: _Guest, desk: Desk, operation: str, job: Callable[[], Any], then: Callable[[Any], None]
    ) -> None:
        """Run a job in a thread; its result comes back to the loop, unless the desk has begun another life."""
        life = desk.life

        def done(future: Future[Any]) -> None:
            self._results.put(lambda: self._finish(guest, desk, life, operation, future, then))
            with contextlib.suppress(OSError):
                self._waker.send(b"!")

        self._pool.submit(job).add_done_callback(done)

    def _finish(
        self, guest: _Guest, desk: Desk, life: int, operation: str, future: Future[Any], then: Callable[[Any], None]
    ) -> None:
        error = future.exception()
        if desk.life != life:
            if operation == "open" and error is None and isinstance(future.result(), tuple):
                self._close_later(future.result()[0])  # opened for somebody who is gone
            return
        if error is None:
            then(future.result())
            return
        if not isinstance(error, EtlError):
            log.error("job_crashed", operation=operation, exc_info=error)
            reason = f"{operation} failed: {type(error).__name__}"
            error = EtlError(Kind.INTERNAL, desk.opening.channel, reason, "see the actor's log", transient=True)
        self._fail(guest, desk, operation, error)

    def _fail(self, guest: _Guest, desk: Desk, operation: str, error: EtlError) -> None:
        desk.state, desk.life = State.DEAD, desk.life + 1
        desk.sdk_busy = desk.sql_busy = desk.status_busy = False
        self._discard(desk)
        self._send(
            guest,
            Failed(
                desk.opening.handle, operation, error.kind, error.place, error.reason, error.remedy, error.transient
            ),
        )

    # -- results

    def _opened(self, guest: _Guest, desk: Desk, result: Any) -> None:
        desk.sdk, desk.watermark = result
        desk.sdk_busy, desk.state = False, State.OPEN
        waiting = list(desk.channel.waiting)
        desk.channel.opened(desk.sdk.opened.committed, desk.sdk.opened.errors)
        desk.channel.waiting.extend(waiting)
        metrics.CHANNELS_OPEN.inc()
        log.info(
            "channel_opened",
            channel=desk.opening.channel,
            table=str(desk.opening.table.name),
            committed=desk.channel.committed,
        )
        self._tell_opened(guest, desk)

    def _altered(self, guest: _Guest, desk: Desk, opening: OpenTable, watermark: Any) -> None:
        desk.opening, desk.watermark = opening, watermark
        desk.sql_busy, desk.state = False, State.OPEN
        self._tell_opened(guest, desk)

    def _tell_opened(self, guest: _Guest, desk: Desk) -> None:
        channel, opening = desk.channel, desk.opening
        assert desk.watermark is not None
        self._send(
            guest,
            TableOpened(
                opening.handle,
                opening.table.version,
                channel.committed,
                channel.appended,
                channel.errors,
                desk.watermark.applied,
            ),
        )

    def _appended(self, guest: _Guest, desk: Desk, wanted: int, taken: int) -> None:
        desk.sdk_busy = False
        desk.took(taken)
        if taken < wanted:
            desk.append_at = time.monotonic() + AGAIN_SECONDS
        if taken:
            self._send(guest, Accepted(desk.opening.handle, desk.channel.accepted_seq))
            if desk.channel.told(desk.channel.committed, desk.channel.errors):  # wholly filtered: durable already
                self._tell_durable(guest, desk)

    def _committed(self, guest: _Guest, desk: Desk, status: ChannelStatus) -> None:
        desk.status_busy, desk.status_at = False, time.monotonic() + STATUS_SECONDS
        place = f"pipeline {desk.opening.pipeline}, table {desk.opening.table.name}"
        if not status.valid:
            reason = "Snowflake says that the channel is not valid any more"
            self._fail(
                guest, desk, "commit", EtlError(Kind.CHANNEL, place, reason, "it is opened again", transient=True)
            )
        elif rejected := desk.channel.rejected(status.errors):
            reason = f"Snowflake rejected {rejected} rows"
            remedy = "look at the channel's last error in Snowflake (SHOW CHANNELS), then copy the table again"
            self._fail(guest, desk, "commit", EtlError(Kind.ROWS_REJECTED, place, reason, remedy))
        elif desk.channel.told(status.committed, status.errors):
            self._tell_durable(guest, desk)

    def _tell_durable(self, guest: _Guest, desk: Desk) -> None:
        failpoint("actor.before_durable")
        channel = desk.channel
        self._send(guest, Durable(desk.opening.handle, channel.durable_seq, channel.committed, channel.errors))

    def _applied(self, guest: _Guest, desk: Desk, watermark: Any) -> None:
        desk.sql_busy, desk.watermark = False, watermark
        self._send(guest, Applied(desk.opening.handle, watermark.applied))

    def _close(self, guest: _Guest, desk: Desk) -> None:
        """An orderly end of one handle."""
        drop = bool(desk.closing)
        sdk, desk.sdk, desk.closing = desk.sdk, None, None
        desk.state = State.DEAD
        if sdk is not None:
            metrics.CHANNELS_OPEN.dec()
            self._close_later(sdk, drop=drop)
        del guest.desks[desk.opening.handle]
        self._send(guest, TableClosed(desk.opening.handle))

    def _discard(self, desk: Desk) -> None:
        """Close the channel without a flush: what was not committed comes again."""
        desk.forget_segments()
        desk.channel = type(desk.channel)()
        if desk.sdk is not None:
            metrics.CHANNELS_OPEN.dec()
            self._close_later(desk.sdk)
            desk.sdk = None

    def _close_later(self, sdk: Any, *, drop: bool = False) -> None:
        def job() -> None:
            try:
                sdk.close(flush=drop, drop=drop)
            except Exception as error:
                log.info("channel_close_failed", error=type(error).__name__)

        self._pool.submit(job)

    # -- the rest

    def _busy(self) -> bool:
        return any(
            desk.channel.waiting or desk.channel.undurable or desk.closing is not None
            for guest in self._guests
            for desk in guest.desks.values()
        )

    def _drain_wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._wake.recv(4096)

    def _take_results(self) -> None:
        with contextlib.suppress(Empty):
            while True:
                self._results.get_nowait()()

    def _stop(self) -> None:
        """Close what is open, within a limit; threads that hang are left to the end of the process."""
        channels = [desk.sdk for guest in self._guests for desk in guest.desks.values() if desk.sdk is not None]
        closing = [self._pool.submit(partial(sdk.close, flush=False)) for sdk in channels]
        deadline = time.monotonic() + CLOSE_SECONDS_MAX
        for future in closing:
            with contextlib.suppress(Exception):
                future.result(max(0.0, deadline - time.monotonic()))
            self._beat()
        self._pool.shutdown(wait=False, cancel_futures=True)
