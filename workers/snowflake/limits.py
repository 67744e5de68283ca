"""What Snowflake can hold, and the rows of a batch that go beyond it.

Only what surely can't be loaded is told apart here, before anything is encoded: a text longer than its column was declared, a binary value
likewise, a VARIANT or a whole line beyond the largest size there is. Whatever else Snowflake refuses, it refuses itself: the channel's error
counter tells, and `rejected` finds those rows.

Sizes of columns come from the landing table (DESCRIBE): VARCHAR without a length is 16 or 128 MB wide, by the account and the day of its creation.

A batch whose bytes fit into the smallest limit is not looked at: the usual case costs one addition per column.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from etl_supervisor.ipc.arrow import kind_of
from etl_supervisor.model import names
from etl_supervisor.model.types import ValueKind

# docs.snowflake.com: sql-reference/intro-summary-data-types, "Size limits for database objects"
VALUE_BYTES_MAX = 128 << 20  # the largest VARCHAR or VARIANT there is, uncompressed
BINARY_BYTES_MAX = 64 << 20  # the largest BINARY
# One line of NDJSON: the SDK takes no append that is larger than what it may hold of a channel (streaming.INFLIGHT_MB_PER_CHANNEL).
# The largest value, and a quarter for the other columns and for escapes; the SDK's own limit is 256 MB.
LINE_BYTES_MAX = 160 << 20

_DECLARED = re.compile(r"(VARCHAR|TEXT|STRING|BINARY|VARBINARY)\((\d+)\)")


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why a row is not loaded: one line without a value. `bytes` are those of the value in `column`, or of the row (0: not measured).

    `detail` is Snowflake's own word. It may repeat a value, so it goes into the dead letter only.
    """

    reason: str
    column: str | None
    bytes: int
    detail: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Limits:
    """Declared sizes by column in upper case (no two of a table differ by case only): characters of a VARCHAR, bytes of a BINARY."""

    declared: dict[str, int] = field(default_factory=dict)

    @property
    def smallest(self) -> int:
        """No value within so many bytes can be too large."""
        return min([BINARY_BYTES_MAX, *self.declared.values()])


def limits_of(described: Iterable[tuple[str, str]]) -> Limits:
    """From (name, type) as DESCRIBE TABLE tells them."""
    found = ((name, _DECLARED.fullmatch(kind)) for name, kind in described)
    return Limits(
        {name.upper(): int(match[2]) for name, match in found if match and not name.startswith(names.META_PREFIX)}
    )


def too_large(batch: pa.RecordBatch, limits: Limits) -> dict[int, Verdict]:
    """The rows that can't be loaded, by row number."""
    if batch.nbytes <= limits.smallest:
        return {}
    found: dict[int, Verdict] = {}
    totals = np.zeros(batch.num_rows, dtype=np.int64)
    for item, array in zip(batch.schema, batch.columns, strict=True):
        if not (pa.types.is_string(array.type) or pa.types.is_binary(array.type)):
            continue
        sizes = pc.fill_null(pc.binary_length(array), 0).to_numpy(zero_copy_only=False).astype(np.int64)
        totals += (sizes + 2) // 3 * 4 if pa.types.is_binary(array.type) else sizes
        for row, most, unit in _over(array, sizes, kind_of(item), limits.declared.get(item.name.upper())):
            reason = f"column {item.name} holds {sizes[row]:,} bytes, Snowflake takes {most:,} {unit}"
            found.setdefault(row, Verdict(reason, item.name, int(sizes[row])))
    for row in np.flatnonzero(totals > LINE_BYTES_MAX).tolist():
        found.setdefault(row, line_too_long(int(totals[row])))
    return dict(sorted(found.items()))


def line_too_long(size: int) -> Verdict:
    """The row as a whole: `size` bytes."""
    return Verdict(f"the row holds {size:,} bytes, the way to Snowflake takes {LINE_BYTES_MAX:,} bytes", None, size)


def _over(
    array: pa.Array, sizes: npt.NDArray[np.int64], kind: ValueKind, declared: int | None
) -> list[tuple[int, int, str]]:
    """Rows of one column beyond its limit: (row, limit, unit)."""
    if pa.types.is_binary(array.type):
        most = min(declared or BINARY_BYTES_MAX, BINARY_BYTES_MAX)
        return [(row, most, "bytes") for row in np.flatnonzero(sizes > most).tolist()]
    wide = [(row, VALUE_BYTES_MAX, "bytes") for row in np.flatnonzero(sizes > VALUE_BYTES_MAX).tolist()]
    if kind is ValueKind.JSON or declared is None:
        return wide
    suspects = np.flatnonzero((sizes > declared) & (sizes <= VALUE_BYTES_MAX))
    characters = pc.utf8_length(array.take(pa.array(suspects))).to_numpy(zero_copy_only=False)
    return wide + [(row, declared, "characters") for row in suspects[characters > declared].tolist()]
