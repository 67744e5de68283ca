"""Documents that VARIANT would change, against Python's own JSON parser."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etl_supervisor.model.types import ValueKind
from workers.snowflake.variants import unfit

KEYS = st.sampled_from(["a", "b", "", 'q"', "\\", "{", "é", "x:", "12345678901234567890123456789012345678901"])
NUMBERS = st.one_of(
    st.integers(-(10**45), 10**45).map(str),
    st.decimals(-10, 10, places=37).map("{:f}".format),
    st.decimals(-10, 10, places=38).map("{:f}".format),
    st.sampled_from(
        ["1e5", "1E+5", "1.5e-3", "1e199", "1e200", "1e400", "-1e-400", "1.234567890123456e2", "1e00000005"]
    ),
)
SPACE = st.sampled_from(["", " ", "\n", "\t "])


def joined(opening: str, items: list[str], closing: str, space: str) -> str:
    return opening + space + f"{space},".join(items) + space + closing


def written(value: str, space: str) -> str:
    return json.dumps(value, ensure_ascii=False) + space + ":"


DOCUMENTS = st.recursive(
    NUMBERS | KEYS.map(json.dumps) | st.sampled_from(["null", "true", r'"A\"\\"']),
    lambda inner: st.one_of(
        st.builds(joined, st.just("["), st.lists(inner, max_size=3), st.just("]"), SPACE),
        st.builds(
            joined,
            st.just("{"),
            st.lists(st.builds(lambda k, s, v: written(k, s) + v, KEYS, SPACE, inner), max_size=4),
            st.just("}"),
            SPACE,
        ),
    ),
    max_leaves=8,
)


def expected(document: str, as_written: bool) -> bool:
    """The same question to Python's parser, document by document."""
    odd = []

    def number(text: str) -> None:
        digits, _, exponent = text.lower().lstrip("-").partition("e")
        count = len(digits.replace(".", ""))
        odd.append(count > 38 or bool(exponent and as_written and (count > 15 or abs(int(exponent)) >= 200)))

    def members(pairs: list[tuple[str, Any]]) -> None:
        odd.append(as_written and len({key for key, _ in pairs}) < len(pairs))

    json.loads(document, parse_int=number, parse_float=number, object_pairs_hook=members)
    return any(odd)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.none() | DOCUMENTS, min_size=1, max_size=6), st.booleans())
def test_the_documents_that_variant_can_not_hold_are_found(documents: list[str | None], as_written: bool) -> None:
    array = pa.array([None, "{}", *documents], pa.string()).slice(2)
    found = unfit(array, ValueKind.JSON_TEXT if as_written else ValueKind.JSON)
    flags = found.to_pylist() if found is not None else [False] * len(documents)
    assert flags == [document is not None and expected(document, as_written) for document in documents]


@pytest.mark.parametrize(
    ("document", "is_unfit"),
    [
        (r'"\u0000"', True),
        (r'"\ud83d"', True),
        (r'"\ud83dx"', True),
        (r'"\ude00\ud83d"', True),
        (r'"\ud83d\ude00"', False),
        (r'"\\ud83d"', False),
        (r'"\\\ud83d"', True),
        (r'"\u00e9\u0001\u0100\ud7ff\uffff"', False),
    ],
)
def test_characters_that_are_none_are_found(document: str, is_unfit: bool) -> None:
    found = unfit(pa.array([document]), ValueKind.JSON_TEXT)
    assert (found is not None and found[0].as_py()) == is_unfit
