"""Statements that differ in names and literals only are translated once.

A statement is cut at its quoted names, strings and long numbers. What stands between them is its shape, and so is every one of them that is not known
to be of no consequence. The others are slots, and the translation of a shape is a text with slots (a template).

    first time     translated as a whole
    second         the same, and once more with marks in the slots; the template is kept if, filled in, it says what the whole translation says
    from then on   filled in

A slot is (`_Shape`) a name of three parts after FROM, JOIN, INTO, TABLE, VIEW or UPDATE; a string or a number that is compared with something, or is
an item of a list, of a SELECT, or of a function that no pass looks into; the comment of a table. In a slot stands nothing that is empty or has to be
escaped, and no name that stands elsewhere in the statement, or that a pass of fakesnow's looks for. Which slots are equal belongs to the shape.

Only tables and views that are made without looking at others, INSERT, UPDATE, DELETE, MERGE and SELECT have templates; and only when all their tables
are fully qualified, so that nothing of the session is in their translation, and when fakesnow notes nothing beside it but comments and text lengths.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fakesnow.checks import is_unqualified_table_expression
from fakesnow.dialect import parse_one
from snowflake.connector.errors import ProgrammingError
from sqlglot import exp
from sqlglot.expressions.core import Expr

KEPT_MAX = 500  # shapes, and templates; the longest is some 20 kB
CHARACTERS_MAX = 32_000  # of a statement that has a template: longer ones are made of values
SLOTS_MAX = 100

_TOKEN = re.compile(
    r"""('(?:[^'\\]|''|\\.)*'|"(?:[^"]|"")+"(?:\."(?:[^"]|"")+")*|(?<![\w.$])\d{4,18}(?![\w.]))""", re.DOTALL
)
_NAME = re.compile(r'"([^"]+)"\."([^"]+)"\."([^"]+)"')
_STRING = re.compile(r"'([^'\\\0]+)'")
_MARK = "ETL_SLOT_{:04d}_"
_MARKED = re.compile(r"(?:ETL_SLOT_|77700)(\d{4})(?:_|777)")

_KINDS = re.compile(
    r"\s*(CREATE\s+(TRANSIENT\s+)?TABLE|CREATE\s+(OR\s+REPLACE\s+)?VIEW|INSERT|UPDATE|DELETE|MERGE|SELECT|WITH)\b", re.I
)
_OPAQUE = re.compile(r"""--|/\*|//|['"$@?{\\]|\b(INFORMATION_SCHEMA|TEMP|TEMPORARY)\b""", re.I)
_WORD = re.compile(r"[A-Za-z_]\w*")
_BEFORE_A_NAME = re.compile(r"\b(FROM|JOIN|INTO|TABLE|VIEW|UPDATE|EXISTS)\s+$", re.I)
_BEFORE_A_VALUE = re.compile(r"((?:^|[^=<>!])(=|<|>|<>|>=|<=)|[(,]|\b(SELECT|THEN|ELSE))\s*$", re.I)
_AFTER_A_VALUE = re.compile(r"\s*([,);]|$|(AS|AND|OR|FROM|WHERE|THEN|ELSE|END|WHEN|GROUP|ORDER|UNION)\b)", re.I)
_COMMENT = re.compile(r"\bCOMMENT\s*=\s*$", re.I)
_TURNED = re.compile(r"\s*[:\[]")  # into another type, or one of its items is taken
_OPENER = re.compile(r"([A-Za-z_]\w*)?\s*\($")
# A parenthesis after one of these, or after no word, holds nothing that a pass would look into.
_SAFE = {"", "FROM", "USING", "AS", "AND", "OR", "ON", "WHERE", "SELECT", "VALUES", "IN", "EXISTS", "INSERT", "NOT"}
_SAFE |= {"IFF", "COALESCE", "THEN", "ELSE", "WHEN", "ALL"}
_LOOKED_FOR = {"INFORMATION_SCHEMA", "VALUE", "UNSET", "NEXTVAL", "DUAL"}
_NOTES = {"table_comment", "text_lengths"}


@dataclass(frozen=True, slots=True)
class Told:
    """A translation: the statement's kind, DuckDB's SQL, and of a CREATE the table's name and what is noted beside it."""

    type: type[Expr]
    kind: str | None
    sql: str
    name: tuple[str, ...]
    comment: str
    lengths: tuple[tuple[str, int], ...]

    def filled(self, fill: Callable[[str], str]) -> Told:
        """With every text replaced by what `fill` makes of it."""
        return Told(
            self.type,
            self.kind,
            fill(self.sql),
            tuple(map(fill, self.name)),
            fill(self.comment),
            tuple((fill(column), size) for column, size in self.lengths),
        )

    def tree(self) -> Expr:
        """As much of a tree as fakesnow looks at to run it."""
        tree: Any = self.type()
        if self.name:
            catalog, db, this = (exp.to_identifier(part, quoted=True) for part in self.name)
            table = exp.Table(this=this, db=db, catalog=catalog)
            tree = self.type(this=table, kind=self.kind)
            if self.comment:
                tree.args["table_comment"] = (table, self.comment)
            if self.lengths:
                tree.args["text_lengths"] = list(self.lengths)
        tree.sql = lambda **_: self.sql
        tree.told = self
        return tree  # type: ignore[no-any-return]


class _Shape:
    """What stands between the tokens; `slots`: which tokens may be anything of their kind."""

    def __init__(self, texts: tuple[str, ...], tokens: list[str]) -> None:
        self.type: type[Expr] | None = None
        self.words = {word.upper() for text in texts for word in _WORD.findall(text)}
        self.slots: list[int] = []
        if _KINDS.match(texts[0]) and not any(_OPAQUE.search(text) for text in texts):
            self._find(texts, tokens)

    def _find(self, texts: tuple[str, ...], tokens: list[str]) -> None:
        makes_table = bool(re.match(r"\s*CREATE\s+(TRANSIENT\s+)?TABLE", texts[0], re.I))
        open_: list[tuple[bool, int]] = []  # whether it is safe, and the slots before it
        for at, before in enumerate(texts):
            for place in re.finditer(r"[()]", before):
                if place[0] == "(":
                    opener = _OPENER.search(before, 0, place.end())
                    open_.append((opener is not None and (opener[1] or "").upper() in _SAFE, len(self.slots)))
                elif open_ and _TURNED.match(before, place.end()):
                    del self.slots[open_.pop()[1] :]
                else:
                    del open_[-1:]
            if at == len(tokens):
                return
            after = texts[at + 1]
            if tokens[at].startswith('"'):
                free = self._is_name(before, after)
            elif makes_table:
                free = bool(_COMMENT.search(before))
            else:
                safe = all(safe for safe, _ in open_)
                free = safe and bool(_BEFORE_A_VALUE.search(before) and _AFTER_A_VALUE.match(after))
            if free:
                self.slots.append(at)

    @staticmethod
    def _is_name(before: str, after: str) -> bool:
        found, next_ = _BEFORE_A_NAME.search(before), after.lstrip()[:1]
        called = next_ == "(" and found is not None and found[1].upper() in ("FROM", "JOIN", "UPDATE")
        return found is not None and not called and next_ not in (".", ":", "[")


class Templates:
    """The shapes that were seen, and their translations. `on` = False: each statement is translated as a whole."""

    def __init__(self) -> None:
        self.on = True
        self.used = 0
        self._shapes: OrderedDict[tuple[str, ...], _Shape] = OrderedDict()
        self._known: OrderedDict[Any, Told | bool] = OrderedDict()

    def type_of(self, sql: str) -> type[Expr] | None:
        """The kind of a statement that has a template."""
        cut = self._cut(sql)
        return cut[0].type if cut else None

    def translation(self, sql: str, translate: Callable[[str], Told | None]) -> Told | None:
        """The translation of a statement, from its template; None as long as there is none. `translate` makes one as a whole."""
        cut = self._cut(sql)
        if cut is None or not cut[0].slots:
            return None
        shape, parts = cut
        found = _split(shape, parts[1::2])
        if found is None:
            return None
        rest, values, names = found
        key = (tuple(parts[::2]), rest, *_pattern(values, names))
        known = self._known.get(key)
        if isinstance(known, Told):
            self._known.move_to_end(key)
            self.used += 1
            return known.filled(lambda text: _fill(text, values))
        if known is None:
            _keep(self._known, key, True)  # seen once
        elif known:
            made = _template(shape, parts, values, sql, translate)
            shape.type = made.type if made else shape.type
            _keep(self._known, key, made or False)
        return None

    def _cut(self, sql: str) -> tuple[_Shape, list[str]] | None:
        if not self.on or len(sql) > CHARACTERS_MAX:
            return None
        parts = _TOKEN.split(sql)
        texts = tuple(parts[::2])
        shape = self._shapes.get(texts)
        if shape is None:
            shape = _Shape(texts, parts[1::2])
            _keep(self._shapes, texts, shape)
        return shape, parts


def _keep(kept: OrderedDict[Any, Any], key: Any, value: Any) -> None:
    kept[key] = value
    kept.move_to_end(key)
    if len(kept) > KEPT_MAX:
        kept.popitem(last=False)


def _split(shape: _Shape, tokens: list[str]) -> tuple[tuple[str | None, ...], list[str], list[str]] | None:
    """The tokens that belong to the shape, what is in the slots, and which of it are names; None where a slot is not what it must be."""
    rest: list[str | None] = list(tokens)
    values: list[str] = []
    names: list[str] = []
    for at in shape.slots:
        token = tokens[at]
        if token.startswith('"'):
            if (name := _NAME.fullmatch(token)) is None:
                return None
            names += name.groups()
            values += name.groups()
        elif token.startswith("'"):
            if (text := _STRING.fullmatch(token)) is None:
                continue  # it stays in the shape
            values.append(text[1])
        else:
            values.append(token)
        rest[at] = token[0] if token[0] in "'\"" else None
    upper = {name.upper() for name in names}
    fixed = {
        part.upper()
        for token in rest
        if token and len(token) > 1 and token[0] == '"'
        for part in token[1:-1].split('"."')
    }
    looked_for = upper & _LOOKED_FOR or any(name.startswith("_FS") for name in upper)
    if looked_for or not upper.isdisjoint(shape.words | fixed) or len(values) > SLOTS_MAX:
        return None
    return tuple(rest), values, names


def _pattern(values: list[str], names: list[str]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Which of these are the same, exactly, and which names are when case does not count."""
    upper = [name.upper() for name in names]
    return tuple(map(values.index, values)), tuple(map(upper.index, upper))


def _template(
    shape: _Shape, parts: list[str], values: list[str], sql: str, translate: Callable[[str], Told | None]
) -> Told | None:
    """The translation with marks in its slots; None unless it is proved by this statement."""
    if _MARKED.search(sql):
        return None
    number = iter(map(values.index, values))
    marked = list(parts)
    for at in shape.slots:
        token = parts[2 * at + 1]
        if token.startswith('"'):
            marked[2 * at + 1] = ".".join(f'"{_MARK.format(next(number))}"' for _ in range(3))
        elif not token.startswith("'"):
            marked[2 * at + 1] = f"77700{next(number):04d}777"
        elif _STRING.fullmatch(token):
            marked[2 * at + 1] = f"'{_MARK.format(next(number))}'"
    try:
        made, whole = translate("".join(marked)), translate(sql)
    except Exception:  # what is wrong with it is told when it is translated as a whole, and without marks
        return None
    if made is None or whole is None or made.filled(lambda text: _fill(text, values)) != whole:
        return None
    return made


def _fill(text: str, values: list[str]) -> str:
    parts = _MARKED.split(text)
    parts[1::2] = [values[int(number)] for number in parts[1::2]]
    return "".join(parts)


def translated(cursor: Any, sql: str) -> Told | None:
    """A statement's translation by all passes; None where it says more than `Told` does, or where something of the session is in it."""
    tree: Any = parse_one(sql)
    if any(is_unqualified_table_expression(tree)) or tree.find(exp.Placeholder):
        return None
    if len(cursor._transform_explode(tree)) != 1:
        return None
    makes = isinstance(tree, exp.Create)
    if makes and (tree.args.get("clone") or (tree.kind == "TABLE" and not isinstance(tree.this, exp.Schema))):
        return None
    if makes and tree.kind == "TABLE" and tree.expression:
        return None
    kind = type(tree)
    tree = cursor._transform(tree, None)
    beside = tree.args.keys() - tree.arg_types.keys()
    if type(tree) is not kind or not beside <= _NOTES or (beside and not makes):
        return None
    name: tuple[str, ...] = ()
    _, comment = tree.args.get("table_comment") or (None, "")
    if makes:
        table = tree.find(exp.Table)
        name = (table.catalog, table.db, table.name)
        if tree.find(exp.Identifier, bfs=False).name != table.name or not all(name) or comment is None:
            return None  # without a comment among the options fakesnow notes that it is None
    lengths = tuple(tree.args.get("text_lengths") or ())
    return Told(kind, tree.args.get("kind"), tree.sql(dialect="duckdb"), name, comment, lengths)


TEMPLATES = Templates()


def close_gap(cursor: Any, server: Any) -> None:
    """Have fakesnow ask for templates first."""
    whole, parsed, described = cursor.execute, server.parse_one, cursor._describe_last_sql

    def execute(self: Any, command: str, params: Any = None, *args: Any, **kwargs: Any) -> Any:
        told = None
        self._sqlstate = None
        try:
            if not params and not kwargs.get("binding_params") and not self._conn.nop_regexes:
                told = TEMPLATES.translation(self._inline_variables(command), lambda sql: translated(self, sql))
            if told is None:
                return whole(self, command, params, *args, **kwargs)
            self._execute(told.tree(), None)
        except ProgrammingError as error:
            self._sqlstate = error.sqlstate
            raise
        return self

    def parse(sql: str) -> Any:
        known = TEMPLATES.type_of(sql)
        return known() if known else parsed(sql)

    def describe(self: Any) -> Any:
        if getattr(self._last_transformed, "told", None) is None:
            return described(self)
        return self._duck_conn.execute(f"DESCRIBE {self._last_sql}").fetchall()

    cursor.execute, cursor._describe_last_sql, server.parse_one = execute, describe, parse
