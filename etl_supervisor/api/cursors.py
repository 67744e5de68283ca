"""Where a page of a list ends, and the next one goes on: behind an id, behind a name, or behind a moment and an id.

A cursor is opaque to clients; one that is not of its list is Fault 422.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, TypeVar

import orjson
from pydantic import Field

from etl_supervisor.api import faults
from etl_supervisor.api.bodies import ID_MAX
from etl_supervisor.api.faults import Fault

CURSOR_LENGTH_MAX = 80  # a moment in microseconds and a UUID
NAME_CURSOR_LENGTH_MAX = 1100  # two names of 63 bytes, each byte escaped in JSON, in base64
_OF_THE_PAGE_BEFORE = "`next_cursor` of the page before"
Cursor = Annotated[str | None, Field(max_length=CURSOR_LENGTH_MAX, description=_OF_THE_PAGE_BEFORE)]
NameCursor = Annotated[str | None, Field(max_length=NAME_CURSOR_LENGTH_MAX, description=_OF_THE_PAGE_BEFORE)]
T = TypeVar("T")

_EPOCH = datetime.fromtimestamp(0, UTC)


def row_id(text: bytes | str) -> int:
    """An id of a row: ValueError for what PostgreSQL's bigint can't hold."""
    if not 0 < (key := int(text)) <= ID_MAX:
        raise ValueError
    return key


def after_id(cursor: str | None) -> int:
    """The id that a cursor stands behind; 0 before the first."""
    return _read(cursor, row_id) if cursor else 0


def after_name(cursor: str | None) -> list[str]:
    """The name (in its parts) that a cursor of a list in the order of names stands behind; the empty one before the first."""
    parts = _read(cursor, orjson.loads) if cursor else []
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        raise _wrong()
    return parts


def name_cursor(*parts: str) -> str:
    """The cursor behind this name."""
    return _written(orjson.dumps(parts))


def after_moment(cursor: str | None, key: Callable[[str], T]) -> tuple[datetime, T] | None:
    """The moment and id that a cursor of a list in the order of time stands behind; None before the first. `key` reads the id: ValueError when it is
    none."""

    def read(text: bytes) -> tuple[datetime, T]:
        microseconds, _, rest = text.decode("ascii").partition(".")
        return _EPOCH + timedelta(microseconds=int(microseconds)), key(rest)

    return _read(cursor, read) if cursor else None


def moment_cursor(moment: datetime, key: object) -> str:
    """The cursor behind this moment (to the microsecond) and id."""
    return _written(f"{(moment - _EPOCH) // timedelta(microseconds=1)}.{key}".encode())


def by_id(row: dict[str, Any]) -> str:
    """The cursor behind a row in the order of ids."""
    return _written(str(row["id"]).encode())


def page_of(found: list[T], limit: int, cursor_of: Callable[[T], str]) -> dict[str, Any]:
    """A page; `found` has one more than `limit` when there is a next one."""
    return {"items": found[:limit], "next_cursor": cursor_of(found[limit - 1]) if len(found) > limit else None}


def _written(place: bytes) -> str:
    return base64.urlsafe_b64encode(place).decode()


def _read(cursor: str, read: Callable[[bytes], T]) -> T:
    try:
        return read(base64.urlsafe_b64decode(cursor.encode()))
    except (ValueError, binascii.Error, OverflowError):  # a wrong JSON text is a ValueError
        raise _wrong() from None


def _wrong() -> Fault:
    return faults.invalid("cursor", "it is not a next_cursor of this list")
