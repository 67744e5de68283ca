"""Statements that fakesnow does not know: those without a meaning here do nothing, a few are rewritten, blocks are run by `scripting`."""

from __future__ import annotations

import re

SUCCESS = "SELECT 'Statement executed successfully.' AS \"status\""

_NOTHING = re.compile(
    r"""^\s*(ALTER\s+SESSION|CREATE\s+(OR\s+REPLACE\s+)?(WAREHOUSE|ROLE|NETWORK|RESOURCE)|DROP\s+(WAREHOUSE|ROLE)|GRANT\b|REVOKE\b
    |USE\s+(WAREHOUSE|ROLE|SECONDARY)|ALTER\s+(WAREHOUSE|USER|ACCOUNT)|COMMENT\s+ON\b|ALTER\s+TABLE\s+(IF\s+EXISTS\s+)?\S+\s+SET\s+(?!DATA)\w+\s*=)""",
    re.IGNORECASE | re.VERBOSE,
)
_TABLE_OPTIONS = re.compile(
    r"\s+(DATA_RETENTION_TIME_IN_DAYS|ERROR_LOGGING|ENABLE_SCHEMA_EVOLUTION|CHANGE_TRACKING)\s*=\s*\w+", re.IGNORECASE
)
_COLUMN_COMMENT = re.compile(r"(ADD\s+COLUMN\b.*?)\s+COMMENT\s+'(?:[^']|'')*'", re.IGNORECASE | re.DOTALL)
_BLOCK = re.compile(
    r"^\s*(EXECUTE\s+IMMEDIATE\s+)?(\$\$\s*)?(DECLARE\b|BEGIN\s+(?!TRANSACTION|WORK|NAME\b)\S)", re.IGNORECASE
)
_IMMEDIATE = re.compile(
    r"^\s*EXECUTE\s+IMMEDIATE\s+(\$\$(?P<body>.*)\$\$|'(?P<text>.*)')\s*;?\s*$", re.IGNORECASE | re.DOTALL
)


def block_of(sql: str) -> str | None:
    """The text of an anonymous block; None for any other statement."""
    immediate = _IMMEDIATE.match(sql)
    if immediate:
        text = immediate["text"]
        return immediate["body"] if text is None else text.replace("''", "'").replace("\\\\", "\\")
    return sql if _BLOCK.match(sql) else None


def is_merge(sql: str) -> bool:
    """DuckDB can't describe a MERGE, which fakesnow would ask it to."""
    return re.match(r"\s*MERGE\b", sql, re.IGNORECASE) is not None


def rewritten(sql: str) -> str:
    """The statement as fakesnow can run it."""
    if _NOTHING.match(sql):
        return SUCCESS
    if re.match(r"\s*CREATE\b", sql, re.IGNORECASE):
        sql = _TABLE_OPTIONS.sub("", sql)
    elif re.match(r"\s*ALTER\b", sql, re.IGNORECASE):
        sql = _COLUMN_COMMENT.sub(r"\1", sql)
    return sql
