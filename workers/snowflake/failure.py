"""The streaming SDK's errors -> what to do: one table, with a line for every code that the SDK has.

AGAIN    back-pressure: the same append, a moment later
REOPEN   the channel or its client is dead: the publisher opens it again (each open makes a client of its own) and sends what was not durable;
         the committed token makes that exact
OUTAGE   no answer for as long as we let the SDK try: the same, at growing distances
AUTH     key, user or role: opening again in a hurry can't help
SETUP    a setting: opening again in a hurry can't help
"""

from __future__ import annotations

import traceback
from enum import Enum, auto

import structlog

from etl_supervisor.errors import EtlError, Kind

log = structlog.get_logger()


class Cure(Enum):
    """What to do about an error of the SDK."""

    AGAIN = auto()
    REOPEN = auto()
    OUTAGE = auto()
    AUTH = auto()
    SETUP = auto()


CURES: dict[str, Cure] = {
    "RECEIVER_SATURATED": Cure.AGAIN,
    "MEMORY_THRESHOLD_EXCEEDED": Cure.AGAIN,
    "MEMORY_THRESHOLD_EXCEEDED_IN_CONTAINER": Cure.AGAIN,
    "HTTP_RETRYABLE_CLIENT_ERROR": Cure.AGAIN,
    "AUTH_TOKEN_ERROR": Cure.AUTH,
    "SF_API_AUTH_ERROR": Cure.AUTH,
    "CONFIG_ERROR": Cure.SETUP,
    "INVALID_REQUEST": Cure.SETUP,
    "INVALID_ARGUMENT": Cure.SETUP,
    "NOT_IMPLEMENTED": Cure.SETUP,
    "ELASTIC_CHANNEL_RESERVED_NAME": Cure.SETUP,
    "CANNOT_DROP_ELASTIC_CHANNEL": Cure.SETUP,
    "SF_API_USER_ERROR": Cure.REOPEN,
    "HTTP_CLIENT_NON_RETRYABLE_ERROR": Cure.REOPEN,
    "SF_API_PIPE_FAILED_OVER_ERROR": Cure.REOPEN,
    "CHANNEL_ALREADY_EXISTS": Cure.REOPEN,
    "CHANNEL_NOT_FOUND": Cure.REOPEN,
    "SF_API_NOT_FOUND_ERROR": Cure.REOPEN,  # an open creates what is missing
    "CHANNEL_WAIT_FOR_FLUSH_TIMEOUT": Cure.REOPEN,
    "CLIENT_WAIT_FOR_FLUSH_TIMEOUT": Cure.REOPEN,
    "CLOSED_CHANNEL_ERROR": Cure.REOPEN,
    "CLOSED_ELASTIC_CHANNEL_ERROR": Cure.REOPEN,
    "CLOSED_CLIENT_ERROR": Cure.REOPEN,
    "CHANNEL_CLOSED_BY_USER": Cure.REOPEN,
    "INVALID_CHANNEL_ERROR": Cure.REOPEN,
    "INVALID_CLIENT_ERROR": Cure.REOPEN,
    "INPUT_CHANNEL_CLOSED": Cure.REOPEN,
    "OUTPUT_CHANNEL_CLOSED": Cure.REOPEN,
    "FATAL": Cure.REOPEN,
    "NON_FATAL": Cure.REOPEN,
    "MUTEX_LOCK_FAILED": Cure.REOPEN,
    "SF_API_UNEXPECTED_BEHAVIOR_ERROR": Cure.REOPEN,
    "SF_API_INTERNAL_SERVER_ERROR": Cure.REOPEN,
    "FILE_UPLOAD_ERROR": Cure.REOPEN,
    "HTTP_RETRIES_EXHAUSTED_ERROR": Cure.OUTAGE,
    "CLOSE_ALL_CHANNELS_FAILED_ERROR": Cure.REOPEN,
}
_AUTH_STATUSES = (401, 403)  # whatever code the SDK gives them


def cure(code: str, status: int) -> Cure:
    """What to do, from the name of the SDK's error code and the HTTP status (0: none). A code of a later SDK is worth a new channel."""
    return Cure.AUTH if status in _AUTH_STATUSES else CURES.get(code, Cure.REOPEN)


def explain(error: Exception, place: str) -> tuple[Cure, EtlError]:
    """An error of the SDK in our words. Its own message is left out: it may repeat what was sent."""
    code = str(getattr(getattr(error, "error_code", None), "name", type(error).__name__))
    status = int(getattr(error, "http_status_code", None) or 0)
    text = f"{code} ({status})" if status else code
    what = cure(code, status)
    return what, _FAILURES[what](place, text)


def unforeseen(error: BaseException, operation: str, place: str) -> EtlError:
    """An error that nobody has named, logged. Not its text: it may hold a value."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    log.error("job_crashed", operation=operation, error=type(error).__name__, at=f"{where.name}:{where.lineno}")
    reason = f"{operation} failed: {type(error).__name__} in {where.name}"
    return EtlError(Kind.INTERNAL, place, reason, "see the actor's log", transient=True)


def _again(place: str, text: str) -> EtlError:
    remedy = "the same rows are tried again by themselves"
    return EtlError(Kind.CHANNEL, place, f"Snowpipe Streaming is saturated: {text}", remedy, transient=True)


def _reopen(place: str, text: str) -> EtlError:
    remedy = "the channel is opened again by itself"
    return EtlError(Kind.CHANNEL, place, f"the channel broke: {text}", remedy, transient=True)


def _outage(place: str, text: str) -> EtlError:
    remedy = "it is tried again by itself, at growing distances"
    return EtlError(
        Kind.DESTINATION_UNREACHABLE, place, f"Snowpipe Streaming does not answer: {text}", remedy, transient=True
    )


def _auth(place: str, text: str) -> EtlError:
    remedy = "check the user's public key and the role's privileges (docs/snowflake.md)"
    return EtlError(Kind.DESTINATION_AUTH, place, f"Snowpipe Streaming refuses: {text}", remedy)


def _setup(place: str, text: str) -> EtlError:
    remedy = "check the destination's settings"
    return EtlError(Kind.DESTINATION_SETUP, place, f"Snowpipe Streaming: {text}", remedy)


_FAILURES = {Cure.AGAIN: _again, Cure.REOPEN: _reopen, Cure.OUTAGE: _outage, Cure.AUTH: _auth, Cure.SETUP: _setup}
