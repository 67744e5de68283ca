"""Snowflake Scripting, as far as an apply block needs it.

    BEGIN … END with statements, LET name := expr, IF (…) THEN … [ELSEIF (…) THEN …] [ELSE …] END IF, RETURN expr, RAISE, SQLROWCOUNT,
    :name in statements, EXCEPTION WHEN OTHER THEN …

The text is split by a tokenizer that knows strings, quoted identifiers, $$ bodies and comments, so nothing inside them is taken for structure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

_TOKEN = re.compile(
    r"""(?P<space>\s+|--[^\n]*|/\*.*?\*/)|(?P<text>'(?:[^'\\]|''|\\.)*'|\$\$.*?\$\$|"(?:[^"]|"")*")|(?P<end>;)|(?P<word>[A-Za-z_][A-Za-z_0-9$]*)|(?P<other>.)""",
    re.DOTALL | re.VERBOSE,
)

_ROWCOUNT = re.compile("SQLROWCOUNT", re.IGNORECASE)
# What a block's end and its checks mostly are: a text, or whether two whole numbers are the same. No need to ask the database.
_PLAIN = re.compile(r"""\s*(?:'(?P<text>[^'\\$]*)'|\(?\s*(?P<number>\d+)\s*(?P<same>=|<>)\s*(?P<other>\d+)\s*\)?)\s*""")


class ScriptError(Exception):
    """The block's text is not understood."""


class Returned(Exception):  # noqa: N818 - the way out of a block
    """RETURN: carries the value."""

    def __init__(self, value: Any) -> None:
        self.value = value


@dataclass(slots=True)
class If:
    """Branches (condition, body) in order; the last condition may be None (ELSE)."""

    branches: list[tuple[str | None, list[Any]]] = field(default_factory=list)


@dataclass(slots=True)
class Block:
    """A body and what is done when it fails (None: nothing, the error goes on)."""

    body: list[Any]
    handler: list[Any] | None


Execute = Callable[[str], tuple[list[tuple[Any, ...]], int]]


def run(text: str, execute: Execute) -> Any:
    """Run an anonymous block; `execute` runs one SQL statement and gives (rows, affected rows). The value of RETURN, or None."""
    words = list(_statements(text))
    block, rest = _block(words, 0)
    if rest != len(words):
        raise ScriptError("text after END")
    try:
        _Run(execute).block(block)
    except Returned as returned:
        return returned.value
    return None


class _Run:
    def __init__(self, execute: Execute) -> None:
        self._execute = execute
        self._variables: dict[str, Any] = {}
        self._rowcount = 0
        self._error: Exception | None = None

    def block(self, block: Block) -> None:
        try:
            self._body(block.body)
        except Returned:
            raise
        except Exception as error:
            if block.handler is None:
                raise
            self._error = error
            self._body(block.handler)

    def _body(self, body: list[Any]) -> None:
        for step in body:
            if isinstance(step, If):
                self._if(step)
            elif isinstance(step, Block):
                self.block(step)
            else:
                self._statement(step)

    def _if(self, step: If) -> None:
        for condition, body in step.branches:
            if condition is None or self._value(condition):
                self._body(body)
                return

    def _statement(self, text: str) -> None:
        first = text.split(None, 1)[0].upper()
        if first == "RETURN":
            raise Returned(self._value(text[6:]))
        if first == "RAISE":
            raise self._error or ScriptError("RAISE outside of a handler")
        if assigned := re.match(r"(?:LET\s+)?(\w+)\s*(?:\w+\s*)?:=\s*(.*)$", text, re.IGNORECASE | re.DOTALL):
            self._variables[assigned[1].upper()] = self._value(assigned[2])
            return
        _, self._rowcount = self._execute(self._filled(text))

    def _value(self, expression: str) -> Any:
        filled = self._filled(expression, bare=True)
        if plain := _PLAIN.fullmatch(filled):
            return (
                plain["text"]
                if plain["number"] is None
                else (int(plain["number"]) == int(plain["other"])) == (plain["same"] == "=")
            )
        rows, _ = self._execute(f"SELECT {filled}")
        return rows[0][0]

    def _filled(self, text: str, *, bare: bool = False) -> str:
        """SQLROWCOUNT and variables as literals (`:name` in statements, also bare names in expressions)."""
        if not self._variables and _ROWCOUNT.search(text) is None:
            return text
        parts: list[str] = []
        colon = False
        for kind, token in _tokens(text):
            name = token.upper()
            if kind == "word" and name == "SQLROWCOUNT":
                token = str(self._rowcount)
            elif kind == "word" and name in self._variables and (colon or bare):
                if colon:
                    parts.pop()
                token = _literal(self._variables[name])
            colon = kind == "other" and token == ":"
            parts.append(token)
        return "".join(parts)


def _literal(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, (bool, int, float, Decimal)):
        return str(value).upper()
    return "'" + str(value).replace("\\", "\\\\").replace("'", "''") + "'"


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    for match in _TOKEN.finditer(text):
        yield str(match.lastgroup), match[0]


def _statements(text: str) -> Iterator[str]:
    """The pieces between semicolons; structure words end a piece too."""
    piece: list[str] = []
    words: list[str] = []
    tokens = list(_tokens(text))
    for number, (kind, token) in enumerate(tokens):
        if kind == "end":
            if words:
                yield "".join(piece).strip()
            piece, words = [], []
            continue
        if kind == "space" and token.lstrip()[:2] in ("--", "/*"):
            token = " "
        piece.append(token)
        if kind == "space":
            continue
        words.append(token.upper() if kind == "word" else token)
        opens = words in (["ELSE"], ["EXCEPTION"]) or (words == ["BEGIN"] and not _transaction(tokens[number + 1 :]))
        if opens or (words[-1] == "THEN" and words[0] in ("IF", "ELSEIF", "WHEN")):
            if words == ["BEGIN"]:
                piece.append("\0")
            yield "".join(piece).strip()
            piece, words = [], []
    if words:
        yield "".join(piece).strip()


def _transaction(after: list[tuple[str, str]]) -> bool:
    """BEGIN TRANSACTION, BEGIN WORK and BEGIN; are statements; any other BEGIN opens a block."""
    following = next(((kind, token) for kind, token in after if kind != "space"), ("end", ";"))
    return following[0] == "end" or following[1].upper() in ("TRANSACTION", "WORK", "NAME")


def _block(words: list[str], at: int) -> tuple[Block, int]:
    """BEGIN … [EXCEPTION WHEN OTHER THEN …] END."""
    if words[at].upper() != "BEGIN\0":
        raise ScriptError("a block begins with BEGIN")
    body, at = _sequence(words, at + 1)
    handler = None
    if words[at].upper() == "EXCEPTION":
        if not re.match(r"WHEN\s+OTHER\s+THEN$", words[at + 1], re.IGNORECASE):
            raise ScriptError("only WHEN OTHER is known")
        handler, at = _sequence(words, at + 2)
    if words[at].upper() != "END":
        raise ScriptError("END is missing")
    return Block(body, handler), at + 1


def _sequence(words: list[str], at: int) -> tuple[list[Any], int]:
    body: list[Any] = []
    while at < len(words):
        upper = words[at].upper()
        if upper in ("END", "ELSE", "EXCEPTION", "END IF") or upper.startswith("ELSEIF"):
            return body, at
        step: Any
        if re.match(r"IF\b.*THEN$", upper, re.DOTALL):
            step, at = _branches(words, at)
        elif upper == "BEGIN\0":
            step, at = _block(words, at)
        else:
            step, at = words[at], at + 1
        body.append(step)
    raise ScriptError("END is missing")


def _branches(words: list[str], at: int) -> tuple[If, int]:
    step = If()
    while True:
        word = words[at]
        condition = None if word.upper() == "ELSE" else word[word.upper().index("IF") + 2 : -4].strip()
        body, at = _sequence(words, at + 1)
        step.branches.append((condition, body))
        if words[at].upper() == "END IF":
            return step, at + 1
