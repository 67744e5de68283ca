"""The counting mode: what is appended is checked and counted, and nothing is stored. For benchmarks, and for tests of order.

Snowflake takes tokens as they come; here each append must end beyond the one before it, in the same life of the channel or an earlier one, and a file
must hold as many rows as was said of it. An append that breaks a rule is refused, so the channel dies loudly, and is listed in `/__local/state`.
"""

from __future__ import annotations

from collections.abc import Sequence

from etl_supervisor.embedded.snowflake.channels import Piece

VIOLATIONS_MAX = 100  # listed; the first ones tell what is wrong


def rows_in(lines: bytes) -> int:
    """Lines that hold a row. A row begins with a brace and has no line break inside; between two appends the SDK leaves an empty line."""
    return lines.count(b"\n{") + lines.startswith(b"{")


def violation(pieces: Sequence[Piece], reached: str) -> str | None:
    """What is wrong with an append to a channel that has come to `reached`; None: nothing."""
    for piece in pieces:
        counted = rows_in(piece.lines)
        if not counted:
            return "no rows"
        if piece.rows is not None and piece.rows != counted:
            return f"{counted} rows came, {piece.rows} were announced"
        if piece.first is None or piece.last is None:
            continue
        if piece.last < piece.first:
            return f"ends at {piece.last}, before its begin {piece.first}"
        if piece.last <= reached:
            return f"ends at {piece.last}, the channel had come to {reached}"
        reached = piece.last
    return None
