"""The columnar decoder against the plain one on random streams, cut anywhere."""

from __future__ import annotations

import contextlib

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.pgoutput_comparison import assembler, columnar, decoder, plain
from tests.support.pgoutput_history import frames
from tests.support.pgoutput_reference import Options, reference
from tests.support.pgoutput_streams import PRIMARY_KEYS, histories


@settings(max_examples=200, deadline=None)
@given(histories(), st.lists(st.integers(0, 200), max_size=8))
def test_any_stream_cut_anywhere_gives_the_rows_of_the_plain_decoder(history, cuts):
    stream = frames(history)
    expected = plain(reference(stream, Options(PRIMARY_KEYS)))
    assert columnar(stream, [cut % (len(stream) + 1) for cut in cuts], decoder(PRIMARY_KEYS)) == expected
    assert not expected.in_transaction


@settings(max_examples=40, deadline=None)
@given(histories(steps_max=8))
def test_a_small_stream_cut_at_every_position_gives_the_same_rows(history):
    stream = frames(history)
    expected = plain(reference(stream, Options(PRIMARY_KEYS)))
    for cut in range(len(stream) + 1):
        assert columnar(stream, [cut], decoder(PRIMARY_KEYS)) == expected, cut
    assert columnar(stream, range(len(stream)), decoder(PRIMARY_KEYS)) == expected


@settings(max_examples=200, deadline=None)
@given(histories())
def test_streamed_transactions_come_out_as_if_they_had_not_been_streamed(history):
    options = Options(PRIMARY_KEYS)
    assert reference(frames(history, streamed=True), options) == reference(frames(history), options)


@settings(max_examples=200, deadline=None)
@given(histories(), st.lists(st.integers(0, 200), max_size=8), st.sampled_from([0, 100, 1 << 20]))
def test_the_assembler_gives_the_rows_of_the_plain_protocol_from_memory_and_from_files(history, cuts, memory_max):
    expected = plain(reference(frames(history), Options(PRIMARY_KEYS)))
    stream = frames(history, streamed=True)
    places = [cut % (len(stream) + 1) for cut in cuts]
    with contextlib.closing(assembler(memory_max)) as pieces:
        assert columnar(stream, places, decoder(PRIMARY_KEYS), pieces) == expected
        assert (pieces.memory_bytes, pieces.disk_bytes) == (0, 0)


@settings(max_examples=30, deadline=None)
@given(histories(steps_max=8))
def test_a_small_streamed_history_cut_at_every_position_gives_the_same_rows(history):
    expected = plain(reference(frames(history), Options(PRIMARY_KEYS)))
    stream = frames(history, streamed=True)
    for cuts in [*([cut] for cut in range(len(stream) + 1)), range(len(stream))]:
        with contextlib.closing(assembler()) as pieces:
            assert columnar(stream, cuts, decoder(PRIMARY_KEYS), pieces) == expected, cuts
