"""Fuzzes one parser with atheris:  python -m tests.fuzz.run PARSER SECONDS FOLDER

PARSER is a function of `tests.support.hostile`. The corpus grows in FOLDER, and an input that breaks the parser stays there as `crash-…`:
give it to the function again and make a test of it. `make fuzz` runs all parsers one after the other (needs the extra `fuzz`).
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["workers", "etl_supervisor"]):
    from tests.support import hostile

from hypothesis import given, settings

from tests.support.pgoutput_history import frames
from tests.support.pgoutput_streams import histories

INPUT_BYTES_MAX = 8_192
MEMORY_MB_MAX = 8_192  # the fuzzer itself grows by some megabytes a second
INPUT_SECONDS_MAX = 5  # one input that takes longer is a finding
SEED_HISTORIES = 60
GROWTH_BYTES_MAX = 16  # of a frame in one mutation
READY, FAILED = b'["Ready"]', b'["Failed",1,"open","schema","place","reason","remedy",true]'
SEEDS = {
    "server_bytes": [b"d\0\0\0\x05wN\0\0\0\x04d\0\0\0\x06wk", b"E\0\0\0\x0aSERR\0\0"],
    "stream_frame": [b"k" + bytes(17)],
    "copy_rows": [b'\1a,"b"\n\\N,"""\n"\n'],
    "wire_message": [READY, FAILED, b'["Desired",[]]', b'["Supervised",[["a",true,1,"open"]]]'],
    "mailbox_bytes": [b"\0\0\0\x09\0" + READY + b"\0\0\0\x3b\0" + FAILED],
}


def seed(parser: str, folder: Path) -> None:
    """Valid inputs to begin with."""
    for number, data in enumerate(SEEDS.get(parser, [])):
        (folder / f"seed-{number}").write_bytes(data)
    if parser == "pgoutput":
        seed_streams(folder)


def seed_streams(folder: Path) -> None:
    """Whole histories, in both forms of the protocol."""

    @settings(max_examples=SEED_HISTORIES, derandomize=True, database=None, deadline=None)
    @given(histories(steps_max=6))
    def write(history: object) -> None:
        for streamed in (False, True):
            data = hostile.pack(frames(history, streamed=streamed))
            (folder / f"seed-{random.Random(data).getrandbits(64):016x}").write_bytes(data)

    write()


def mutated(data: bytes, size_max: int, number: int) -> bytes:
    """Breaks inside a frame, or frames against each other, so that most of a stream stays a stream."""
    chance, parts = random.Random(number), list(hostile.unpack(data))
    if not parts or chance.random() < 0.05:
        return atheris.Mutate(data, size_max)
    at = chance.randrange(len(parts))
    match chance.randrange(10):
        case 0:
            parts.insert(at, parts[at])
        case 1:
            del parts[at]
        case 2:
            other = chance.randrange(len(parts))
            parts[at], parts[other] = parts[other], parts[at]
        case _:
            parts[at] = atheris.Mutate(parts[at], len(parts[at]) + GROWTH_BYTES_MAX)
    return hostile.pack(parts)[:size_max]


def main() -> None:
    """Run until the time is over (exit 0) or something breaks."""
    parser, seconds, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    folder.mkdir(parents=True, exist_ok=True)
    options = {"custom_mutator": mutated} if parser == "pgoutput" else {}
    seed(parser, folder)
    flags = [
        f"-max_total_time={seconds}",
        f"-max_len={INPUT_BYTES_MAX}",
        f"-rss_limit_mb={MEMORY_MB_MAX}",
        f"-timeout={INPUT_SECONDS_MAX}",
        f"-artifact_prefix={folder}/",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], *flags, str(folder)], getattr(hostile, parser), **options)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
