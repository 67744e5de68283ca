"""Parsers of foreign bytes: a right result or a typed error, whatever comes."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import hostile
from tests.support.pgoutput_history import frames
from tests.support.pgoutput_streams import histories

NUMBERS = [bytes.fromhex(digits) for digits in ("ffffffff", "80000000", "7fffffff", "00000000", "ffff", "0000", "00ff")]
MARKS = [bytes([mark]) for mark in b"BCORYIUDTMSEcAKONtbnudfi\0\xff"]


@st.composite
def mutated(draw: st.DrawFn) -> list[bytes]:
    """A valid stream with some frames broken, lost, repeated or out of their order."""
    stream = frames(draw(histories(steps_max=6)), streamed=draw(st.integers(0, 9)) == 0)
    for _ in range(draw(st.integers(1, 3)) if stream else 0):
        at = draw(st.integers(0, len(stream) - 1))
        match draw(st.sampled_from(["set", "set", "set", "cut", "add", "lose", "repeat", "swap"])):
            case "set":
                new = draw(st.sampled_from(MARKS) | st.sampled_from(NUMBERS) | st.binary(min_size=1, max_size=2))
                place = draw(st.integers(1, max(1, len(stream[at]))) | st.integers(25, max(25, len(stream[at]))))
                stream[at] = stream[at][:place] + new + stream[at][place + len(new) :]
            case "cut":
                stream[at] = stream[at][: draw(st.integers(0, len(stream[at])))]
            case "add":
                stream[at] += draw(st.binary(min_size=1, max_size=5))
            case "lose" if len(stream) > 1:
                del stream[at]
            case "repeat":
                stream.insert(at, stream[at])
            case "swap":
                other = draw(st.integers(0, len(stream) - 1))
                stream[at], stream[other] = stream[other], stream[at]
    return stream


@settings(max_examples=500, deadline=None)
@given(mutated())
def test_a_broken_stream_gives_the_plain_decoders_rows_or_a_typed_error(stream):
    hostile.pgoutput(hostile.pack(stream))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_as_frames_are_a_typed_error_or_nothing_at_all(data):
    hostile.pgoutput(data)
