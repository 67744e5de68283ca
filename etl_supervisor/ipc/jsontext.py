"""JSON text built by Arrow's kernels: no Python statement runs per value.

Imports pyarrow: children only.
"""

from __future__ import annotations

from collections.abc import Sequence

import orjson
import pyarrow as pa
import pyarrow.compute as pc

_NEEDS_ESCAPE = r'["\\\x00-\x1f]'
_CONTROL = r"[\x00-\x1f]"
_ESCAPES = [("\\", "\\\\"), ('"', '\\"')]
_CONTROL_ESCAPES = [(chr(code), f"\\u{code:04x}") for code in range(0x20)]


def escaped(text: pa.Array) -> pa.Array:
    """The inside of JSON strings (without the quotes). Values that need no escape are not touched; NULL stays NULL."""
    if not pc.any(pc.match_substring_regex(text, _NEEDS_ESCAPE)).as_py():
        return text
    for plain, replacement in _ESCAPES:
        text = pc.replace_substring(text, plain, replacement)
    if pc.any(pc.match_substring_regex(text, _CONTROL)).as_py():
        for plain, replacement in _CONTROL_ESCAPES:
            text = pc.replace_substring(text, plain, replacement)
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
