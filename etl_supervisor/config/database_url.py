"""The forms of a database URL that are accepted: `postgres://`, `postgresql://`, and SQLAlchemy's with a driver in it."""

from __future__ import annotations

import re

_SCHEME = re.compile(r"^(postgres|postgresql)(\+[a-z0-9_]+)?://", re.IGNORECASE)


def libpq_url(url: str) -> str:
    """The URL as libpq takes it. ValueError when it is no PostgreSQL URL; the text is not repeated, it may hold a password."""
    if not _SCHEME.match(url):
        raise ValueError("a database URL begins with postgres://, postgresql:// or postgresql+driver://")
    return _SCHEME.sub("postgresql://", url)
