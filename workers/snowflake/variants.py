"""Which JSON documents VARIANT would change or refuse: they go in as a VARIANT string that holds the document's text, so nothing is lost.

VARIANT holds a number exactly up to 38 digits; a longer one, or one with an exponent, becomes a double. It has no lone surrogates, and a strict
parser refuses an object that has a key twice. `jsonb` can only have the long numbers; `json` keeps what was written and can have all of these.

The look-outs are regular expressions of RE2 (one pass, no backtracking) and numpy over the bytes of all documents at once. The cheap ones go
first: in most batches they find nothing, and nothing else runs. The cheapest looks at every ninth byte: a number that VARIANT can't hold exactly
has at least 39 digits and points in a row, so four bytes that are looked at are among them, one after the other.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from etl_supervisor.ipc.jsontext import octets
from etl_supervisor.model.types import ValueKind

Integers = npt.NDArray[np.int64]
Octets = npt.NDArray[np.uint8]

# More than 38 digits. (0.<38 digits> has 39: its scale would be 38, and NUMBER's is 37 at most.)
_LONG = r"[0-9](?:\.?[0-9]){38}"
# A double keeps 15 digits, and up to 1e±199 it is neither infinite nor denormal.
_INEXACT = r"[0-9](?:\.?[0-9]){15}[0-9.]*[eE]|[0-9][eE][+-]?0*(?:[2-9][0-9]{2}|[1-9][0-9]{3})"
_DIGITS_MIN, _STRIDE = 39, 9
_DIGIT = np.isin(np.arange(256), list(b"0123456789."))
_OUTSIDE = r'(?s)^(?:[^"]|"(?:[^"\\]|\\.)*")*?'  # from the start, whole strings and single characters outside of them
_HEX = "[0-9a-fA-F]"
_NOT_NUL = rf"0(?:[1-9a-fA-F]{_HEX}{{2}}|0[1-9a-fA-F]{_HEX}|00[1-9a-fA-F])"
_PAIR = rf"[dD][89abAB]{_HEX}{{2}}\\u[dD][c-fC-F]{_HEX}{{2}}"
_SOUND = rf"(?s)^(?:[^\\]|\\[^u]|\\u(?:[1-9a-cA-CefEF]{_HEX}{{3}}|{_NOT_NUL}|[dD][0-7]{_HEX}{{2}}|{_PAIR}))*$"
_QUOTE, _BACKSLASH, _COLON, _OPEN, _CLOSE = b'"\\:{}'


def unfit(documents: pa.Array, kind: ValueKind) -> pa.Array | None:
    """Flags of the documents that VARIANT can't hold as they are; None when it can hold all. NULL is no flag."""
    written = kind is ValueKind.JSON_TEXT
    found: list[pa.Array | None] = []
    if written or _perhaps_long(documents):
        found.append(_with_number(documents, f"{_LONG}|{_INEXACT}" if written else _LONG))
    if written:
        found += [_with_escape(documents), _with_key_twice(documents)]
    flags = [flag for flag in found if flag is not None]
    if not flags:
        return None
    whole = flags[0]
    for flag in flags[1:]:
        whole = pc.or_(whole, flag)
    return pc.fill_null(whole, False)


def _perhaps_long(documents: pa.Array) -> bool:
    """Whether so many digits and points may stand in a row. A row of 39 holds at least four of every ninth byte."""
    sample = _DIGIT[octets(documents)[::_STRIDE]]
    least = _DIGITS_MIN // _STRIDE
    together = sample[: max(0, len(sample) - least + 1)].copy()
    for shift in range(1, least):
        together &= sample[shift : shift + len(together)]
    return bool(together.any())


def _with_number(documents: pa.Array, pattern: str) -> pa.Array | None:
    perhaps = pc.match_substring_regex(documents, pattern)
    if not pc.any(perhaps).as_py():
        return None
    suspects = pc.if_else(perhaps, documents, pa.scalar(None, pa.string()))
    return pc.fill_null(pc.match_substring_regex(suspects, f"{_OUTSIDE}(?:{pattern})"), False)


def _with_escape(documents: pa.Array) -> pa.Array | None:
    """NUL characters and halves of surrogate pairs."""
    if not pc.any(pc.match_substring(documents, "\\u")).as_py():
        return None
    return pc.fill_null(pc.invert(pc.match_substring_regex(documents, _SOUND)), False)


def _with_key_twice(documents: pa.Array) -> pa.Array | None:
    """Objects with two keys that are written alike.

    Strings are the stretches between quotes in turn; keys are strings before a colon. An opening brace and the keys of its object stand side by side
    when all are sorted by depth, then place: so every key learns its object.
    """
    plain = pc.fill_null(documents, "")
    edges = np.frombuffer(plain.buffers()[1], dtype=np.int32)[plain.offset : plain.offset + len(plain) + 1]
    data = np.frombuffer(plain.buffers()[2] or b"", dtype=np.uint8)[: edges[-1]]
    quotes = _quotes(data[edges[0] :]) + int(edges[0])
    begins, ends = quotes[0::2] + 1, quotes[1::2]
    keys = _before_colon(data, ends)
    begins, ends = begins[keys], ends[keys]
    braces = np.flatnonzero((data == _OPEN) | (data == _CLOSE))
    braces = braces[(braces >= edges[0]) & (np.searchsorted(quotes, braces) % 2 == 0)]
    if len(begins) < 2 or not len(braces):
        return None
    opening = data[braces] == _OPEN
    depths = np.cumsum(np.where(opening, 1, -1))
    place = np.concatenate([braces[opening], begins])
    depth = np.concatenate([depths[opening], depths[np.searchsorted(braces, begins) - 1]])
    is_object = np.arange(len(place)) < int(opening.sum())
    order = np.lexsort((place, depth))
    objects = np.empty(len(place), dtype=np.int64)
    objects[order] = np.cumsum(is_object[order])
    texts = _codes(data, begins, ends)
    pairs = objects[~is_object] * (int(texts.max()) + 1) + texts
    _, first = np.unique(pairs, return_index=True)
    if len(first) == len(pairs):
        return None
    again = np.ones(len(pairs), dtype=bool)
    again[first] = False
    flags = np.zeros(len(documents), dtype=bool)
    flags[np.searchsorted(edges, begins[again], side="right") - 1] = True
    return pa.array(flags)


def _quotes(data: Octets) -> Integers:
    """Where quotes stand that no backslash escapes."""
    quotes = np.flatnonzero(data == _QUOTE)
    if not bool((data == _BACKSLASH).any()):
        return quotes
    others = np.concatenate([[-1], np.flatnonzero(data != _BACKSLASH)])
    before = others[np.searchsorted(others, quotes) - 1]
    plain: Integers = quotes[(quotes - before) % 2 == 1]
    return plain


def _before_colon(data: Octets, ends: Integers) -> npt.NDArray[np.bool_]:
    dark = np.flatnonzero(data > ord(" "))
    after = np.searchsorted(dark, ends, side="right")
    return data[dark[np.minimum(after, len(dark) - 1)]] == _COLON if len(dark) else np.zeros(len(ends), dtype=bool)


def _codes(data: Octets, begins: Integers, ends: Integers) -> Integers:
    """A number for each stretch of the data, equal for equal bytes. (An array of gaps and values in turn; the values are taken.)"""
    edges = np.zeros(2 * len(begins) + 2, dtype=np.int32)
    edges[1:-1:2], edges[2:-1:2], edges[-1] = begins, ends, len(data)
    buffers: list[Any] = [None, pa.py_buffer(edges), pa.py_buffer(data)]
    whole = pa.Array.from_buffers(pa.binary(), 2 * len(begins) + 1, buffers)
    texts = whole.take(pa.array(np.arange(1, 2 * len(begins), 2)))
    codes: Integers = texts.dictionary_encode().indices.cast(pa.int64()).to_numpy()
    return codes
