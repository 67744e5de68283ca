"""The nursery: a process that has imported what readers, copy workers and actors work with, and forks them from it.

A child that begins with its imports is there after a second of a core's time, one that is forked here after some ten milliseconds; and its libraries
are the nursery's memory, as long as nobody writes there. The supervisor stays as it is: one thread, no Arrow, no SDK.

    supervisor ──order, the child's end of its connection──► nursery ──fork──► intermediate ──fork──► child
        ▲                                                                        (it ends)             │
        └── the child's pid, when it is the supervisor's own; a byte back, when it is known ───────────┘

The supervisor is a subreaper (PR_SET_CHILD_SUBREAPER): who loses his parent below it becomes its child, with its exit code, and dies with it. A child
that it does not know of (it had given up, or died) finds its connection closed, and ends before it has begun.
The nursery runs nothing but imports: no thread, no connection. If it dies, or does not answer, children are forked by the supervisor and import for
themselves, until there is another nursery.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import os
import selectors
import signal
import socket
import struct
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any, NoReturn

import multiprocess
import multiprocess.connection
import structlog
from multiprocess import reduction

from etl_supervisor.exits import Exit
from etl_supervisor.ipc import mailbox
from etl_supervisor.supervision.signals import SIGNALS, held

NAME = "etl-nursery"
ANSWER_SECONDS_MAX = 2.0  # for two forks: it is stopped or hangs then, and the supervisor has others to look after
IMPORT_SECONDS_MAX = 30.0  # a second of a core's time, usually; children wait for it
AGAIN_SECONDS = 30.0  # from one to the next, and after imports that failed: what runs needs the cores, too
_PR_SET_PDEATHSIG, _PR_SET_NAME, _PR_SET_CHILD_SUBREAPER = 1, 15, 36
# Threads of libraries that nobody needs here; a fork would lose them. They are read when the libraries are imported.
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false"}

_libc = ctypes.CDLL(None, use_errno=True)
_fork = multiprocess.get_context("fork")
_GO = b"\1"

log = structlog.get_logger()

# Of an order, the child's end of its connection and the supervisor's pid: the child's life, and its exit code.
Live = Callable[[Any, mailbox.Connection, int], int]


@dataclass(slots=True)
class Forked:
    """A child that the nursery has forked, as `multiprocess.Process` shows its own."""

    pid: int
    exitcode: int | None = None

    def join(self) -> None:
        """Wait for its end."""
        _, status = os.waitpid(self.pid, 0)
        self.exitcode = os.waitstatus_to_exitcode(status)

    def close(self) -> None:
        """Nothing is kept."""


class Nursery:
    """The supervisor's view. `live` is what a child does; `forget` closes what only the supervisor may hold; `selector` gets the nursery's words,
    with `self` as data."""

    def __init__(
        self, modules: Iterable[str], live: Live, forget: Callable[[], None], selector: selectors.BaseSelector
    ) -> None:
        self._modules, self._live, self._forget, self._selector = frozenset(modules), live, forget, selector
        self._process: multiprocess.Process | None = None
        self._pipe: multiprocess.connection.Connection | None = None
        self._again_at = self._begun = 0.0
        self.ready = False

    def keep(self) -> None:
        """Make one, if there is none and it is time. Its imports are awaited by nobody: `heard` tells."""
        now = time.monotonic()
        if self.importing and now > self._begun + IMPORT_SECONDS_MAX:
            self._lose("no end of its imports")
        if self._process is None and now >= self._again_at and _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0:
            self._begun = now
            self._start()

    @property
    def pid(self) -> int | None:
        """Its pid."""
        return None if self._process is None else int(self._process.pid)

    def knows(self, module: str) -> bool:
        """Whether it imports this."""
        return module in self._modules

    @property
    def importing(self) -> bool:
        """True while it is worth to wait for it."""
        return self._process is not None and not self.ready

    def heard(self) -> None:
        """It is ready, or it has ended."""
        assert self._pipe is not None
        try:
            self.ready = bool(self._pipe.recv())
        except (EOFError, OSError):
            self._lose("ended")

    def fork(self, order: Any, ours: mailbox.Connection, theirs: mailbox.Connection) -> Forked | None:
        """Have a child forked that has `theirs`; None when it can't be: then nobody may use this connection any more."""
        if not self.ready or self._pipe is None:
            return None
        try:
            self._pipe.send(order)
            reduction.send_handle(self._pipe, theirs.fileno(), self.pid)
            if self._pipe.poll(ANSWER_SECONDS_MAX):
                child = Forked(int(self._pipe.recv()))
                os.write(ours.fileno(), _GO)
                return child
        except (EOFError, OSError):
            pass
        self._lose("no answer")
        return None

    def close(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process.close()
        if self._pipe is not None:
            self._selector.unregister(self._pipe)
            self._pipe.close()
        self._process = self._pipe = None
        self.ready = False

    def close_in_child(self) -> None:
        """In a child of the supervisor's: the nursery is none of its business."""
        if self._pipe is not None:
            self._pipe.close()

    def _start(self) -> None:
        ours, theirs = multiprocess.Pipe()
        parent = os.getpid()

        def body() -> None:
            self._forget()
            ours.close()
            os._exit(_serve(theirs, self._modules, self._live, parent))

        self._process = _fork.Process(target=body, name="nursery", daemon=False)
        with held(SIGNALS):
            self._process.start()
        theirs.close()
        with socket.socket(fileno=os.dup(ours.fileno())) as same:
            same.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(ANSWER_SECONDS_MAX), 0))
        self._pipe = ours
        self._selector.register(ours, selectors.EVENT_READ, self)

    def _lose(self, reason: str) -> None:
        now = time.monotonic()
        self._again_at = max(now, (self._begun if self.ready else now) + AGAIN_SECONDS)
        log.warning("nursery_lost", pid=self.pid, reason=reason, again_seconds=round(self._again_at - now, 1))
        self.close()


def _serve(pipe: multiprocess.connection.Connection, modules: Collection[str], live: Live, parent: int) -> int:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        return 1
    _libc.prctl(_PR_SET_NAME, NAME.encode(), 0, 0, 0)
    signal.set_wakeup_fd(-1)
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # here for ever; for a child until it is itself
    os.environ.update(_ONE_THREAD)
    gc.disable()
    for module in sorted(modules):
        importlib.import_module(module)
    gc.freeze()
    with contextlib.suppress(EOFError, OSError):
        pipe.send(True)
        while True:
            order = pipe.recv()
            with socket.socket(fileno=reduction.recv_handle(pipe)) as theirs:
                intermediate = os.fork()
                if intermediate == 0:
                    _bear(pipe, order, theirs, live, parent)
                os.waitpid(intermediate, 0)
    return 0


def _bear(
    pipe: multiprocess.connection.Connection, order: Any, theirs: socket.socket, live: Live, parent: int
) -> NoReturn:
    """In the intermediate: the child. It tells its pid as soon as it is the supervisor's."""
    ours = os.getpid()
    if os.fork():
        os._exit(0)
    while os.getppid() == ours:
        time.sleep(0.0005)
    with contextlib.suppress(OSError):
        pipe.send(os.getpid())
    pipe.close()
    code = int(Exit.UNEXPECTED)
    try:
        theirs.setblocking(True)
        if theirs.recv(len(_GO)) == _GO:
            code = live(order, mailbox.Connection(theirs), parent)
    finally:
        os._exit(code)  # whatever happened: here nobody is the nursery
