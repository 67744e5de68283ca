"""One column of many tuples: what stands for each value, and where its octets are in the joined frames."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from workers.reader.frame import Fields, Flags, Integers, Octets

TEXT, BINARY, NULL, UNCHANGED = ord("t"), ord("b"), ord("n"), ord("u")
_OFFSET_MAX = 2**31 - 1


@dataclass(slots=True)
class ColumnValues:
    """Kind octet of each value (one of the four above), and begin and end of its octets."""

    kind: Octets
    begin: Integers
    end: Integers

    def pick(self, which: Integers | Flags) -> ColumnValues:
        """The same column for some of the tuples."""
        return ColumnValues(self.kind[which], self.begin[which], self.end[which])


def bytes_array(data: Fields, column: ColumnValues, present: Flags) -> pa.Array:
    """The octets of the values as a binary array, NULL where not `present`.

    The joined frames are the data of an array whose offsets alternate gap, value, gap, value, …, gap; `take` of the values copies
    them in C++. (Gaps may have a negative length where rows of one frame lie crosswise: nobody takes a gap.)
    """
    count = len(column.kind)
    if not count:
        return pa.array([], pa.binary())
    wide = len(data.data) > _OFFSET_MAX
    offsets = np.zeros(2 * count + 2, dtype=np.int64 if wide else np.int32)
    offsets[1:-1:2], offsets[2:-1:2], offsets[-1] = column.begin, column.end, len(data.data)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(data.data)]
    whole = pa.Array.from_buffers(pa.large_binary() if wide else pa.binary(), 2 * count + 1, buffers)
    values = np.arange(1, 2 * count, 2)
    taken = whole.take(pa.array(values) if present.all() else pa.array(values, mask=~present))
    return taken.cast(pa.binary()) if wide else taken
