"""The streaming SDK's errors -> what to do: one table.

AGAIN    back-pressure: the same append, a moment later
REOPEN   the channel (or its client) is dead: the reader opens it again and sends what was not durable; the token makes that exact
PERSON   configuration or privileges: opening again in a hurry can't help
"""

from __future__ import annotations

from enum import Enum, auto

from etl_supervisor.errors import EtlError, Kind


class Cure(Enum):
    """What to do about an error of the SDK."""

    AGAIN = auto()
    REOPEN = auto()
    PERSON = auto()


_BACK_PRESSURE = frozenset(
    {
        "RECEIVER_SATURATED",
        "MEMORY_THRESHOLD_EXCEEDED",
        "MEMORY_THRESHOLD_EXCEEDED_IN_CONTAINER",
        "HTTP_RETRYABLE_CLIENT_ERROR",
    }
)
_SETUP = frozenset({"CONFIG_ERROR", "INPUT_VALIDATION_ERROR", "INVALID_REQUEST"})
_AUTH = frozenset({"AUTH_TOKEN_ERROR"})


def cure(code: str, status: int) -> Cure:
    """What to do, from the SDK's error code and the HTTP status (0: none)."""
    if code in _BACK_PRESSURE:
        return Cure.AGAIN
    if code in _AUTH or code in _SETUP or status in (401, 403):
        return Cure.PERSON
    return Cure.REOPEN


def explain(error: Exception, place: str) -> tuple[Cure, EtlError]:
    """An error of the SDK in our words. Its own message is left out: it may repeat what was sent."""
    code = str(
        getattr(getattr(error, "error_code", None), "name", None) or getattr(error, "error_code", type(error).__name__)
    )
    status = getattr(error, "http_status_code", None) or 0
    what = cure(code, int(status))
    text = f"{code}{f' ({status})' if status else ''}"
    if what is Cure.PERSON:
        if code in _AUTH or status in (401, 403):
            remedy = "check the user's public key and the role's privileges (docs/snowflake.md)"
            return what, EtlError(Kind.DESTINATION_AUTH, place, f"Snowpipe Streaming refuses: {text}", remedy)
        return what, EtlError(
            Kind.DESTINATION_SETUP, place, f"Snowpipe Streaming: {text}", "check the destination's settings"
        )
    if what is Cure.AGAIN:
        return what, EtlError(Kind.CHANNEL, place, f"Snowpipe Streaming is saturated: {text}", "", transient=True)
    remedy = "the channel is opened again by itself"
    return what, EtlError(Kind.CHANNEL, place, f"the channel broke: {text}", remedy, transient=True)
