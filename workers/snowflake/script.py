"""Several statements as one server-side block: one request, one transaction."""

from __future__ import annotations

from workers.snowflake.identifiers import literal

MOVED = "fence moved"


def transaction(steps: list[str], outcome: str) -> str:
    """Steps as one block that returns `outcome`; what fails rolls back and raises."""
    return _executed(block(steps, outcome))


def plain(steps: list[str], outcome: str) -> str:
    """Steps as one block that returns `outcome`, each committed by itself, as DDL is anyway; what fails ends it and raises."""
    body = ";\n  ".join([*steps, f"RETURN '{outcome}'"])
    return _executed(f"BEGIN\n  {body};\nEND;")


def _executed(text: str) -> str:
    return f"EXECUTE IMMEDIATE {literal(text)}" if "$$" in text else f"EXECUTE IMMEDIATE $$\n{text}\n$$"


def block(steps: list[str], outcome: str) -> str:
    """The text of such a block."""
    body = ";\n  ".join(["BEGIN TRANSACTION", *steps, "COMMIT", f"RETURN '{outcome}'"])
    return f"BEGIN\n  {body};\nEXCEPTION\n  WHEN OTHER THEN\n    ROLLBACK;\n    RAISE;\nEND;"


def nested(steps: list[str]) -> str:
    """Steps inside of a block, with variables of their own."""
    body = ";\n    ".join(steps)
    return f"BEGIN\n    {body};\n  END"


def swapped(update: str, rows: int = 1) -> list[str]:
    """A compare-and-set: unless `update` changes exactly so many rows, the block ends and has done nothing."""
    return [update, f"IF (SQLROWCOUNT <> {rows}) THEN\n    ROLLBACK;\n    RETURN '{MOVED}';\n  END IF"]
