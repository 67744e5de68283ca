"""A server program that lives exactly as long as we do.

Order of a start:

1. `data_lock` takes an flock on a file beside the data. The descriptor is handed to the server, which hands it to all of
   its own children: the lock is free again when the last process of that run is gone, however it died.
2. `ServerProcess` starts `launch.py` in a session of its own (Ctrl-C of the terminal does not reach it), which drops
   root, asks the kernel to be signalled when we die, and becomes the server. The server's environment holds nothing of
   ours, so no secret of ours either. Its output goes to a log file.
3. `await_ready` asks until the server answers, has ended, or the time is up.

What a crash leaves: `kill -9` of us makes the kernel send the death signal, and the server shuts down in order; the next
start finds the lock taken by a run whose starter is dead and waits for it. `kill -9` of the server leaves its data, which
the server itself recovers. The death signal belongs to the *thread* that started the server: start it from one that lives
on (the main thread).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from etl_supervisor.errors import EtlError, Kind

LAUNCHER = Path(__file__).with_name("launch.py")
POLL_S = 0.01  # between two looks at a state; a server needs about 30 ms to start
READY_DEADLINE_S = 60.0  # crash recovery of a large WAL takes its time
LOCK_DEADLINE_S = 30.0  # an orderly shutdown writes a checkpoint first
LOG_BYTES_MAX = 10_000_000  # a larger log is set aside (one older copy is kept) at the next start
IN_USE_GRACE_S = 0.5  # a starter that is being killed looks alive a moment longer
LOCK_BYTES_MAX = 64  # two process ids
LOG_TAIL_BYTES = 1_500  # what an error line may quote
SECRET_BYTES = 24  # 192 bits, 32 characters of URL-safe text
SERVER_ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
TRAVERSE_MODE = 0o711  # for directories we make: others may pass through, not list


@dataclass(frozen=True)
class Account:
    """The account a server runs under when we are root."""

    name: str
    uid: int
    gid: int

    def run_options(self) -> dict[str, object]:
        """Keywords for `subprocess` that run a program as this account, without any other group."""
        return {"user": self.uid, "group": self.gid, "extra_groups": []}


@dataclass(frozen=True)
class ServerCommand:
    """What to run, for whom, and where its output goes. The program is named by its full path."""

    place: str  # the server's name in errors
    argv: Sequence[str]
    log_path: Path
    account: Account | None = None  # None: the account we run under
    death_signal: signal.Signals = signal.SIGTERM  # what the kernel sends when we die


class ServerProcess:
    """A running server. It shares the `lock` (a descriptor from `data_lock`) and keeps it when we let go."""

    def __init__(self, command: ServerCommand, lock: int) -> None:
        self._command = command
        _set_aside_large(command.log_path)
        account = command.account
        command.log_path.touch(mode=0o600)  # a server may quote a statement, and with it a value
        give(command.log_path, account)
        with command.log_path.open("ab") as log:
            self._log_start = log.tell()
            launcher = [sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid()), str(int(command.death_signal))]
            identity = [str(account.uid), str(account.gid)] if account else ["-1", "-1"]
            self._process = subprocess.Popen(
                [*launcher, *identity, *command.argv],
                cwd="/",
                env=SERVER_ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=[lock],
            )
        os.pwrite(lock, f"{os.getpid()} {self._process.pid}\n".encode(), 0)

    @property
    def pid(self) -> int:
        """Process id of the server."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the server has not ended yet."""
        return self._process.poll() is None

    def await_ready(self, answers: Callable[[], bool], deadline_s: float = READY_DEADLINE_S) -> None:
        """Wait until `answers()`; an EtlError quotes the log when the server ends or stays silent."""
        end = time.monotonic() + deadline_s
        while not answers():
            if not self.running:
                raise self._failure(f"ended with exit code {self._process.returncode} while starting")
            if time.monotonic() > end:
                self.stop([])
                raise self._failure(f"not ready after {deadline_s:.0f} s")
            time.sleep(POLL_S)

    def stop(self, steps: Sequence[tuple[signal.Signals, float]]) -> None:
        """End the server: each signal with the seconds it is given, then SIGKILL. Harmless when it has ended."""
        for number, patience_s in steps:
            if not self.running:
                return
            self._process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(patience_s)
        if self.running:
            self._process.kill()
            self._process.wait()

    def _failure(self, reason: str) -> EtlError:
        log = self._command.log_path
        with log.open("rb") as file:
            file.seek(max(self._log_start, log.stat().st_size - LOG_TAIL_BYTES))
            said = file.read().decode(errors="replace").strip() or "nothing"
        return EtlError(Kind.EMBEDDED, self._command.place, f"{reason}; it said: {said}", f"the whole log: {log}")


@contextlib.contextmanager
def data_lock(path: Path, place: str, deadline_s: float = LOCK_DEADLINE_S) -> Iterator[int]:
    """The right to the data beside `path`, as a descriptor; waits for a run that is ending, refuses while one is alive.

    The file holds two process ids, the starter's and the server's: while both live, nobody is ending.
    """
    began = time.monotonic()
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while not _locked(lock):
            owners = [int(pid) for pid in os.pread(lock, LOCK_BYTES_MAX, 0).split()]
            in_use = owners and all(_is_alive(pid) for pid in owners)
            if time.monotonic() - began > (IN_USE_GRACE_S if in_use else deadline_s):
                several = "es" if len(set(owners)) > 1 else ""
                who = " and ".join(str(pid) for pid in dict.fromkeys(owners))
                raise EtlError(
                    Kind.EMBEDDED,
                    place,
                    f"its data is in use by another run (process{several} {who})",
                    "stop that run, or give this one a data directory of its own",
                )
            time.sleep(POLL_S)
        os.ftruncate(lock, 0)
        yield lock
    finally:
        os.close(lock)


def server_account(data_dir: Path) -> Account | None:
    """Whom to run a server as that refuses root: None when we are not root.

    An existing data directory keeps its owner (a run as root may follow one without); else `postgres`, else `nobody`.
    """
    if os.geteuid() != 0:
        return None
    if data_dir.exists() and (uid := data_dir.stat().st_uid) != 0:
        return Account(str(uid), uid, data_dir.stat().st_gid)
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return Account(name, entry.pw_uid, entry.pw_gid)
    raise EtlError(
        Kind.EMBEDDED,
        "this machine",
        "PostgreSQL refuses to run as root, and there is neither an account `postgres` nor `nobody`",
        "create one of them, or run as another user",
    )


def beside(data_dir: Path, suffix: str) -> Path:
    """The file next to a data directory that belongs to it: `beside(.local/postgres, "log")` = .local/postgres.log."""
    return data_dir.with_name(f"{data_dir.name}.{suffix}")


def secret_in(path: Path, account: Account | None = None) -> str:
    """The secret kept in this file (mode 0600, owned by the server's account); made on the first call."""
    if not path.exists():
        draft = path.with_name(path.name + ".new")
        draft.unlink(missing_ok=True)
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(SECRET_BYTES))
        give(draft, account)
        draft.rename(path)
    return path.read_text().strip()


def give(path: Path, account: Account | None) -> None:
    """Make the server's account the owner of a file or directory; nothing to do when we are that account."""
    if account is not None:
        os.chown(path, account.uid, account.gid)


def make_directories(path: Path) -> None:
    """Make a directory and its missing parents so that the server's account may pass through; others stay as they are."""
    if not path.is_dir():
        make_directories(path.parent)
        path.mkdir(exist_ok=True)
        path.chmod(TRAVERSE_MODE)


def _locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_alive(pid: int) -> bool:
    """A killed process that its parent has not waited for yet ("Z") is not alive."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _set_aside_large(log: Path) -> None:
    if log.exists() and log.stat().st_size > LOG_BYTES_MAX:
        log.replace(log.with_name(log.name + ".1"))
