"""The supervisor: one thread, one loop. It forks, waits, and starts again what dies.

One turn: wait for a signal, the end of a child (pidfd) or a message; then look at the clock: kill what is silent, start what is due. Each turn is a
beat, which the monitor looks for: if the supervisor itself hangs, it is killed before another may have its sources (`monitor.silence`).

    start     monitor and actors at once; readers when the monitor has sent what is Desired
    Desired   compared with what runs (`decide`): a new source starts, one that is gone drains, a changed one drains and starts again
    death     back-off, then again; too many, or a failure that needs a person: the breaker opens, one trial per cool-down
    silence   no heartbeat for `heartbeat_timeout_seconds` (SIGSTOP, a loop that hangs): SIGABRT, a moment later SIGKILL, then as a death
    SIGHUP    the settings are read again, for the children that start from then on; the monitor looks at the configuration now
    lease     no reader of a source runs that another supervisor may have (`model.tenure`); one that runs when our time is over is killed
    drain     SIGTERM or Ctrl-C: readers and copies first (until all is durable and confirmed; dead actors are replaced), actors, monitor and API
    second    SIGTERM or Ctrl-C: SIGKILL to all. Nothing is lost: what was not confirmed comes again from the slot

If this process dies, the kernel kills every child (PR_SET_PDEATHSIG). The parent touches no network, no shared rows, no heavy library.
"""

from __future__ import annotations

import random
import selectors
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from etl_supervisor.errors import EtlError
from etl_supervisor.exits import Exit
from etl_supervisor.failpoints import failpoint
from etl_supervisor.ipc import mailbox
from etl_supervisor.ipc.heartbeat import SLOTS_MAX, HeartbeatPage
from etl_supervisor.ipc.messages import CopyEnded, CopyWanted, Desired, Leased, Ready, Supervised, Trouble
from etl_supervisor.model.pipeline import SourceSpec
from etl_supervisor.model.tenure import Tenure, clock
from etl_supervisor.supervision.births import Births, Child
from etl_supervisor.supervision.copying import Copying, no_longer
from etl_supervisor.supervision.decide import changes
from etl_supervisor.supervision.kills import ABORT_GRACE_SECONDS, fence, kill_overdue, kill_silent
from etl_supervisor.supervision.notify import notify, watchdog_seconds
from etl_supervisor.supervision.orphans import reap_orphans
from etl_supervisor.supervision.post import Post, Posts
from etl_supervisor.supervision.shortage import Shortage
from etl_supervisor.supervision.signals import SIGNALS, SignalInbox
from etl_supervisor.supervision.spec import ENTRIES, ChildKind, ChildSpec, reader_name

if TYPE_CHECKING:
    from etl_supervisor.config.settings import Settings

DRAIN_MARGIN_SECONDS = 5.0  # the readers end by themselves at the end of the grace; then actors close channels
TURN_SECONDS_MAX = 1.0  # the longest sleep: silence and the watchdog are looked at this often
BIRTH_SECONDS_MAX = 0.3  # of a turn; each takes some 0.02. The others' are in the next turn, and who is not ours any more must not wait for them
FROZEN_SECONDS = 5 * TURN_SECONDS_MAX  # a longer turn: the machine or our whole group stood still, children too
DRAIN_ORDER = ((ChildKind.READER, ChildKind.COPY), (ChildKind.ACTOR,), (ChildKind.MONITOR, ChildKind.API))

log = structlog.get_logger()


class Supervisor:
    """The parent. `run` returns when everything has ended."""

    def __init__(
        self,
        settings: Settings,
        entries: Mapping[ChildKind, str] = ENTRIES,
        *,
        on_ready: Callable[[], None] = lambda: None,
        reread: Callable[[], Settings] | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._settings = settings
        self._entries = dict(entries)
        self._on_ready = on_ready
        self._reread = reread or (lambda: settings)
        self._chance = chance
        self._page = HeartbeatPage()
        self._posts = Posts()
        self._copying = Copying()
        self._shortage = Shortage()
        self._tenure = Tenure(always=settings.lease_seconds == 0)
        self._draining = False
        self._killed = self._crowded = False
        self._announced = False
        self._drain_until = float("inf")
        self._next_watchdog = 0.0
        self._turned = self._awake_since = time.monotonic()
        self._told: Supervised | None = None

    def run(self) -> Exit:
        """Supervise until told to stop; the exit code of the program."""
        self._selector = selectors.DefaultSelector()
        self._inbox = SignalInbox(SIGNALS)
        self._listeners = [mailbox.listen() for _ in range(self._settings.snowflake_actor_pool_size)]
        self._selector.register(self._inbox, selectors.EVENT_READ, None)
        self._births = Births(self._listeners, self._page, self._selector, self._entries, self._forget_in_child)
        self._posts.add(ChildSpec("monitor", ChildKind.MONITOR, self._entries[ChildKind.MONITOR]))
        for number in range(len(self._listeners)):
            self._posts.add(ChildSpec(f"actor-{number}", ChildKind.ACTOR, self._entries[ChildKind.ACTOR], actor=number))
        if self._settings.api_addr is not None:
            self._posts.add(ChildSpec("api", ChildKind.API, self._entries[ChildKind.API]))
        try:
            while not (self._draining and not self._posts.children()):
                self._turn()
        finally:
            self._close()
        return Exit.FAILED if self._killed else Exit.OK

    # -- the loop

    def _turn(self) -> None:
        for key, _ in self._selector.select(self._seconds_to_wait()):
            if key.data is None:
                self._take_signals()
            elif key.data is self._births.nursery:
                self._births.nursery.heard()
                self._shortage.took(0)  # if it has ended: not the next one's
            elif key.fd == key.data.pidfd:
                self._bury(key.data)
            else:
                self._hear(key.data)
        reap_orphans({child.pid for child in self._posts.children()} | {self._births.nursery.pid or 0})
        self._page.parent.beat()
        now = time.monotonic()
        if now - self._turned > FROZEN_SECONDS:
            self._awake_since = now
        self._turned = now
        fence(self._posts, self._tenure)
        kill_overdue(self._posts.children(), now)
        kill_silent(self._posts.children(), now, self._awake_since, self._settings.heartbeat_timeout_seconds)
        if self._draining:
            self._drain(now)
        self._start_due(now)
        self._tell_monitor()
        self._posts.push()
        if now >= self._next_watchdog:
            notify("WATCHDOG=1")
            self._next_watchdog = now + watchdog_seconds()

    def _seconds_to_wait(self) -> float:
        now = time.monotonic()
        due = min(self._posts.due_at(self._blocked), self._drain_until, self._next_watchdog, self._copying.due_at())
        return max(0.0, min(TURN_SECONDS_MAX, due - now, self._tenure.seconds_left(clock())))

    def _take_signals(self) -> None:
        for number in self._inbox.take():
            if number in (signal.SIGTERM, signal.SIGINT):
                self._stop()
            elif number == signal.SIGHUP:
                self._read_settings()
                self._posts.signal(signal.SIGHUP, ChildKind.MONITOR)

    def _read_settings(self) -> None:
        """Settings that can't be read change nothing."""
        try:
            self._settings = self._reread()
        except EtlError as error:
            log.error(
                "settings_not_read", kind=str(error.kind), place=error.place, reason=error.reason, remedy=error.remedy
            )

    # -- starting

    def _start_due(self, now: float) -> None:
        if not self._page.room and not self._crowded:
            log.error("children_max", children=SLOTS_MAX, remedy="run some sources at another supervisor")
        self._crowded = not self._page.room
        if not self._draining:
            self._births.nursery.keep()
        for post in list(self._posts.values()):
            if time.monotonic() > now + BIRTH_SECONDS_MAX:
                return
            if not self._blocked(post) and post.may_start(now):
                self._spawn(post)
        self._start_copies()

    def _blocked(self, post: Post) -> bool:
        """Whether its child waits for something else than the clock: its source is not ours, another has to end first, there is no room,
        or nobody is started any more."""
        waits = self._posts.makes_way(post) or self._births.wait(post.spec)
        return waits or not self._is_ours(post) or not self._page.room or self._leaving

    @property
    def _leaving(self) -> bool:
        """Whether nobody is started any more. Readers that drain wait for their actors: one that dies is replaced until the last of them is gone."""
        return self._draining and (self._killed or not self._posts.children(*DRAIN_ORDER[0]))

    def _is_ours(self, post: Post) -> bool:
        spec = post.spec.source
        return spec is None or self._tenure.holds(spec.source.id, clock())

    def _spawn(self, post: Post) -> bool:
        """False where the machine has no room for a child."""
        spec = post.spec if self._tenure.always else replace(post.spec, until=self._tenure.until)
        try:
            child = self._births.spawn(spec, self._settings)
        except OSError as error:
            post.unborn(time.monotonic(), error)
            return False
        post.child = child
        self._selector.register(child.pidfd, selectors.EVENT_READ, child)
        self._selector.register(child.connection, selectors.EVENT_READ, child)
        log.info("child_started", child=post.spec.name, pid=child.pid)
        failpoint("supervisor.after_spawn")
        return True

    def _forget_in_child(self) -> None:
        """What only the parent may hold; runs in the child after the fork."""
        self._selector.close()
        self._inbox.close_in_child()
        for child in self._posts.children():
            child.close_in_child()

    def _start_copies(self) -> None:
        """Copies that were asked for, as far as their pipelines allow."""
        readers = self._posts.sources(lambda post: post.child is not None and not post.child.stopping)
        for wanted in self._copying.take(readers, self._posts.copies()):
            if not self._page.room:
                self._copying.ask(*wanted)
                continue
            name, entry = self._posts.copy_name(wanted[0].source), self._entries[ChildKind.COPY]
            source = readers[wanted[0].source]
            spec = ChildSpec(name, ChildKind.COPY, entry, permanent=False, source=source, copies=wanted)
            if not self._spawn(self._posts.add(spec)):
                del self._posts[name]
                self._copying.ask(*wanted)

    # -- what children say

    def _hear(self, child: Child) -> None:
        try:
            while (found := child.connection.receive()) is not None:
                self._take(child, found[0])
        except (ConnectionError, ValueError):
            self._unwatch(child)  # it is ending; its pidfd tells when

    def _unwatch(self, child: Child) -> None:
        if child.connection.fileno() >= 0 and child.connection in self._selector.get_map():
            self._selector.unregister(child.connection)

    def _take(self, child: Child, message: object) -> None:
        match message:
            case Desired(sources=sources):
                self._follow(sources)
            case Leased(sources=held, until=until) if not self._tenure.always:
                self._tenure = Tenure(held, until)
            case CopyWanted() if not self._draining:
                no_longer(child, message)
                self._copying.ask(message)
            case CopyEnded(ok=ok) if (wanted := no_longer(child, message)) is not None:
                self._tell_copy_ended(wanted, ok=ok)
            case Ready():
                self._posts[child.spec.name].ready()
                self._announce()
            case Trouble(kind=kind, place=place, reason=reason, remedy=remedy):
                notify(f"STATUS={kind} at {place}: {reason}")
                log.debug("child_trouble", child=child.spec.name, kind=kind, place=place, reason=reason, remedy=remedy)
            case _:
                pass

    def _follow(self, desired: tuple[SourceSpec, ...]) -> None:
        """Make the readers what the configuration says."""
        if self._draining:
            return
        decided = changes(desired, self._posts.sources(lambda post: post.start_at is not None))
        failpoint("supervisor.after_desired")
        for spec in (*decided.start, *decided.restart):
            name = reader_name(spec.source.stream)
            new = ChildSpec(name, ChildKind.READER, self._entries[ChildKind.READER], source=spec)
            post = self._posts.get(name)
            if post is None or post.child is None:
                self._posts.add(new)
            else:
                post.spec, post.start_at = new, 0.0  # it drains, then starts as what it is to be now
                self._end(post.child)
        for name in decided.stop:
            post = self._posts[reader_name(name)]
            post.start_at = None
            if post.child is None:
                del self._posts[post.spec.name]
            else:
                self._end(post.child)

    def _announce(self) -> None:
        """READY once the monitor and all actors have booted."""
        if not self._announced and self._posts.booted():
            self._announced = True
            notify("READY=1", "STATUS=running")
            log.info("supervisor_ready", actors=len(self._listeners))
            self._on_ready()

    def _tell_monitor(self) -> None:
        """How the children are, when it has changed. Whom another supervisor has is not missed here."""
        here = (post for post in self._posts.values() if post.child is not None or self._is_ours(post))
        told = Supervised(tuple(post.status() for post in here))
        monitor = self._posts.child("monitor")
        if told == self._told or monitor is None or not monitor.ready:
            return
        if monitor.tell(told):
            self._told = told

    # -- ends

    def _bury(self, child: Child) -> None:
        """A child has ended: reap it, and decide what becomes of its post."""
        self._hear(child)  # its last words
        self._selector.unregister(child.pidfd)
        self._unwatch(child)
        code = child.reap()
        memory = self._shortage.took(code)
        failpoint("supervisor.after_reap")
        self._page.give_back(child.heartbeat)
        post = self._posts[child.spec.name]
        now = time.monotonic()
        expected = child.stopping or self._draining or not child.spec.permanent
        event = log.info if expected and code in (0, -signal.SIGTERM) else log.warning
        event("child_ended", child=child.spec.name, pid=child.pid, code=code)
        if child.spec.kind is ChildKind.ACTOR:
            self._posts.tell(self._shortage.word_of_end(child, code, memory=memory), ChildKind.READER, ChildKind.COPY)
        if child.spec.kind is ChildKind.MONITOR:
            self._told = None
        if child.spec.kind is ChildKind.READER and child.spec.source is not None:
            self._end_copies(child.spec.source.source.stream)
        if child.spec.kind is ChildKind.COPY:
            del self._posts[child.spec.name]
            if not child.stopping:  # else it was a dead reader's, and the next reader has not asked for it
                for wanted in child.copying:
                    self._tell_copy_ended(wanted, ok=False)
        elif self._leaving or post.start_at is None or (self._draining and child.spec.kind is not ChildKind.ACTOR):
            del self._posts[child.spec.name]
        elif child.stopping:
            post.child, post.start_at = None, now
        else:
            post.ended(code, now, self._chance())
            if post.breaker.state.value != "closed":
                log.error("breaker_opened", child=child.spec.name, code=code, retry_seconds=round(post.start_at - now))

    def _end_copies(self, source: str) -> None:
        """A reader's copies go with it, also those that wait: the next reader asks for them anew."""
        self._copying.forget(source)
        for child in self._posts.children():
            if child.spec.copies and child.spec.copies[0].source == source:
                self._end(child)

    def _tell_copy_ended(self, wanted: CopyWanted, *, ok: bool) -> None:
        reader = self._posts.child(reader_name(wanted.source))
        if reader is not None:
            reader.tell(CopyEnded(wanted.pipeline_id, wanted.schema, wanted.table, ok))

    # -- the end

    def _stop(self) -> None:
        """The first word to stop drains; the second kills."""
        if self._draining:
            self._killed = True
            self._posts.signal(signal.SIGKILL)
            return
        self._draining = True
        self._drain_until = time.monotonic() + self._settings.shutdown_grace_seconds + DRAIN_MARGIN_SECONDS
        notify("STOPPING=1")
        log.info("draining", seconds=self._settings.shutdown_grace_seconds)
        self._copying.forget()
        self._posts.close(ChildKind.ACTOR)

    def _drain(self, now: float) -> None:
        """End the children in order; whoever is still there at the end of the grace is killed."""
        for kinds in DRAIN_ORDER:
            present = self._posts.children(*kinds)
            for child in present:
                self._end(child)
            if present:
                break
        if now >= self._drain_until:
            log.warning("drain_cut_short", children=[child.spec.name for child in self._posts.children()])
            self._posts.signal(signal.SIGKILL)
            self._drain_until = now + ABORT_GRACE_SECONDS

    def _end(self, child: Child) -> None:
        """Let it drain; it is killed when that takes longer than a drain may."""
        if not child.stopping:
            child.stopping = True
            child.signal(signal.SIGTERM)
            allowed = self._settings.shutdown_grace_seconds + DRAIN_MARGIN_SECONDS
            child.kill_at = min(child.kill_at, time.monotonic() + allowed)

    def _close(self) -> None:
        """Only when something of ours went wrong are there children left; the kernel would end them with us anyway."""
        for child in self._posts.children():
            child.signal(signal.SIGKILL)
            child.reap()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)  # we are ending: one more signal must not cut that short
        self._births.nursery.close()
        signal.set_wakeup_fd(-1)
        self._inbox.close_in_child()
        self._selector.close()
        for listener in self._listeners:
            listener.close()
