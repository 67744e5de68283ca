"""Kind of failure -> what the system does about it. Every kind has its line; a kind without one does not pass the tests.

RETRY    it may pass: the process or table is tried again with growing pauses, for ever
PERSON   somebody must change something: tried again only at the breaker's long pace, so that a correction is noticed by itself
TABLE    one table's trouble: that table is stopped and retried by its pipeline's policy, the others go on
"""

from __future__ import annotations

from enum import Enum, auto

from etl_supervisor.errors import Kind


class Directive(Enum):
    """What to do about a failure."""

    RETRY = auto()
    PERSON = auto()
    TABLE = auto()


DIRECTIVES: dict[Kind, Directive] = {
    Kind.CONFIG: Directive.PERSON,
    Kind.CONFIG_DATABASE: Directive.RETRY,
    Kind.SOURCE_UNREACHABLE: Directive.RETRY,
    Kind.SOURCE_AUTH: Directive.PERSON,
    Kind.SOURCE_SETUP: Directive.PERSON,
    Kind.SLOT_LOST: Directive.PERSON,
    Kind.STREAM: Directive.RETRY,
    Kind.SPOOL: Directive.RETRY,
    Kind.WALSENDER: Directive.PERSON,
    Kind.PROTOCOL: Directive.RETRY,
    Kind.STATE_STORE: Directive.RETRY,
    Kind.DESTINATION_UNREACHABLE: Directive.RETRY,
    Kind.DESTINATION_AUTH: Directive.PERSON,
    Kind.DESTINATION_SETUP: Directive.TABLE,
    Kind.SCHEMA: Directive.TABLE,
    Kind.ROWS_REJECTED: Directive.TABLE,
    Kind.CHANNEL: Directive.TABLE,
    Kind.APPLY: Directive.TABLE,
    Kind.COPY: Directive.TABLE,
    Kind.EMBEDDED: Directive.RETRY,
    Kind.INTERNAL: Directive.RETRY,
}


def directive(kind: Kind) -> Directive:
    """What to do about a failure of this kind."""
    return DIRECTIVES[kind]
