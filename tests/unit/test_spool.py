"""Transactions in progress on a disk that has no room, takes less than it is given, or does not give back what it took."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from etl_supervisor.config.secrets import SECRET_KEY_LENGTH_MIN
from etl_supervisor.config.settings import Settings
from etl_supervisor.errors import EtlError, Kind
from tests.support import pgoutput_frames as pg
from tests.unit.test_copying import SPEC
from workers.reader.assembler import Assembler
from workers.reader.frame import Chunk
from workers.reader.intake import intake_of
from workers.reader.spool import Spool, check_directory
from workers.reader.stream import ReplicationStream

PART_BYTES = 10_000
PLACE = "source shop"
OR_WHOLE = "or set the source's stream_in_progress to false: PostgreSQL then keeps them until their commit"
BEGINS, ENDS = pg.frame(1, pg.stream_start(7, first=True)), pg.frame(1, pg.stream_stop())
GOES_ON = pg.frame(1, pg.stream_start(7, first=False))
COMMITS = pg.frame(9, pg.stream_commit(7, 9, 10, 0))


def frame_of(number: int, size: int = PART_BYTES // 2) -> bytes:
    return pg.frame(number, pg.insert(1, [pg.text(str(number) * size)], xid=7))


def part_of(number: int) -> Chunk:
    return Chunk.of([frame_of(number), frame_of(number + 1)])


def frames_of(parts: Iterator[Chunk]) -> list[bytes]:
    return [
        bytes(part.data[first:last])
        for part in parts
        for first, last in zip(part.start.tolist(), part.end.tolist(), strict=True)
    ]


@contextlib.contextmanager
def room_for(size: int) -> Iterator[None]:
    """No file of this process may become larger: a write takes what fits, the next one says EFBIG."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def assembler(directory: Path | None = None, disk_max: int = 1 << 30) -> Assembler:
    """Whatever comes goes to disk at once."""
    return Assembler(0, disk_max, directory, PLACE)


def refusal(assembler: Assembler, *frames: bytes) -> EtlError:
    with contextlib.closing(assembler), pytest.raises(EtlError) as refused:
        list(assembler.take(Chunk.of(frames)))
    assert refused.value.kind is Kind.SPOOL
    assert refused.value.place == PLACE
    assert refused.value.transient
    return refused.value


@pytest.mark.parametrize("room", range(0, 2 * PART_BYTES, 997))
def test_a_part_that_did_not_fit_is_written_as_a_whole_when_there_is_room(room: int, tmp_path: Path) -> None:
    parts = [part_of(number) for number in (1, 3, 5)]
    frames = [frame for part in parts for frame in frames_of(iter([part]))]
    with contextlib.closing(Spool(tmp_path)) as spool:
        for part in parts[:2]:
            spool.add(part)
        with room_for(room), pytest.raises(OSError, match="File too large"):
            spool.spill()
        assert 0 <= room - spool.disk_bytes < PART_BYTES * 1.02  # a part is a little larger than its values
        spool.add(parts[2])
        assert frames_of(spool.parts()) == frames
        spool.spill()
        assert spool.memory_bytes == 0
        assert frames_of(spool.parts()) == frames


def test_a_disk_that_takes_only_a_part_is_asked_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, at: write(file, data[:1000], at))
    with contextlib.closing(Spool(tmp_path)) as spool:
        spool.add(part_of(1))
        spool.spill()
        assert frames_of(spool.parts()) == frames_of(iter([part_of(1)]))


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (errno.ENOSPC, "give SPOOL_DIRECTORY more room"),
        (errno.EDQUOT, "give SPOOL_DIRECTORY more room"),
        (errno.EIO, "set SPOOL_DIRECTORY to a directory that can be written"),
        (errno.EROFS, "set SPOOL_DIRECTORY to a directory that can be written"),
    ],
)
def test_a_disk_that_takes_a_part_and_then_fails_is_told_with_its_remedy(
    code: int, remedy: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write, asked = os.pwrite, []

    def short(file: int, data: memoryview, at: int) -> int:
        asked.append(at)
        if len(asked) > 1:
            raise OSError(code, os.strerror(code))
        return write(file, data[: len(data) // 2], at)

    monkeypatch.setattr(os, "pwrite", short)
    told = refusal(assembler(tmp_path), BEGINS, frame_of(1), ENDS)
    assert told.reason == f"SPOOL_DIRECTORY {tmp_path} can't hold transactions in progress: {os.strerror(code)}"
    assert told.remedy == f"{remedy}, {OR_WHOLE}"


def test_a_disk_that_takes_nothing_and_says_nothing_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "pwrite", lambda file, data, at: 0)
    told = refusal(assembler(), BEGINS, frame_of(1), ENDS)
    assert told.reason == "the temporary directory can't hold transactions in progress: No space left on device"


def test_the_limit_of_the_disk_is_told_with_its_remedy() -> None:
    small = assembler(disk_max=1 << 20)
    assert not list(small.take(Chunk.of([BEGINS, frame_of(1, 1 << 19), ENDS])))
    assert 0 < small.disk_bytes <= 1 << 20
    told = refusal(small, GOES_ON, frame_of(2, 1 << 19), ENDS)
    assert told.reason == "more than 1 MiB of transactions in progress (SPOOL_DISK_MB)"
    assert told.remedy == f"raise SPOOL_DISK_MB, {OR_WHOLE}"


def zeros(data: bytes) -> bytes:
    return bytes(len(data))


def one_bit(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def cut(data: bytes) -> bytes:
    return data[:-1]


@pytest.mark.parametrize("spoiled", [zeros, one_bit, cut])
@pytest.mark.parametrize("number", range(4))  # header and body of two parts
def test_a_disk_that_lost_what_it_took_is_told_and_no_row_is_made_of_it(
    number: int, spoiled: object, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    read, asked = os.pread, []

    def spoil(file: int, size: int, at: int) -> bytes:
        asked.append(at)
        data = read(file, size, at)
        return spoiled(data) if len(asked) - 1 == number else data  # type: ignore[operator]

    reader = assembler(tmp_path)
    for first, row in ((BEGINS, 1), (GOES_ON, 2)):
        assert not list(reader.take(Chunk.of([first, frame_of(row), ENDS])))
    monkeypatch.setattr(os, "pread", spoil)
    told = refusal(reader, COMMITS)
    assert told.reason.endswith("a file does not give back what was written")


@pytest.mark.parametrize(
    ("name", "why"), [("missing", "No such file or directory"), ("a file", "Not a directory")], ids=["missing", "file"]
)
def test_a_directory_that_can_not_be_written_is_told_at_the_start(name: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "a file").touch()
    directory = tmp_path / name
    with pytest.raises(EtlError) as refused:
        check_directory(directory, PLACE)
    assert refused.value.line == (
        f"spool at {PLACE}: SPOOL_DIRECTORY {directory} can't hold transactions in progress: {why}"
        f" (set SPOOL_DIRECTORY to a directory that can be written, {OR_WHOLE})"
    )


def test_a_source_whose_transactions_come_whole_needs_no_directory(tmp_path: Path) -> None:
    settings = Settings(secret_key="x" * SECRET_KEY_LENGTH_MIN, spool_directory=str(tmp_path / "missing"))
    whole = replace(SPEC, source=replace(SPEC.source, stream_in_progress=False))
    stream = cast("ReplicationStream", None)  # nothing is read
    intake_of(stream, whole, settings).close()
    with pytest.raises(EtlError, match="No such file or directory"):
        intake_of(stream, SPEC, settings)


def test_a_disk_that_is_full_at_the_start_is_no_trouble_yet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "open", full)
    check_directory(tmp_path, PLACE)
    assert "No space left on device" in refusal(assembler(tmp_path), BEGINS, frame_of(1), ENDS).reason
