"""The named exit codes of every process; 64-78 follow sysexits.h, so that systemd and people know them."""

from __future__ import annotations

import signal
from enum import IntEnum

from etl_supervisor.errors import Kind


class Exit(IntEnum):
    """Why a process ended by its own will. A negative code (from the parent's view) is a signal."""

    OK = 0
    FAILED = 1  # `demo` found differences, a command failed
    UNEXPECTED = 70  # EX_SOFTWARE: an error that no policy names; the log has the traceback
    UNREACHABLE = 69  # EX_UNAVAILABLE: a source, destination or store does not answer
    STREAM = 71  # the replication connection broke off; start again at once
    TEMPORARY = 75  # EX_TEMPFAIL: try again later
    REFUSED = 77  # EX_NOPERM: wrong password, missing privilege
    CONFIG = 78  # EX_CONFIG: needs a person; do not try again in a hurry
    MEMORY = 79  # an allocation failed: in an actor, what it had in hand may be too large


_BY_KIND = {
    Kind.CONFIG: Exit.CONFIG,
    Kind.SOURCE_SETUP: Exit.CONFIG,
    Kind.DESTINATION_SETUP: Exit.CONFIG,
    Kind.SLOT_LOST: Exit.CONFIG,
    Kind.WALSENDER: Exit.CONFIG,
    Kind.SOURCE_AUTH: Exit.REFUSED,
    Kind.DESTINATION_AUTH: Exit.REFUSED,
    Kind.SOURCE_UNREACHABLE: Exit.UNREACHABLE,
    Kind.DESTINATION_UNREACHABLE: Exit.UNREACHABLE,
    Kind.CONFIG_DATABASE: Exit.UNREACHABLE,
    Kind.STATE_STORE: Exit.UNREACHABLE,
    Kind.STREAM: Exit.STREAM,
    Kind.EMBEDDED: Exit.TEMPORARY,
    Kind.COPY: Exit.TEMPORARY,
    Kind.SPOOL: Exit.TEMPORARY,
}


# What a process does to itself: memory that is not its own, an instruction that is none, abort().
_CRASHES = frozenset({signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT})


def crashed_by_itself(code: int) -> bool:
    """Whether an exit code (negative: a signal) tells of a fault in the process. Who sent a signal is not told: SIGKILL and SIGTERM come from
    outside (SIGKILL also from the kernel for want of memory: see `supervision.shortage`)."""
    return -code in _CRASHES or code == Exit.MEMORY


def code_of(kind: Kind) -> Exit:
    """The exit code that tells the parent what kind of failure ended a process."""
    return _BY_KIND.get(kind, Exit.UNEXPECTED)
