"""What must hold for bytes from outside, whatever they are: one function per parser. Hypothesis and the fuzzer call the same ones.

Each takes any bytes and returns, or fails an assertion, or lets an exception through that no caller expects.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

from etl_supervisor.errors import EtlError, Kind
from tests.support.pgoutput_comparison import columnar, decoder, plain
from tests.support.pgoutput_reference import Malformed, Options, reference
from tests.support.pgoutput_streams import PRIMARY_KEYS

_LENGTH = struct.Struct("!H")


def pack(frames: Sequence[bytes]) -> bytes:
    """Frames as one input for `pgoutput`."""
    return b"".join(_LENGTH.pack(len(frame)) + frame for frame in frames)


def unpack(data: bytes) -> Iterator[bytes]:
    """The frames of an input; a length beyond its end takes what is there."""
    at = 0
    while at + _LENGTH.size <= len(data):
        (length,) = _LENGTH.unpack_from(data, at)
        yield data[at + _LENGTH.size : at + _LENGTH.size + length]
        at += _LENGTH.size + length


def pgoutput(data: bytes) -> None:
    """Frames of the stream: the plain decoder's rows, or a typed error where it says that they are malformed."""
    frames = list(unpack(data))
    try:
        expected = plain(reference(frames, Options(PRIMARY_KEYS, protocol=1)))
    except Malformed:
        expected = None
    try:
        found = columnar(frames, [len(data) % (len(frames) + 1)], decoder(PRIMARY_KEYS))
    except EtlError as error:
        assert error.kind in (Kind.PROTOCOL, Kind.SCHEMA), error  # noqa: PT017 - no error at all is right too
        found = None
    assert found == expected
