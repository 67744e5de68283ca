"""The forms of database URLs that are accepted. What is wrong is said without the text: it may hold a password.

libpq_url   `postgres://`, `postgresql://`, and SQLAlchemy's with a driver in it; with an authority (sslrootcert) the server is verified
redis_url   `redis://`, `rediss://` (TLS), `unix://`
"""

from __future__ import annotations

import re
from urllib.parse import parse_qs, urlsplit

_POSTGRES = re.compile(r"^(postgres|postgresql)(\+[a-z0-9_]+)?://", re.IGNORECASE)
_REDIS = ("redis://", "rediss://", "unix://")


def libpq_url(url: str) -> str:
    """The URL as libpq takes it. ValueError when it is no PostgreSQL URL."""
    if not _POSTGRES.match(url):
        raise ValueError("a database URL begins with postgres://, postgresql:// or postgresql+driver://")
    url = _POSTGRES.sub("postgresql://", url)
    query = parse_qs(url.partition("?")[2])
    return f"{url}&sslmode=verify-full" if "sslrootcert" in query and "sslmode" not in query else url


def redis_url(url: str) -> str:
    """The URL, when a Redis client can take it apart. ValueError when not."""
    if not url.startswith(_REDIS):
        raise ValueError(f"a Redis URL begins with {', '.join(_REDIS[:-1])} or {_REDIS[-1]}")
    try:
        readable = urlsplit(url).port != 0
    except ValueError:  # its text repeats a part of the URL, which may be one of the password
        readable = False
    if not readable:
        raise ValueError("the host or port can't be read; / ? # @ in a password are written as %2F %3F %23 %40")
    return url
