"""The actor process: one loop that never waits on a network, and threads that may.

    mailbox ──► desk (one per handle) ──► jobs in threads ──► results ──► desk ──► mailbox
                 append: filter, encode, SDK          Accepted       (what is too large: dead letter first)
                 status: committed token, errors      Durable
                 sift: find refused rows by SQL       Durable        (when errors rose: dead letter first)
                 ensure, apply: SQL                   TableOpened, Applied
                 channel: open it for the first row

An actor keeps nothing: the offset tokens in Snowflake are its memory. When a publisher's connection ends, its desks are closed and forgotten.
When the actor dies, its publishers connect to the same address and send again what was not durable.

SIGTERM (the readers have drained before): flush what was appended and close the channels, within a limit; exit 0. What was not flushed comes again.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from typing import Any

import structlog

from etl_supervisor.errors import EtlError
from etl_supervisor.failpoints import failpoint
from etl_supervisor.ipc import mailbox
from etl_supervisor.ipc.messages import (
    Accepted,
    Applied,
    Apply,
    ApplyTogether,
    Begun,
    CloseTable,
    Durable,
    Failed,
    Hello,
    Hurry,
    Keep,
    OpenTable,
    Recall,
    ReshapeTable,
    Segment,
    Shown,
    TableClosed,
    Tried,
    Welcome,
)
from etl_supervisor.ipc.segment import SlabReader
from etl_supervisor.monitor import metrics
from etl_supervisor.supervision.signals import SignalInbox
from workers.snowflake.attendance import Attendance, Keeping, to_close
from workers.snowflake.channel import ChannelStatus, Underway
from workers.snowflake.closing import Closing
from workers.snowflake.desk import AGAIN_SECONDS, Desk, State
from workers.snowflake.failure import stalled, unforeseen
from workers.snowflake.guest import Guest
from workers.snowflake.identifiers import named
from workers.snowflake.jobs import Errand, Jobs, Lane
from workers.snowflake.loading import LoadChannel, Suspicion, Taken, Tools
from workers.snowflake.memory import Memory
from workers.snowflake.owner import Watermark
from workers.snowflake.preparing import Prepared, prepare
from workers.snowflake.solitude import Solitude
from workers.snowflake.together import Together
from workers.snowflake.views import close_descriptor

WAIT_SECONDS_MAX = 1.0

log = structlog.get_logger()


class Actor:
    """The loop and its jobs."""

    def __init__(
        self, number: int, listener: socket.socket, tools: Tools, beat: Callable[[], None], keeping: Keeping
    ) -> None:
        self._number, self._listener, self._tools, self._beat = number, listener, tools, beat
        self._keeping, self._attendance = keeping, Attendance()
        self._guests: list[Guest] = []
        self._jobs = Jobs()
        self._closing = Closing(self._jobs)
        self._memory = Memory(self._jobs, tools.sessions)
        self._together = Together(self._jobs, tools.sessions)
        self._solitude = Solitude(self._desks)
        self._selector = selectors.DefaultSelector()

    def run(self, each_turn: Callable[[], None] = lambda: None) -> None:
        """Until SIGTERM."""
        inbox = SignalInbox((signal.SIGTERM,))
        self._selector.register(inbox, selectors.EVENT_READ, "signal")
        self._selector.register(self._jobs, selectors.EVENT_READ, "jobs")
        self._selector.register(self._listener, selectors.EVENT_READ, "listener")
        stopping = False
        while not stopping:
            self._beat()
            each_turn()
            for key, _ in self._selector.select(self._seconds_to_wait()):
                match key.data:
                    case "signal":
                        stopping = signal.SIGTERM in inbox.take()
                    case "jobs":
                        pass  # taken below, in every turn
                    case "listener":
                        self._accept()
                    case guest:
                        self._serve(guest)
            self._jobs.take()
            self._start_jobs()
        self._stop()

    # -- publishers

    def _accept(self) -> None:
        while (connection := mailbox.accept(self._listener)) is not None:
            guest = Guest(connection, self._selector)
            self._guests.append(guest)

    def _serve(self, guest: Guest) -> None:
        try:
            guest.connection.flush()
            while (found := guest.connection.receive()) is not None:
                self._take(guest, *found)
            guest.watch()
        except (ConnectionError, ValueError) as error:
            log.info("publisher_left", publisher=guest.name, reason=str(error))
            self._part(guest)

    def _take(self, guest: Guest, message: object, fds: list[int]) -> None:
        match message:
            case Hello():
                self._greet(guest, message, SlabReader(fds.pop(), message.slots, message.slot_bytes))
            case OpenTable():
                self._open(guest, named(message))
            case ReshapeTable(handle=handle):
                desk = guest.desks.get(handle)
                if desk is not None and desk.state is not State.DEAD:  # a dead one gets it again, after its OpenTable
                    desk.reshapes.append(message)
            case Segment(handle=handle):
                desk = guest.desks.get(handle)
                fd = fds.pop() if fds else None
                if desk is None or desk.state is State.DEAD:
                    close_descriptor(fd)
                else:
                    desk.take(message, fd)
            case Keep() | Recall():
                self._memory.take(message, guest.send)
            case ApplyTogether():
                self._together.take(message, guest.send)
            case Shown(handle=handle) if handle in guest.desks:
                guest.desks[handle].shown(message)
            case Hurry(handle=handle, seq=seq) if handle in guest.desks:
                guest.desks[handle].hurry(seq)
            case Apply(handle=handle, fence=fence, copied=copied) if handle in guest.desks:
                guest.desks[handle].fence = max(guest.desks[handle].fence, fence)
                guest.desks[handle].copied = copied
            case CloseTable(handle=handle, drop=drop) if handle in guest.desks:
                guest.desks[handle].closing = drop
            case _:
                pass
        for fd in fds:
            os.close(fd)
        if (told := guest.desks.get(getattr(message, "handle", 0))) is not None:
            self._attendance.wake(guest, told)

    def _greet(self, guest: Guest, hello: Hello, slab: SlabReader) -> None:
        """One incarnation of a publisher at a time. A dead one may still stand in the backlog, before or behind its successor."""
        for other in [g for g in self._guests if g.name == hello.publisher and g is not guest]:
            if other.incarnation > hello.incarnation:
                raise ConnectionError("a newer incarnation of this publisher is here")
            self._part(other)
        guest.name, guest.incarnation, guest.slab = hello.publisher, hello.incarnation, slab
        guest.send(Welcome(self._number, self._tools.incarnation))
        log.info("publisher_joined", publisher=hello.publisher, incarnation=hello.incarnation)

    def _open(self, guest: Guest, opening: OpenTable) -> None:
        desk = guest.desks.get(opening.handle)
        assert guest.slab is not None, "OpenTable before Hello"
        if desk is None:
            desk = guest.desks[opening.handle] = Desk(opening, guest.slab, self._tools)
        self._discard(desk)
        desk.begin(opening)
        job, then, orphaned = partial(desk.open_job, opening), self._opened, partial(self._closing.orphan, opening)
        self._run_errand(guest, desk, Errand("open", Lane.OPEN, job, partial(then, guest, desk), orphaned))

    def _part(self, guest: Guest) -> None:
        """A publisher is gone: its channels are closed without a flush, its rows come again."""
        if guest not in self._guests:
            return
        self._guests.remove(guest)
        guest.close()
        for desk in guest.desks.values():
            self._discard(desk)
        guest.desks.clear()

    # -- jobs

    def _start_jobs(self) -> None:
        now = time.monotonic()
        if self._attendance.sweeps(now):
            self._sweep(now)
        for guest, desk in self._attendance.take():
            for errand in self._errands(guest, desk, now):
                self._run_errand(guest, desk, errand)
            if desk.wants_close():
                self._close(guest, desk)
            elif desk.busy:
                self._attendance.wake(guest, desk)

    def _sweep(self, now: float) -> None:
        metrics.SEGMENTS_WAITING.set(sum(len(desk.channel.waiting) for desk in self._desks()))
        for desk in to_close(self._desks(), now, self._keeping):
            log.info("channel_rests", channel=desk.opening.channel, table=str(desk.opening.table.name))
            self._closing.end(desk.opening, desk.rest())
        for guest in self._guests:
            for desk in guest.desks.values():
                self._attendance.wake(guest, desk)

    def _errands(self, guest: Guest, desk: Desk, now: float) -> Iterator[Errand]:
        """What may start now. A job gets what it works on here, in the loop: the desk may have another life before the job begins."""
        if desk.wants_channel():
            desk.sdk_busy = True
            job, then = partial(desk.channel_job, desk.opening), partial(self._joined, desk)
            yield Errand("open", Lane.CHANNEL, job, then, partial(self._closing.orphan, desk.opening))
        if desk.wants_append(now) and desk.sdk is not None and self._solitude.allows(desk):
            yield self._append(guest, desk, desk.sdk)
        if desk.wants_status(now) and desk.sdk is not None:
            desk.status_busy = True
            then = partial(self._committed, guest, desk)
            lane = Lane.STATUS if desk.lane is Lane.STREAM else desk.lane
            yield Errand("commit", lane, partial(desk.status_job, desk.sdk), then)
        if desk.wants_sift() and (suspicion := desk.suspicion) is not None:
            desk.sift_busy = True
            then = partial(self._sifted, guest, desk, suspicion)
            yield Errand("commit", Lane.OPEN, partial(desk.loading().sift, suspicion, desk.suspected()), then)
        if desk.wants_alter():
            opening, known = desk.alter()
            then = partial(desk.altered, opening)
            yield Errand("open", Lane.OPEN, partial(prepare, opening, desk.tools, known), then)
        if desk.wants_apply() and (mark := desk.watermark) is not None:
            fence, desk.fence, desk.sql_busy = desk.fence, 0, True
            then = partial(self._applied, guest, desk, time.time_ns())
            yield Errand("apply", Lane.APPLY, partial(desk.apply_job, desk.opening, mark, fence, desk.copied), then)
        if desk.wants_purge(now):
            opening, applied = desk.purge(now)
            yield Errand("apply", Lane.APPLY, partial(desk.purge_job, opening), partial(desk.purged, applied))

    def _append(self, guest: Guest, desk: Desk, sdk: LoadChannel) -> Errand:
        """The rows whose turn it is. The job alone holds the views of the slab."""
        segments, channel = desk.next_segments(), desk.channel
        desk.sdk_busy = True
        guest.send(Begun(desk.opening.handle, segments[-1][0].seq))
        if desk.rehearses:
            rehearse = partial(desk.loading().rehearse, sdk, *segments[0], channel.reached)
            return Errand("append", desk.lane, rehearse, partial(self._tried, guest, desk))
        append = partial(desk.loading().append, sdk, segments, channel.reached, channel.handed or "")
        return Errand("append", desk.lane, append, partial(self._appended, guest, desk, len(segments)))

    def _run_errand(self, guest: Guest, desk: Desk, errand: Errand) -> None:
        ended = partial(self._finish, guest, desk, desk.life, errand)
        self._jobs.start(desk.opening.destination.id, errand.lane, errand.job, ended)

    def _finish(self, guest: Guest, desk: Desk, life: int, errand: Errand, future: Future[Any]) -> None:
        error = future.exception()
        if isinstance(error, MemoryError):
            raise error  # who has taken the memory is found by trial (`workers.reader.trial`)
        self._attendance.wake(guest, desk)
        if desk.life != life:
            if error is None:
                errand.late(future.result())
        elif error is None:
            errand.then(future.result())
        elif isinstance(error, EtlError):
            self._fail(guest, desk, errand.operation, error)
        else:
            self._fail(guest, desk, errand.operation, unforeseen(error, errand.operation, desk.place))

    def _fail(self, guest: Guest, desk: Desk, operation: str, error: EtlError) -> None:
        self._discard(desk)
        handle = desk.opening.handle
        guest.send(Failed(handle, operation, error.kind, error.place, error.reason, error.remedy, error.transient))

    # -- results

    def _opened(self, guest: Guest, desk: Desk, result: tuple[LoadChannel | None, Prepared]) -> None:
        sdk, prepared = result
        desk.opened(prepared)
        if sdk is not None:
            self._joined(desk, sdk)
        guest.send(desk.word_of_open())

    def _joined(self, desk: Desk, sdk: LoadChannel) -> None:
        desk.take_channel(sdk)
        metrics.CHANNELS_OPEN.inc()
        log.info(
            "channel_opened",
            channel=desk.opening.channel,
            table=str(desk.opening.table.name),
            committed=desk.channel.committed,
        )

    def _appended(self, guest: Guest, desk: Desk, wanted: int, taken: Taken) -> None:
        desk.sdk_busy = False
        desk.dead = desk.dead if taken.dead is None else taken.dead
        for handed, since in taken.handed:
            desk.took(desk.channel.took(handed, since, time.monotonic()))
        if len(taken.handed) < wanted:
            desk.append_at = time.monotonic() + AGAIN_SECONDS
        if taken.handed:
            guest.send(Accepted(desk.opening.handle, desk.channel.accepted_seq))
            if desk.suspicion is None:  # wholly filtered or dead: through already
                through = desk.channel.told(desk.channel.committed)
                self._come_through(guest, desk, through, desk.channel.errors, "")

    def _tried(self, guest: Guest, desk: Desk, dead: int | None) -> None:
        desk.tried(dead)
        guest.send(Tried(desk.opening.handle))

    def _committed(self, guest: Guest, desk: Desk, status: ChannelStatus) -> None:
        now = time.monotonic()
        desk.status_busy, desk.status_at = False, desk.status_due(now)
        if desk.suspicion is not None:
            return
        self._come_through(guest, desk, desk.channel.told(status.committed, now), status.errors, status.message)
        streamed = desk.suspicion is None and desk.gathering is None  # files wait for their own loader
        if streamed and desk.channel.stalled_seconds(now) > self._keeping.commit_seconds:
            self._fail(guest, desk, "commit", stalled(desk.place, self._keeping.commit_seconds))

    def _come_through(self, guest: Guest, desk: Desk, items: list[Underway], errors: int, message: str) -> None:
        """The token has reached the end of these segments."""
        if items and desk.channel.suspicious(items, errors):
            desk.suspicion = Suspicion(items, errors, message, desk.channel.doubt)
        elif items:
            desk.channel.settled(items)
            self._tell_durable(guest, desk, items)

    def _sifted(self, guest: Guest, desk: Desk, suspicion: Suspicion, result: tuple[int, int | None]) -> None:
        found, dead = result
        desk.sift_busy, desk.suspicion = False, None
        desk.dead = desk.dead if dead is None else dead
        desk.channel.sifted(suspicion.items, found, suspicion.errors)
        self._tell_durable(guest, desk, suspicion.items)

    def _tell_durable(self, guest: Guest, desk: Desk, items: list[Underway]) -> None:
        failpoint("actor.before_durable")
        desk.durable(items)
        channel = desk.channel
        guest.send(Durable(desk.opening.handle, channel.durable_seq, channel.committed, channel.baseline, desk.dead))

    def _applied(self, guest: Guest, desk: Desk, began_ns: int, watermark: Watermark) -> None:
        desk.applied(began_ns, watermark)
        guest.send(Applied(desk.opening.handle, watermark.applied))

    def _close(self, guest: Guest, desk: Desk) -> None:
        """An orderly end of one handle."""
        drop = bool(desk.closing)
        self._discard(desk, drop=drop)
        del guest.desks[desk.opening.handle]
        guest.send(TableClosed(desk.opening.handle))

    def _discard(self, desk: Desk, *, drop: bool = False) -> None:
        """End the desk's life and close its channel without a flush: what was not committed comes again."""
        self._closing.end(desk.opening, desk.end(), drop=drop)

    # -- the rest

    def _seconds_to_wait(self) -> float:
        """Until something is to be asked or tried again; results and messages wake the loop by themselves."""
        return min(WAIT_SECONDS_MAX, self._attendance.seconds_to_wait(time.monotonic()))

    def _desks(self) -> list[Desk]:
        return [desk for guest in self._guests for desk in guest.desks.values()]

    def _stop(self) -> None:
        """Close what is open, within a limit; threads that hang are left to the end of the process."""
        self._closing.all(self._desks(), self._beat)
        self._jobs.stop()
