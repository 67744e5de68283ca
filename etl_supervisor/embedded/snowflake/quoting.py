"""Names and strings as SQL writes them."""

from __future__ import annotations


def quoted(name: str) -> str:
    """A name as an identifier that keeps its case."""
    return '"' + name.replace('"', '""') + '"'


def literal(value: str) -> str:
    """A string."""
    return "'" + value.replace("'", "''") + "'"
