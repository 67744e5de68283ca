"""JSON text built by Arrow's kernels: no Python statement runs per value.

Imports pyarrow: children only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc

_SPACE, _QUOTE, _BACKSLASH = 0x20, ord('"'), ord("\\")


def octets(text: pa.Array) -> npt.NDArray[np.uint8]:
    """The bytes of all values, one after the other (those of a NULL, if any, among them); nothing is copied."""
    if not len(text):
        return np.empty(0, dtype=np.uint8)
    edges = np.frombuffer(text.buffers()[1], dtype=np.int32)[text.offset : text.offset + len(text) + 1]
    return np.frombuffer(text.buffers()[2] or b"", dtype=np.uint8)[edges[0] : edges[-1]]


def escaped(text: pa.Array) -> pa.Array:
    """The inside of JSON strings (without the quotes). Values that need no escape are not touched; NULL stays NULL."""
    data = octets(text)
    control = data < _SPACE
    for code, replacement in ((_BACKSLASH, "\\\\"), (_QUOTE, '\\"')):
        if (data == code).any():
            text = pc.replace_substring(text, chr(code), replacement)
    if control.any():
        for code in np.unique(data[control]).tolist():
            text = pc.replace_substring(text, chr(code), f"\\u{code:04x}")
    return text


def objects(names: Sequence[str], texts: Sequence[pa.Array]) -> pa.Array:
    """`{"a":"text of a","b":"text of b"}` per row. A NULL leaves its name out; a row of NULLs only is NULL."""
    members = []
    for name, text in zip(names, texts, strict=True):
        head = "," + orjson.dumps(name).decode() + ':"'
        members.append(pc.fill_null(pc.binary_join_element_wise(head, escaped(text), '"', ""), ""))
    joined = pc.utf8_slice_codeunits(pc.binary_join_element_wise(*members, ""), 1, None)
    whole = pc.binary_join_element_wise("{", joined, "}", "")
    return pc.if_else(pc.equal(joined, ""), pa.scalar(None, pa.string()), whole)
