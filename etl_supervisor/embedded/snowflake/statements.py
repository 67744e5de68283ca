"""Statements that fakesnow does not know: those without a meaning here do nothing, a few are rewritten, blocks are run by `scripting`."""

from __future__ import annotations

import re

from etl_supervisor.embedded.snowflake import tasks

SUCCESS = "SELECT 'Statement executed successfully.' AS \"status\""

_NOTHING = re.compile(
    r"""^\s*(ALTER\s+SESSION|CREATE\s+(OR\s+REPLACE\s+)?(WAREHOUSE|ROLE|NETWORK|RESOURCE)|DROP\s+(WAREHOUSE|ROLE)|GRANT\b|REVOKE\b
    |USE\s+(WAREHOUSE|ROLE|SECONDARY)|ALTER\s+(WAREHOUSE|USER|ACCOUNT)|COMMENT\s+ON\b(?!\s+TABLE\b)|ALTER\s+TABLE\s+(IF\s+EXISTS\s+)?\S+\s+SET\s+(?!DATA)\w+\s*=)""",
    re.IGNORECASE | re.VERBOSE,
)
_TABLE_OPTIONS = re.compile(
    r"\s+(DATA_RETENTION_TIME_IN_DAYS|ERROR_LOGGING|ENABLE_SCHEMA_EVOLUTION|CHANGE_TRACKING)\s*=\s*\w+", re.IGNORECASE
)
_NAME = r'(?:"(?:[^"]|"")+"|\w+)'
_TEXT = r"'(?P<text>(?:[^'\\]|''|\\.)*)'"
_COLUMN_COMMENT = re.compile(
    rf"(?P<definition>(?P<name>{_NAME})\s+\w+(?:\([\d,\s]*\))?)\s+COMMENT\s+{_TEXT}", re.IGNORECASE
)
_TABLE = re.compile(
    rf"\s*(?:CREATE|ALTER)\s+(?:\w+\s+)*?TABLE\s+(?:IF\s+(?:NOT\s+)?EXISTS\s+)?(?P<table>{_NAME}\.{_NAME}\.{_NAME})",
    re.IGNORECASE,
)
_COMMENT_ON = re.compile(
    rf"\s*COMMENT\s+ON\s+COLUMN\s+(?P<column>{_NAME}(?:\.{_NAME}){{3}})\s+IS\s+{_TEXT}\s*;?\s*$", re.IGNORECASE
)
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


def comments_of(sql: str) -> list[str]:
    """DuckDB's statements for the comments on columns that a statement sets; the table must be fully qualified."""
    if on := _COMMENT_ON.match(sql):
        return [_comment(on["column"], on["text"])]
    table = _TABLE.match(sql)
    if table is None:
        return []
    return [_comment(f"{table['table']}.{c['name']}", c["text"]) for c in _COLUMN_COMMENT.finditer(sql, table.end())]


def _comment(column: str, text: str) -> str:
    plain = text.replace("\\\\", "\\").replace("\\'", "'")
    return f"COMMENT ON COLUMN {column} IS '{plain}'"


def rewritten(sql: str) -> str:
    """The statement as fakesnow can run it."""
    if _NOTHING.match(sql):
        return SUCCESS
    sql = tasks.rewritten(sql)
    if re.match(r"\s*CREATE\b", sql, re.IGNORECASE):
        sql = _TABLE_OPTIONS.sub("", sql)
    if _TABLE.match(sql):
        sql = _COLUMN_COMMENT.sub(r"\g<definition>", sql)
    return sql
