"""Masked columns: a table's shape and its change-log batches as one pipeline shows them. Stream and copy go the same way, so they agree bit for bit.

    values ─► distinct ones ─► PostgreSQL's text of each ─► HMAC-SHA-256 ─► back to the rows
    `_etl_special`, `_etl_old_key`, `_etl_unchanged`     the same for the columns they name; nothing of a masked value is left in them

A column is known by its number once its name was seen in the catalog: what is masked stays masked when it is renamed, also when its table is
(`Masks.text`, kept in the table's state, remembers numbers and the name of the table). A mask of a column that was never there, or one that would
take a key away, refuses the table: nothing of it is shown.

Columns come as decoded, in private memory; only what this module gives goes on to shared memory.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.ipc.arrow import META_FIELDS, change_log_schema
from etl_supervisor.model.pipeline import Pipeline
from etl_supervisor.model.selection import ColumnMask, MaskKind
from etl_supervisor.model.table import Column, Table, TableName
from etl_supervisor.model.types import ValueKind, ValueType

_OPERATION, _UNCHANGED, _OLD_KEY, _SPECIAL = 0, 6, 7, 8  # of META_FIELDS
_TEXT = ValueType(ValueKind.TEXT)
_TAKES_KEY_AWAY = frozenset({MaskKind.EXCLUDE, MaskKind.CONSTANT, MaskKind.NULL})


@dataclass(frozen=True, slots=True)
class Masks:
    """The masks of one table in one pipeline; `numbers` are (column of a mask, attnum). Equal ones show the same."""

    rules: tuple[ColumnMask, ...] = ()
    numbers: frozenset[tuple[str, int]] = frozenset()
    key: bytes = field(default=b"", repr=False)

    def of(self, column: Column) -> ColumnMask | None:
        """The mask of a column; by its name, or by the number that a masked column had."""
        known = {name for name, number in self.numbers if number == column.attnum}
        return next((rule for rule in self.rules if rule.column == column.name or rule.column in known), None)

    @property
    def digest(self) -> str:
        """What the masks do, secret included, in 16 digits; empty without any. Another digest: rows that were landed look otherwise."""
        if not self.rules:
            return ""
        rules = sorted((rule.column, str(rule.kind), rule.constant) for rule in self.rules)
        hashes = any(rule.kind is MaskKind.HASH for rule in self.rules)
        return hmac.digest(self.key if hashes else b"masks", orjson.dumps(rules), "sha256").hex()[:16]

    @property
    def text(self) -> str:
        """For the table's state; see `remembered`."""
        if not self.rules:
            return ""
        table = self.rules[0].table
        return orjson.dumps([self.digest, table.schema, table.name, sorted(self.numbers)]).decode()

    def shown(self, table: Table) -> Table:
        """The shape as others see it."""
        if not self.rules:
            return table
        columns = ((column, self.of(column)) for column in table.columns)
        shown = (column if rule is None else self._column(column, rule) for column, rule in columns)
        return replace(table, columns=tuple(column for column in shown if column is not None))

    def check(self, table: Table) -> None:
        """EtlError(SCHEMA) when a row could not be told from others any more."""
        for column in table.key:
            rule = self.of(column)
            if rule is not None and rule.kind in _TAKES_KEY_AWAY:
                reason = f"column {column.name} is of the key: it can't be masked by {rule.kind}"
                raise EtlError(Kind.SCHEMA, f"table {table.name}", reason, "hash it, or take another key")

    def batch(self, table: Table, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Rows of `table` as others see them."""
        if not self.rules:
            return batch
        shown = self.shown(table)
        masked = {column.name: rule for column in table.columns if (rule := self.of(column)) is not None}
        if not masked:
            return batch
        meta, columns = batch.columns[: len(META_FIELDS)], []
        for column, values in zip(table.columns, batch.columns[len(META_FIELDS) :], strict=True):
            rule = masked.get(column.name)
            if rule is None:
                columns.append(values)
            elif rule.kind is not MaskKind.EXCLUDE:
                columns.append(self._values(column, rule, values, meta))
        hashed = {name for name, rule in masked.items() if rule.kind is MaskKind.HASH}
        meta[_UNCHANGED] = _rewritten(
            meta[_UNCHANGED], lambda names: [n for n in names if n in hashed or n not in masked]
        )
        meta[_OLD_KEY] = _rewritten(meta[_OLD_KEY], lambda key: self._old_key(key, hashed))
        meta[_SPECIAL] = _rewritten(meta[_SPECIAL], lambda odd: {n: text for n, text in odd.items() if n not in masked})
        return pa.RecordBatch.from_arrays([*meta, *columns], schema=change_log_schema(shown))

    def hashed(self, found: pa.Array) -> pa.Array:
        """PostgreSQL's texts as columns that are masked by hash show them."""
        return _distinct(found, lambda some: [self._hash(text) for text in some.to_pylist()])

    # -- inside

    def _column(self, column: Column, rule: ColumnMask) -> Column | None:
        match rule.kind:
            case MaskKind.EXCLUDE:
                return None
            case MaskKind.HASH:
                default = None if column.default is None else self._hash(column.default)
                return replace(column, type=_TEXT, default=default)
            case MaskKind.CONSTANT:
                return replace(column, type=_TEXT, toastable=False, default=rule.constant)
            case MaskKind.NULL:
                return replace(column, nullable=True, toastable=False, default=None)

    def _values(self, column: Column, rule: ColumnMask, values: pa.Array, meta: list[pa.Array]) -> pa.Array:
        if rule.kind is MaskKind.NULL:
            return pa.nulls(len(values), values.type)
        if rule.kind is MaskKind.CONSTANT:
            nothing = pa.scalar(None, pa.string())
            return pc.if_else(pc.equal(meta[_OPERATION], "T"), nothing, pa.scalar(rule.constant))
        special = _told(meta[_SPECIAL], lambda odd: odd.get(column.name))
        plain = _distinct(values, lambda found: [self._hash(text) for text in texts(found, column.type)])
        return pc.coalesce(_distinct(special, lambda odd: [self._hash(text) for text in odd.to_pylist()]), plain)

    def _hash(self, text: str) -> str:
        return hmac.digest(self.key, text.encode(), "sha256").hex()

    def _old_key(self, key: dict[str, str], hashed: set[str]) -> dict[str, str]:
        return {name: self._hash(text) if name in hashed else text for name, text in key.items()}


NOTHING_MASKED = Masks()


def resolve(pipeline: Pipeline, table: Table, known: str, secret: str) -> Masks:
    """The masks that a pipeline has for a table whose columns the catalog shows; `known` is what its state remembers (`Masks.text`).

    EtlError(SCHEMA) for a column that is not known.
    """
    _, origin, numbers = _remembered(known)
    rules = pipeline.selection.masks_of(table.name) or (pipeline.selection.masks_of(origin) if origin else ())
    if not rules:
        return NOTHING_MASKED
    wanted = {rule.column for rule in rules}
    now = {(column.name, column.attnum) for column in table.columns if column.name in wanted and column.attnum}
    before = {item for item in numbers if item[0] in wanted}
    missing = wanted - {column.name for column in table.columns} - {name for name, _ in before}
    if missing:
        reason = f"it has no column {', '.join(sorted(missing))}, which is to be masked"
        remedy = "correct `columns` of the pipeline; nothing of the table is shown until then"
        raise EtlError(Kind.SCHEMA, f"pipeline {pipeline.name}, table {table.name}", reason, remedy)
    masks = Masks(rules, frozenset(now | before), secret.encode())
    masks.check(table)
    return masks


def same(masks: Masks, known: str) -> bool:
    """Whether the rows that were landed under what the state remembers look like those to come."""
    return masks.digest == _remembered(known)[0]


def _remembered(text: str) -> tuple[str, TableName | None, list[tuple[str, int]]]:
    if not text:
        return "", None, []
    digest, schema, name, numbers = orjson.loads(text)
    return digest, TableName(schema, name), [(column, number) for column, number in numbers]


# -- distinct values


def _distinct(values: pa.Array, turned: Callable[[pa.Array], list[str]]) -> pa.Array:
    """Each value turned into a text, once however often it occurs; NULL stays NULL."""
    if pa.types.is_floating(values.type):  # 0 and -0 are two
        integers = {32: pa.int32(), 64: pa.int64()}[values.type.bit_width]
        found = values.view(integers).dictionary_encode()
        return pa.array(turned(found.dictionary.view(values.type)), pa.string()).take(found.indices)
    found = values.dictionary_encode()
    return pa.array(turned(found.dictionary), pa.string()).take(found.indices)


def _told(texts_: pa.Array, look: Callable[[Any], str | None]) -> pa.Array:
    """What each of these JSON texts says."""
    found = texts_.dictionary_encode()
    return pa.array([look(orjson.loads(text)) for text in found.dictionary.to_pylist()], pa.string()).take(
        found.indices
    )


def _rewritten(texts_: pa.Array, turned: Callable[[Any], Any]) -> pa.Array:
    """JSON texts with something else in them; one that has nothing any more is NULL (but an empty one stays)."""
    if texts_.null_count == len(texts_):
        return texts_

    def again(text: Any) -> str | None:
        left = turned(text)
        return orjson.dumps(left).decode() if left or not text else None

    return _told(texts_, again)


# -- PostgreSQL's text


def texts(values: pa.Array, kind: ValueType) -> Iterable[str]:
    """PostgreSQL's text of ordinary values without NULLs, as the stream would have it."""
    match kind.kind:
        case ValueKind.BOOLEAN:
            return ["t" if value else "f" for value in values.to_pylist()]
        case ValueKind.FLOAT32 | ValueKind.FLOAT64:
            fixed = (
                6 if kind.kind is ValueKind.FLOAT32 else 15
            )  # digits before the point that are written without an exponent
            return [_float(value, fixed) for value in values.to_numpy(zero_copy_only=False)]
        case ValueKind.NUMERIC:
            return [format(value, "f") for value in values.to_pylist()]
        case ValueKind.BYTES:
            return ["\\x" + value.hex() for value in values.to_pylist()]
        case ValueKind.TIMESTAMP | ValueKind.TIMESTAMPTZ:
            zone = "+00" if kind.kind is ValueKind.TIMESTAMPTZ else ""
            plain = values.cast(pa.timestamp("us")).cast(pa.string())
            return [f"{text}{zone}" for text in pc.replace_substring_regex(plain, r"\.?0*$", "").to_pylist()]
        case _:
            found: list[str] = values.cast(pa.string()).to_pylist()
            return found


def _float(value: np.floating[Any], fixed: int) -> str:
    """The shortest digits that give the value, in printf's %g layout."""
    if np.isnan(value):
        return "NaN"
    if np.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    digits, places = np.format_float_scientific(value, unique=True, trim="-"), 0
    while _between(value, digits):
        places += 1
        digits = np.format_float_scientific(value, unique=False, precision=places, trim="-")
    mantissa, exponent = digits.split("e")
    power = int(exponent)
    if -4 <= power < fixed:
        return format(Decimal(digits), "f")
    return f"{mantissa}e{power:+03d}"


def _between(value: np.floating[Any], digits: str) -> bool:
    """Whether digits stand for another value, or exactly between two (as 1e23 does): PostgreSQL does not write those, it takes more of them."""
    if value.dtype.type(digits) != value:
        return True
    ends = (value.dtype.type("inf"), value.dtype.type("-inf"))
    with np.errstate(over="ignore", under="ignore"):
        neighbours = [np.nextafter(value, end) for end in ends]
    middle = 2 * Fraction(digits)
    return any(np.isfinite(one) and Fraction(float(value)) + Fraction(float(one)) == middle for one in neighbours)
