"""The nursery: a process that has imported what readers, copy workers and actors work with, and forks them from it.

A child that begins with its imports is there after a second of a core's time, one that is forked here after some ten milliseconds; and its libraries
are the nursery's memory, as long as nobody writes there. The supervisor stays as it is: one thread, no Arrow, no SDK.

    supervisor ──order, the child's end of its connection──► nursery ──fork──► intermediate ──fork──► child
        ▲                                                                        (it ends)             │
        └── the child's pid, when it is the supervisor's own; a byte back, when it is known ───────────┘

The supervisor is a subreaper (PR_SET_CHILD_SUBREAPER): who loses his parent below it becomes its child, with its exit code, and dies with it. A child
that it does not know of (it had given up, or died) finds its connection closed, and ends before it has begun.
The nursery runs nothing but imports: no thread, no connection. If it dies, or does not answer, children are forked by the supervisor and import for
themselves, until there is another nursery. Nothing that goes wrong with it ends or stops the supervisor.

An order on the socket: length (4 bytes, big endian), with it the descriptor; then as many bytes of pickle. The answer: the pid (4 bytes).
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import os
import pickle
import select
import selectors
import signal
import socket
import struct
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any, NoReturn

import structlog

from etl_supervisor.exits import Exit
from etl_supervisor.ipc import mailbox
from etl_supervisor.supervision.signals import SIGNALS, held

NAME, NEWBORN = "etl-nursery", "etl-newborn"
ANSWER_SECONDS_MAX = 0.6  # for two forks, usually 0.02: less than FENCE_SECONDS, in which the supervisor has to kill what is not its own any more
IMPORT_SECONDS_MAX = 30.0  # a second of a core's time, usually
WAIT_SECONDS_MAX = 5.0  # a child waits for the imports so long, then it makes its own
AGAIN_SECONDS = (
    30.0  # from one to the next: what runs needs the cores, too; doubled after each whose imports did not end
)
AGAIN_SECONDS_MAX = 960.0
_END_SECONDS_MAX = 1.0  # a process that was killed may be in the middle of a read from a disk that does not answer
_PR_SET_PDEATHSIG, _PR_SET_NAME, _PR_SET_CHILD_SUBREAPER = 1, 15, 36
# Threads of libraries that nobody needs here; a fork would lose them. They are read when the libraries are imported.
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false"}

_libc = ctypes.CDLL(None, use_errno=True)
_NUMBER = struct.Struct("!I")
_READY = _GO = b"\1"

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
        self._socket: socket.socket | None = None
        self._begun = self._again_at = 0.0
        self._pause = AGAIN_SECONDS
        self.pid: int | None = None
        self.ready = False

    def keep(self) -> None:
        """Make one, if there is none and it is time. Its imports are awaited by nobody: `heard` tells."""
        now = time.monotonic()
        if self.pid is not None and not self.ready and now > self._begun + IMPORT_SECONDS_MAX:
            self._lose("no end of its imports")
        if self.pid is None and now >= self._again_at and _become_subreaper():
            self._begun = now
            try:
                self._start()
            except OSError as error:
                self._again_at = now + AGAIN_SECONDS
                log.warning("nursery_not_forked", reason=error.strerror, again_seconds=AGAIN_SECONDS)

    def knows(self, module: str) -> bool:
        """Whether it imports this."""
        return module in self._modules

    @property
    def importing(self) -> bool:
        """True while it is worth to wait for it."""
        return self.pid is not None and not self.ready and time.monotonic() < self._begun + WAIT_SECONDS_MAX

    def heard(self) -> None:
        """It is ready, or it has ended."""
        assert self._socket is not None
        try:
            word = self._socket.recv(len(_READY), socket.MSG_DONTWAIT)
        except (BlockingIOError, TimeoutError):
            return
        except OSError:
            word = b""
        if word == _READY:
            self.ready, self._pause = True, AGAIN_SECONDS
        else:
            self._lose("ended")

    def fork(self, order: Any, ours: mailbox.Connection, theirs: mailbox.Connection) -> Forked | None:
        """Have a child forked that has `theirs`; None when it can't be: then nobody may use this connection any more."""
        if not self.ready or self._socket is None:
            return None
        frame, end = pickle.dumps(order), time.monotonic() + ANSWER_SECONDS_MAX
        try:
            self._socket.settimeout(ANSWER_SECONDS_MAX)
            socket.send_fds(self._socket, [_NUMBER.pack(len(frame))], [theirs.fileno()])
            self._socket.sendall(frame)
            self._socket.settimeout(max(0.001, end - time.monotonic()))
            child = Forked(*_NUMBER.unpack(self._socket.recv(_NUMBER.size)))
            os.write(ours.fileno(), _GO)
        except (OSError, struct.error):
            self._lose("no answer")
            return None
        return child

    def close(self) -> None:
        """End it, and see its end if that comes soon."""
        pid = self.pid
        self._end()
        if pid is None:
            return
        with contextlib.suppress(OSError):
            ended = os.pidfd_open(pid)
            select.select([ended], [], [], _END_SECONDS_MAX)
            os.close(ended)
            os.waitpid(pid, os.WNOHANG)

    def close_in_child(self) -> None:
        """In a child of the supervisor's: the nursery is none of its business."""
        if self._socket is not None:
            self._socket.close()

    def _start(self) -> None:
        parent = os.getpid()
        ours, theirs = socket.socketpair()
        try:
            with held(SIGNALS):
                pid = os.fork()
                if pid == 0:
                    code = int(Exit.UNEXPECTED)
                    try:
                        self._forget()
                        ours.close()
                        code = _serve(theirs, self._modules, self._live, parent)
                    finally:
                        os._exit(code)  # whatever happened: here nobody is the supervisor
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        self.pid, self._socket = pid, ours
        self._selector.register(ours, selectors.EVENT_READ, self)

    def _lose(self, reason: str) -> None:
        now = time.monotonic()
        if self.ready:
            self._again_at = max(now, self._begun + AGAIN_SECONDS)
        else:
            self._again_at, self._pause = now + self._pause, min(2 * self._pause, AGAIN_SECONDS_MAX)
        log.warning("nursery_lost", pid=self.pid, reason=reason, again_seconds=round(self._again_at - now, 1))
        self._end()

    def _end(self) -> None:
        """Whoever looks after orphans sees its end: nobody waits for it here."""
        if self.pid is not None:
            os.kill(self.pid, signal.SIGKILL)
        if self._socket is not None:
            self._selector.unregister(self._socket)
            self._socket.close()
        self.pid = self._socket = None
        self.ready = False


def _become_subreaper() -> bool:
    return int(_libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)) == 0


def _serve(orders: socket.socket, modules: Collection[str], live: Live, parent: int) -> int:
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
    with contextlib.suppress(OSError):
        orders.sendall(_READY)
        while True:
            header, descriptors, _, _ = socket.recv_fds(orders, _NUMBER.size, 1)
            if not header:
                break
            with socket.socket(fileno=descriptors[0]) as theirs:
                (length,) = _NUMBER.unpack(header)
                order = orders.recv(length, socket.MSG_WAITALL)
                intermediate = os.fork()
                if intermediate == 0:
                    _bear(orders, order, theirs, live, parent)
                os.waitpid(intermediate, 0)
    return 0


def _bear(orders: socket.socket, order: bytes, theirs: socket.socket, live: Live, parent: int) -> NoReturn:
    """In the intermediate: the child. It tells its pid as soon as it is the supervisor's."""
    code = int(Exit.UNEXPECTED)
    try:
        ours = os.getpid()
        if os.fork():
            code = 0
        else:
            _libc.prctl(_PR_SET_NAME, NEWBORN.encode(), 0, 0, 0)
            while os.getppid() == ours:
                time.sleep(0.0005)
            with contextlib.suppress(OSError):
                orders.sendall(_NUMBER.pack(os.getpid()))
            orders.close()
            theirs.setblocking(True)
            if theirs.recv(len(_GO)) == _GO:
                code = live(pickle.loads(order), mailbox.Connection(theirs), parent)  # noqa: S301 - from the supervisor
    finally:
        os._exit(code)  # whatever happened: here nobody is the nursery
