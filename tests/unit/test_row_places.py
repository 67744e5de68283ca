"""Where rows begin in what a COPY has sent: what guess and proof find is what a walk through all messages finds."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.reader.copyboth import BrokenOffError, message_places
from workers.reader.copyout import RUNS_MAX, row_places

HEADER_IN_A_ROW = b"d\0\0\0\4"
OCTETS = st.lists(st.sampled_from([b"d", b"\0", b"\4", b"\5", HEADER_IN_A_ROW, b"x", b"d\0\0\0\7abc"]), max_size=8)
MESSAGES = st.lists(st.tuples(st.sampled_from(b"dddddNcZ"), OCTETS.map(b"".join)), max_size=40)


def written(messages: list[tuple[int, bytes]]) -> bytes:
    return b"".join(bytes([kind]) + struct.pack("!I", len(body) + 4) + body for kind, body in messages)


def same(data: bytes) -> None:
    buffer = bytearray(data) + bytearray(3)
    places, used = row_places(buffer, len(data))
    assert (places.tolist(), used) == message_places(buffer, len(data))


@given(MESSAGES, st.integers(0, 30))
def test_rows_are_found_where_a_walk_finds_them_whatever_they_hold_and_wherever_they_are_cut(messages, cut):
    data = written(messages)
    same(data[: max(0, len(data) - cut)])


def test_rows_that_are_full_of_false_headers_are_walked_through():
    messages = [(ord("d"), HEADER_IN_A_ROW * 3 + b"d\0\0\0\5x")] * (3 * RUNS_MAX)
    same(written(messages))


def test_a_length_that_the_protocol_does_not_allow_is_refused():
    with pytest.raises(BrokenOffError):
        row_places(bytearray(written([(ord("d"), b"abc")] * 5) + b"d\0\0\0\3abc"), 48)
