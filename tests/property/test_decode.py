"""The columnar decoder against the plain one on random streams, cut anywhere."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.pgoutput_comparison import columnar, decoder, plain
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
