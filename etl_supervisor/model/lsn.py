"""Log sequence numbers: byte positions in PostgreSQL's WAL (manual: "pg_lsn Type").

Everywhere in this program an LSN is a plain int; this module is the only place that knows its text form.
"""

from __future__ import annotations


def parse(text: str) -> int:
    """`16/B374D848` -> int. Raises ValueError for anything else."""
    high, separator, low = text.partition("/")
    if not separator or not 1 <= len(high) <= 8 or not 1 <= len(low) <= 8:
        raise ValueError("an LSN has the form X/X, two hexadecimal numbers of up to 8 digits")
    return (int(high, 16) << 32) | int(low, 16)


def text(lsn: int) -> str:
    """int -> `16/B374D848`, as PostgreSQL prints it."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"
