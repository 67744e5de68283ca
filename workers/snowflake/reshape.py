"""A table in Snowflake from the shape it has to the shape it should have: a pure plan of steps, each idempotent.

A column of ours carries its mark as the last line of its comment, `etl: <oid>.<attnum> <source name>` (PostgreSQL's own comment stands before it,
where that is wanted): it moves with the column, in the same statement, so that what a
crash leaves can always be read from the table itself. Columns are matched by mark, else by name. Then:

    same number, other name    renamed (over a name of its own where names change places)
    gone from the shape        kept as NAME__DROPPED_<attnum>: a later column of that name does not revive its values
    type can't be altered      kept as NAME__WAS_<attnum>, and a new column is made; its table is copied again
    new in the shape           added; a default is filled in, and the mark says `filling` until that is done

A column that comes back under its number (a stream that begins again before a drop) gets its own values back.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from etl_supervisor.model import names
from etl_supervisor.model.table import Column, Table
from workers.snowflake.sftypes import column_type, follows

_MARK = re.compile(
    r"(?:(?P<said>.*?)\n)??etl: (?P<filling>filling )?(?P<oid>\d+)\.(?P<attnum>-?\d+) (?P<source>.*)", re.DOTALL
)


@dataclass(frozen=True, slots=True)
class Mark:
    """Which column of the source this is. A negative attnum is a former one, whose type could not be altered. `said` is
    PostgreSQL's comment."""

    oid: int
    attnum: int
    source: str
    filling: bool = False
    said: str = ""

    @property
    def text(self) -> str:
        """The comment."""
        said = self.said.replace("\netl: ", "\n etl: ").removeprefix("etl: ")  # nobody else's words are a mark
        mark = f"etl: {'filling ' if self.filling else ''}{self.oid}.{self.attnum} {self.source}"
        return f"{said}\n{mark}" if said else mark

    @classmethod
    def read(cls, comment: str) -> Mark | None:
        """The mark in a comment; None for a comment that is not ours."""
        found = _MARK.fullmatch(comment)
        if found is None:
            return None
        number, said = int(found["attnum"]), found["said"] or ""
        return cls(int(found["oid"]), number, found["source"], bool(found["filling"]), said)


@dataclass(frozen=True, slots=True)
class Present:
    """A column that is there: its name and type in Snowflake, and its mark if it has one."""

    name: str
    type: str
    mark: Mark | None


@dataclass(frozen=True, slots=True)
class Rename:
    """Another name in Snowflake; rows in the landing table name columns as the source did, so those names change too."""

    old: str
    new: str
    old_source: str
    new_source: str


@dataclass(frozen=True, slots=True)
class Remark:
    """Another mark."""

    name: str
    mark: Mark


@dataclass(frozen=True, slots=True)
class Widen:
    """A wider type."""

    name: str
    type: str


@dataclass(frozen=True, slots=True)
class Add:
    """A new column."""

    column: Column
    mark: Mark


@dataclass(frozen=True, slots=True)
class Fill:
    """The default of a column that was added, in every row there is; then the mark."""

    column: Column
    mark: Mark


Step = Rename | Remark | Widen | Add | Fill


def mark_of(column: Column, oid: int) -> Mark:
    """The mark of a column."""
    return Mark(oid, column.attnum, column.name, said=column.comment)


def plan(present: list[Present], table: Table) -> list[Step]:
    """The steps from `present` to the shape of `table`, in order."""
    matched = _match(present, table)
    former: list[Remark] = []
    kept: dict[str, Column] = {}
    for column in table.columns:
        found = matched.get(column.name)
        if found is not None and follows(found.type, column_type(column.type)) is not None:
            kept[found.name] = column
        elif found is not None and found.mark is not None:
            former.append(Remark(found.name, replace(found.mark, attnum=-abs(found.mark.attnum), filling=False)))
    wanted = {column.landed for column in table.columns}
    steps: list[Step] = [*former, *_renames(present, kept, wanted, {step.name for step in former})]
    for found in present:
        column_kept = kept.get(found.name)
        if column_kept is not None:
            steps += _settle(found, column_kept, table.oid)
    staying = {column.name for column in kept.values()}
    for column in table.columns:
        if column.name not in staying:
            mark = mark_of(column, table.oid)
            filled = column.default is not None
            steps.append(Add(column, replace(mark, filling=filled)))
            steps += [Fill(column, mark)] if filled else []
    return steps


def _match(present: list[Present], table: Table) -> dict[str, Present]:
    """Source name -> the column that it is in Snowflake."""
    by_number = {found.mark.attnum: found for found in present if found.mark and found.mark.oid == table.oid}
    matched = {c.name: by_number[c.attnum] for c in table.columns if c.attnum > 0 and c.attnum in by_number}
    taken = {found.name for found in matched.values()}
    free = {found.name: found for found in present if found.name not in taken and not _is_former(found)}
    for column in table.columns:
        if column.name not in matched and column.landed in free:
            found = free[column.landed]
            known = found.mark
            if known is None or known.oid != table.oid or 0 in (known.attnum, column.attnum):
                matched[column.name] = found
    return matched


def _is_former(found: Present) -> bool:
    return found.mark is not None and found.mark.attnum < 0


def _settle(found: Present, column: Column, oid: int) -> list[Step]:
    """What a column needs beside its name."""
    name, mark, wanted = column.landed, mark_of(column, oid), column_type(column.type)
    steps: list[Step] = []
    if not follows(found.type, wanted):
        steps.append(Widen(name, wanted))
    if found.mark is not None and found.mark.filling and column.default is not None:
        steps.append(Fill(column, mark))
    elif found.mark is None or found.mark.text != mark.text:
        steps.append(Remark(name, mark))
    return steps


def _renames(present: list[Present], kept: dict[str, Column], wanted: set[str], former: set[str]) -> list[Rename]:
    """All changes of names, in an order in which every new name is free."""
    taken = {found.name for found in present}
    pending: dict[str, tuple[str, str, str]] = {}  # name -> new name, old and new source name
    for found in present:
        source = found.mark.source if found.mark else found.name
        if found.name in kept:
            column = kept[found.name]
            if found.name != column.landed:
                pending[found.name] = (column.landed, source, column.name)
        elif found.mark is not None and (found.name in wanted or not _is_aside(found.name)):
            number = abs(found.mark.attnum)
            suffix = f"__WAS_{number}" if found.name in former or _is_former(found) else f"__DROPPED_{number}"
            aside = _unused(found.name + suffix, taken)
            taken.add(aside)
            pending[found.name] = (aside, source, source + suffix.lower())
    return _ordered(pending, {found.name for found in present})


def _ordered(pending: dict[str, tuple[str, str, str]], taken: set[str]) -> list[Rename]:
    steps: list[Rename] = []
    while pending:
        ready = next((name for name, (new, _, _) in pending.items() if new not in taken), None)
        old = ready or next(iter(pending))
        new, old_source, new_source = pending.pop(old)
        if ready is None:  # names change places: one waits under a name of its own
            waiting = f"{names.META_PREFIX}MOVING_{old}"
            pending[waiting] = (new, waiting.lower(), new_source)
            new, new_source = waiting, waiting.lower()
        steps.append(Rename(old, new, old_source, new_source))
        taken = taken - {old} | {new}
    return steps


def _is_aside(name: str) -> bool:
    return re.search(r"__(DROPPED|WAS)_\d+_*$", name) is not None


def _unused(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    return name
