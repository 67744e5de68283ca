"""A post: one name that a child fills, over all its restarts. It remembers what the children themselves forget."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from etl_supervisor.exits import Exit, code_of
from etl_supervisor.ipc.messages import ActorEnded, CopyWanted
from etl_supervisor.model.child import ChildStatus
from etl_supervisor.model.pipeline import SourceSpec
from etl_supervisor.policy import DIRECTIVES, Directive
from etl_supervisor.supervision.births import Child
from etl_supervisor.supervision.breaker import Breaker, State
from etl_supervisor.supervision.intensity import FIRST_DELAY_SECONDS, STEADY_SECONDS, Intensity
from etl_supervisor.supervision.spec import ChildKind, ChildSpec

# Exit codes after which starting again at once can't help.
NEEDS_A_PERSON = frozenset(code_of(kind) for kind, what in DIRECTIVES.items() if what is Directive.PERSON)
UNBORN_SECONDS = 5.0  # until a machine that had no room for a child is asked again
UNBORN_REMEDY = "raise the limit of processes, descriptors or memory of the service (TasksMax, pids.max, ulimit), or run fewer sources here"

log = structlog.get_logger()


@dataclass(slots=True)
class Post:
    """`start_at` is when the next child is due (monotonic seconds; None: none is wanted)."""

    spec: ChildSpec
    intensity: Intensity = field(default_factory=Intensity)
    breaker: Breaker = field(default_factory=Breaker)
    child: Child | None = None
    start_at: float | None = 0.0
    restarts: int = 0

    def may_start(self, now: float) -> bool:
        """True when a child is wanted, due, and the breaker lets it."""
        due = self.child is None and self.start_at is not None and now >= self.start_at
        return due and self.breaker.trial(now)

    def ready(self) -> None:
        """The child has booted."""
        if self.child is not None:
            self.child.ready = True
        if self.breaker.state is not State.OPEN:
            self.breaker.ready()

    def ended(self, code: int, now: float, chance: float) -> None:
        """The child is gone and should not be: decide when the next one may start. A stream that breaks off after a steady life tells nothing of
        the child: it does not count."""
        steady = self.child is not None and self.child.ready and now - self.child.started >= STEADY_SECONDS
        self.child = None
        self.restarts += 1
        broken_off = steady and code == Exit.STREAM
        delay = chance * FIRST_DELAY_SECONDS if broken_off else self.intensity.ended(now, chance, steady=steady)
        if code in NEEDS_A_PERSON or delay is None or self.breaker.state is State.HALF_OPEN:
            self.breaker.trip(now)
            self.intensity.forget()
            self.start_at = self.breaker.retry_at
        else:
            self.start_at = now + delay

    def unborn(self, now: float, error: OSError) -> None:
        """There was no process, descriptor or memory for the child: it is tried again, and the trial of a breaker was none."""
        if self.breaker.state is State.HALF_OPEN:
            self.breaker.trip(now)
        self.start_at = max(self.breaker.retry_at, now + UNBORN_SECONDS)
        log.error("child_not_started", child=self.spec.name, reason=error.strerror, remedy=UNBORN_REMEDY)

    def status(self) -> ChildStatus:
        """For the metrics."""
        return ChildStatus(self.spec.name, self.child is not None, self.restarts, self.breaker.state.value)

    def due_at(self) -> float:
        """When something may have to be done by time alone."""
        if self.child is not None:
            return self.child.kill_at
        return float("inf") if self.start_at is None else self.start_at


class Posts(dict[str, Post]):
    """All posts of a supervisor, by name."""

    def add(self, spec: ChildSpec) -> Post:
        """A new post, in place of one of that name."""
        self[spec.name] = post = Post(spec)
        return post

    def child(self, name: str) -> Child | None:
        """Who fills the post of this name; None when nobody does."""
        post = self.get(name)
        return post.child if post is not None else None

    def children(self, *kinds: ChildKind) -> list[Child]:
        """The children that run: all of them, or those of some kinds."""
        running = (post.child for post in self.values() if not kinds or post.spec.kind in kinds)
        return [child for child in running if child is not None]

    def signal(self, number: signal.Signals, *kinds: ChildKind) -> None:
        """Send a signal to all of them, or to those of some kinds."""
        for child in self.children(*kinds):
            child.signal(number)

    def tell(self, message: ActorEnded, *kinds: ChildKind) -> None:
        """Send a message to those of some kinds."""
        for child in self.children(*kinds):
            child.tell(message)

    def push(self) -> None:
        """Send what was told to children and did not fit into their sockets."""
        for child in self.children():
            child.push()

    def close(self, *kept: ChildKind) -> None:
        """Nobody is wanted any more where nobody is, these kinds apart."""
        for post in [post for post in self.values() if post.child is None and post.spec.kind not in kept]:
            del self[post.spec.name]

    def sources(self, which: Callable[[Post], bool]) -> dict[str, SourceSpec]:
        """What the readers of some posts have been told to read, by the names of their sources."""
        return {
            post.spec.source.source.stream: post.spec.source
            for post in self.values()
            if post.spec.kind is ChildKind.READER and post.spec.source is not None and which(post)
        }

    def makes_way(self, post: Post) -> bool:
        """True while another reader of the same source drains: a pipeline goes from one stream to another when the first has ended."""
        source = post.spec.source.source.id if post.spec.source is not None else None
        others = (
            child for child in self.children(ChildKind.READER) if child.stopping and child.spec.source is not None
        )
        return any(child.spec.source.source.id == source for child in others if child.spec.source is not None)

    def copies(self) -> list[tuple[CopyWanted, ...]]:
        """What each copy worker has still to do."""
        return [tuple(child.copying) for child in self.children(ChildKind.COPY)]

    def copy_name(self, source: str) -> str:
        """The lowest number that is free: metrics files are named by it, and there must not be one per copy ever made."""
        return next(name for n in itertools.count(1) if (name := f"copy-{n}-{source}") not in self)

    def booted(self) -> bool:
        """True when the monitor and every actor are there and ready."""
        base = [post.child for post in self.values() if post.spec.kind in (ChildKind.MONITOR, ChildKind.ACTOR)]
        return all(child is not None and child.ready for child in base)

    def due_at(self, blocked: Callable[[Post], bool]) -> float:
        """When something may have to be done for one of them by time alone; a child that is `blocked` is not started by time."""
        timed = (post.due_at() for post in self.values() if post.child is not None or not blocked(post))
        return min(timed, default=float("inf"))
