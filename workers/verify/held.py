"""Rows of both sides that are held to find which of them differ: how many more of each the source has than the target, in bounded memory.

    add     rows become two fingerprints, the key's text (cut) and 1 or -1; equal ones become one as they come, and what is on both sides goes
    full    where that is more than BYTES_MAX, keys above a lower fingerprint are let go, of both sides, and are not taken again

So each key below `until` has all of its rows of both sides here, and what is found of it is exact; the others are for another pass, from `until` on.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from workers.verify.fingerprints import Prints, fingerprints

BYTES_MAX = 32 << 20  # of fingerprints and keys; a few times as much is needed while equal rows are brought together
LOOSE_BYTES_MAX = BYTES_MAX // 4  # before equal ones are brought together
KEY_CHARACTERS_MAX = 1000  # of a key that is shown; one that is the whole row may be a gigabyte
EVERY_KEY = 1 << 64

_SCHEMA = pa.schema([("key", pa.uint64()), ("row", pa.uint64()), ("text", pa.large_string()), ("more", pa.int64())])


class Held:
    """What the sides have of the keys whose fingerprints are from `since` to below `until` (which only falls)."""

    def __init__(self, since: int) -> None:
        self._since, self.until = since, EVERY_KEY
        self._net = _SCHEMA.empty_table()
        self._loose: list[pa.Table] = []
        self._loose_bytes = 0

    def add(self, keys: Prints, rows: pa.Array, texts: pa.Array, sign: int) -> None:
        """Rows of the source (`sign` 1) or of the target (-1): fingerprints of the keys, whole rows, keys."""
        if len(texts) == 0:
            return
        signs = pa.repeat(pa.scalar(sign, pa.int64()), len(texts))
        added = pa.table([pa.array(keys), pa.array(fingerprints(rows)), _cut(texts), signs], schema=_SCHEMA)
        self._loose.append(self._below(added))
        self._loose_bytes += self._loose[-1].nbytes
        if self._loose_bytes > LOOSE_BYTES_MAX:
            self._together()

    def net(self) -> pa.Table:
        """key, row, text, more: what one side has more of; more is below 0 where that is the target."""
        self._together()
        return self._net

    # -- inside

    def _together(self) -> None:
        parts, self._loose, self._loose_bytes = [self._net, *self._loose], [], 0
        net = pa.concat_tables(parts).group_by(["key", "row"]).aggregate([("text", "min"), ("more", "sum")])
        net = net.filter(pc.not_equal(net["more_sum"], 0)).rename_columns(_SCHEMA.names)
        while net.nbytes > BYTES_MAX:
            self.until = self._since + (self.until - self._since) // 2
            net = self._below(net)
        self._net = net.combine_chunks()

    def _below(self, rows: pa.Table) -> pa.Table:
        if self.until == self._since:
            return rows.slice(0, 0)
        since, last = (pa.scalar(print_, pa.uint64()) for print_ in (self._since, self.until - 1))
        return rows.filter(pc.and_(pc.greater_equal(rows["key"], since), pc.less_equal(rows["key"], last)))


def _cut(texts: pa.Array) -> pa.Array:
    long = pc.greater(pc.utf8_length(texts), KEY_CHARACTERS_MAX)
    if not pc.any(long).as_py():
        return texts
    begins = pc.utf8_slice_codeunits(texts, 0, KEY_CHARACTERS_MAX)
    ends = pc.if_else(long, pa.scalar("…", pa.large_string()), pa.scalar("", pa.large_string()))
    return pc.binary_join_element_wise(begins, ends, pa.scalar("", pa.large_string()))
