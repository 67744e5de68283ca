"""Which column of a table is which: a Relation message lists columns in the order of their attnums, but without them. Pure.

What is known: the shape before, with its attnums, and the catalog, which may be of a later moment. Then for the columns of this message

    known before and there now          must be among them: nothing comes back once it is dropped
    known before and dropped by now     may be: it was dropped before this message, or after it
    newer, there or dropped by now      may be: it was added before this message, or after it
    of one name before and now          has that name in the message too

Every choice that fits gives each column its attnum by order alone, whatever the names are. If just one choice fits, it is the proof; so a rename,
names that change places, and a column dropped and added again are told apart even when the catalog is ahead. Without a shape before, columns that the
catalog confirms by name and the gaps between them give what they can. What is not proved is 0.
"""

from __future__ import annotations

import math
from itertools import combinations

from etl_supervisor.model.table import Table
from workers.reader.catalog import CatalogTable

CHOICES_MAX = 1_000  # a table that had so many columns come and go since is copied again


def attnums(columns: list[str], before: Table | None, found: CatalogTable | None) -> list[int]:
    """The attnum of each column of a Relation message."""
    if found is None:
        known = {column.name: column.attnum for column in before.columns} if before else {}
        return [known.get(name, 0) for name in columns]  # the table is gone: no catalog will contradict
    if before is not None:
        fitting = _fitting(columns, before, found)
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            return [numbers[0] if len(set(numbers)) == 1 else 0 for numbers in zip(*fitting, strict=True)]
    return _by_name(columns, found)


def _fitting(columns: list[str], before: Table, found: CatalogTable) -> list[list[int]]:
    """Every choice of attnums that may be."""
    now = {fact.attnum: fact.name for fact in found.columns}
    then = {column.attnum: column.name for column in before.columns}
    certain = [number for number in then if number in now]
    possible = [n for n in found.attnums if n not in certain and (n in then or n > max(then, default=0))]
    missing = len(columns) - len(certain)
    if missing < 0 or math.comb(len(possible), missing) > CHOICES_MAX:
        return []
    stable = {number: name for number, name in then.items() if now.get(number) == name}
    choices = [sorted([*certain, *chosen]) for chosen in combinations(possible, missing)]
    return [
        numbers
        for numbers in choices
        if all(stable.get(number, name) == name for number, name in zip(numbers, columns, strict=True))
    ]


def _by_name(columns: list[str], found: CatalogTable) -> list[int]:
    """Names that the catalog has, and gaps with as many columns as numbers."""
    now = {fact.name: fact.attnum for fact in found.columns}
    known = [now.get(name, 0) for name in columns]
    confirmed = [number for number in known if number]
    if confirmed != sorted(confirmed):
        known = [0] * len(columns)  # names have changed places since
    numbers, begin = list(known), 0
    for end in [*(place for place, number in enumerate(known) if number), len(known)]:
        low = known[begin - 1] if begin else 0
        high = known[end] if end < len(known) else 1 << 16
        free = [number for number in found.attnums if low < number < high]
        if len(free) == end - begin:
            numbers[begin:end] = free
        begin = end + 1
    return numbers
