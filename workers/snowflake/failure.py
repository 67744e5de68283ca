"""What Snowflake refuses -> what to do about it: one table for its three doors, SQL, Snowpipe Streaming's SDK and Snowpipe's requests.

AGAIN        the same statement, append or request, a moment later: Snowflake is busy, and session and channel are well
RECONNECT    the same statement in a new session: the old one, or its network, is gone. A new session reads the key file again
REOPEN       the channel or its client is dead: the publisher opens it again (each open makes a client of its own, which reads the key file) and
             sends what was not durable; the committed token makes that exact
HEAL         an object is not there: the next open makes it
TABLE        this table stops; its pipeline's policy tries it again
DESTINATION  everything at this destination waits for a person; it is tried again at a long pace

The first line that fits counts, and what fits none stops its table: an unknown failure is a person's. Statements are repeated by `sessions.run`,
appends by the desk. A privilege, a name or a value does not become right by repeating it.

Numbers are Snowflake's error numbers. The connector reports an HTTP status as 290000 + status.
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from enum import Enum, auto

import structlog

from etl_supervisor.errors import EtlError, Kind

log = structlog.get_logger()

HTTP_NUMBER = 290000  # the connector's number of an HTTP status


class Directive(Enum):
    """What to do about a failure."""

    AGAIN = auto()
    RECONNECT = auto()
    REOPEN = auto()
    HEAL = auto()
    TABLE = auto()
    DESTINATION = auto()

    @property
    def transient(self) -> bool:
        """Whether it can pass without a person."""
        return self not in (Directive.TABLE, Directive.DESTINATION)


class Saturated(Exception):  # noqa: N818 - it passes by itself
    """The SDK holds as much as we let it, and does not get rid of it."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of the table. `kind` is None where it is the caller's: what was being done tells more than the number."""

    name: str
    directive: Directive
    kind: Kind | None
    hint: str
    sql: frozenset[int] = frozenset()
    sdk: frozenset[str] = frozenset()
    http: frozenset[int] = frozenset()


def _rule(
    name: str, directive: Directive, kind: Kind | None, hint: str, *, sql: str = "", sdk: str = "", http: str = ""
) -> Rule:
    numbers, codes, statuses = map(int, sql.split()), sdk.split(), map(int, http.split())
    return Rule(name, directive, kind, hint, frozenset(numbers), frozenset(codes), frozenset(statuses))


EXPIRED = "expired session"

_BY_ITSELF = "it is tried again by itself"
_REOPENED = "the channel is opened again by itself"
_KEY = "check account, user, role, the user's public keys (DESCRIBE USER) and the clock of this machine; the key file is read again by itself"
_GRANTS = "grant the role what docs/snowflake.md lists"
_SETTINGS = "check the destination's settings"

RULES: tuple[Rule, ...] = (
    _rule(
        "saturated",
        Directive.AGAIN,
        None,
        _BY_ITSELF,
        sdk="Saturated RECEIVER_SATURATED MEMORY_THRESHOLD_EXCEEDED MEMORY_THRESHOLD_EXCEEDED_IN_CONTAINER HTTP_RETRYABLE_CLIENT_ERROR",
        http="429",
    ),
    _rule("locked", Directive.AGAIN, None, "another writer holds this table; " + _BY_ITSELF, sql="625 628"),
    _rule("interrupted", Directive.AGAIN, None, _BY_ITSELF, sql="603 604"),
    _rule(
        "key",
        Directive.DESTINATION,
        Kind.DESTINATION_AUTH,
        _KEY,
        sql="390100 390101 390144 390186 390189 390191 390303 390422 394300 394301 394302 394303 394304 251006 251008",
        sdk="AUTH_TOKEN_ERROR SF_API_AUTH_ERROR",
        http="401 403",
    ),
    _rule(
        EXPIRED,
        Directive.RECONNECT,
        Kind.DESTINATION_UNREACHABLE,
        "a new session is opened by itself",
        sql="390103 390104 390110 390111 390112 390113 390114 390115 390195 390318 250002 252006 252007",
    ),
    _rule(
        "network",
        Directive.RECONNECT,
        Kind.DESTINATION_UNREACHABLE,
        "check the host and the network; " + _BY_ITSELF,
        sql="200001 250001 250003 250005 251010 251011 251012",
        http="400 405 408 500 502 503 504",
    ),
    _rule(
        "stage",
        Directive.RECONNECT,
        Kind.DESTINATION_UNREACHABLE,
        "check that this machine reaches the storage of the account's stages (another host than Snowflake's); "
        + _BY_ITSELF,
        sql="253002 253003 253009",
    ),
    _rule(
        "privilege",
        Directive.TABLE,
        Kind.DESTINATION_SETUP,
        _GRANTS,
        sql="3001 3041 3540 3545",
        sdk="",
    ),
    _rule(
        "warehouse",
        Directive.DESTINATION,
        Kind.DESTINATION_UNREACHABLE,
        "name a warehouse that the role may use, resume it, or raise the quota of its resource monitor",
        sql="606 607 90064 90073 90058",
    ),
    _rule(
        "missing",
        Directive.HEAL,
        Kind.DESTINATION_SETUP,
        "it is made again when the table is opened, if the role may; " + _GRANTS,
        sql="2003 2043 1083",
        http="404",
    ),
    _rule(
        "schema",
        Directive.TABLE,
        None,
        "a table in Snowflake does not have the shape that was made: see the statement by its query tag",
        sql="904 1003 1007 1789 2012 2028 100035 100038 100040 100069 100071 100072 100078 100090",
    ),
    _rule("too long", Directive.TABLE, None, "give the warehouse a larger size", sql="630"),
    _rule(
        "setting",
        Directive.TABLE,
        Kind.DESTINATION_SETUP,
        _SETTINGS,
        sql="251001 251005 251007 250004 250007 251009",
        sdk="CONFIG_ERROR INVALID_REQUEST INVALID_ARGUMENT NOT_IMPLEMENTED ELASTIC_CHANNEL_RESERVED_NAME CANNOT_DROP_ELASTIC_CHANNEL",
    ),
    _rule(
        "unanswered",
        Directive.REOPEN,
        Kind.DESTINATION_UNREACHABLE,
        "check the host and the network; " + _BY_ITSELF,
        sdk="HTTP_RETRIES_EXHAUSTED_ERROR",
    ),
    _rule(
        "gone",
        Directive.HEAL,
        Kind.CHANNEL,
        _REOPENED,
        sdk="CHANNEL_NOT_FOUND SF_API_NOT_FOUND_ERROR",
    ),
    _rule(
        "broken channel",
        Directive.REOPEN,
        Kind.CHANNEL,
        _REOPENED,
        sdk="SF_API_USER_ERROR HTTP_CLIENT_NON_RETRYABLE_ERROR CHANNEL_ALREADY_EXISTS CLOSED_CHANNEL_ERROR CLOSED_ELASTIC_CHANNEL_ERROR"
        " CHANNEL_CLOSED_BY_USER INVALID_CHANNEL_ERROR INPUT_CHANNEL_CLOSED OUTPUT_CHANNEL_CLOSED CHANNEL_WAIT_FOR_FLUSH_TIMEOUT NON_FATAL",
    ),
    _rule(
        "broken client",
        Directive.REOPEN,
        Kind.CHANNEL,
        _REOPENED,
        sdk="SF_API_PIPE_FAILED_OVER_ERROR CLOSED_CLIENT_ERROR INVALID_CLIENT_ERROR CLIENT_WAIT_FOR_FLUSH_TIMEOUT FATAL MUTEX_LOCK_FAILED"
        " SF_API_UNEXPECTED_BEHAVIOR_ERROR SF_API_INTERNAL_SERVER_ERROR FILE_UPLOAD_ERROR"
        " CLOSE_ALL_CHANNELS_FAILED_ERROR",
    ),
)
_UNKNOWN = _rule("unknown", Directive.TABLE, None, "see the statement by its query tag in Snowflake's history")
_LATER_SDK = _rule(
    "unknown to us", Directive.REOPEN, Kind.CHANNEL, _REOPENED
)  # a code of a later SDK is worth a new channel
_SERVER = _rule("server", Directive.RECONNECT, Kind.DESTINATION_UNREACHABLE, _BY_ITSELF)
_WHO = (
    "find out who answers there, or name the authority that signed it by SSL_CERT_FILE (ca_file of a local Snowflake); "
)
CERTIFICATE = _rule("certificate", Directive.RECONNECT, Kind.DESTINATION_UNREACHABLE, _WHO + _BY_ITSELF)


class SnowflakeError(EtlError):
    """A failure that Snowflake is the cause of; `directive` is what its rule says."""

    def __init__(self, rule: Rule, place: str, reason: str, otherwise: Kind) -> None:
        self.rule = rule.name
        self.directive = rule.directive
        super().__init__(rule.kind or otherwise, place, reason, rule.hint, transient=rule.directive.transient)


def of_sql(number: int) -> Rule:
    """The rule of an error number of Snowflake or of the connector."""
    if HTTP_NUMBER < number < HTTP_NUMBER + 600:
        return of_http(number - HTTP_NUMBER)
    return next((rule for rule in RULES if number in rule.sql), _UNKNOWN)


def of_http(status: int) -> Rule:
    """The rule of an HTTP status."""
    return next((rule for rule in RULES if status in rule.http), _SERVER)


def of_sdk(code: str, status: int) -> Rule:
    """The rule of the name of an error code of the SDK, with its HTTP status (0: none). A refused key comes under several codes."""
    if status in (401, 403):
        return of_http(status)
    return next((rule for rule in RULES if code in rule.sdk), _LATER_SDK)


def explain(error: Exception, place: str) -> SnowflakeError:
    """An error of the SDK in our words. Its own message is left out: it may repeat what was sent."""
    code = str(getattr(getattr(error, "error_code", None), "name", type(error).__name__))
    status = int(getattr(error, "http_status_code", None) or 0)
    rule = of_sdk(code, status)
    text = f"{code} ({status})" if status else code
    return SnowflakeError(rule, place, f"Snowpipe Streaming, {rule.name}: {text}", Kind.CHANNEL)


def stalled(place: str, seconds: float) -> EtlError:
    """Rows were taken, and nobody speaks of them any more."""
    reason = f"Snowflake has taken rows and committed none of them for {seconds:g} s"
    return EtlError(Kind.CHANNEL, place, reason, "they are sent again by a new channel", transient=True)


def explain_pipe(status: int, place: str) -> SnowflakeError:
    """An answer of Snowpipe's REST interface in our words. It has repeated the request for a minute already where that can help."""
    rule = of_http(status)
    return SnowflakeError(rule, place, f"Snowpipe answers {status}", Kind.CHANNEL)


def unforeseen(error: BaseException, operation: str, place: str) -> EtlError:
    """An error that nobody has named, logged. Not its text: it may hold a value."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    log.error("job_crashed", operation=operation, error=type(error).__name__, at=f"{where.name}:{where.lineno}")
    reason = f"{operation} failed: {type(error).__name__} in {where.name}"
    return EtlError(Kind.INTERNAL, place, reason, "see the actor's log", transient=True)
