"""Values of hundreds of megabytes are decoded whole, from the stream and from a copy, as text and as binary.

Each in a process of its own, because a process's highest memory can only be asked for its whole life.
"""

from __future__ import annotations

import hashlib
import resource
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pyarrow as pa
import pytest

from tests.support.copying import copied
from tests.support.fix_postgres import Database
from tests.support.streaming import Decoding, make_slot, streaming
from workers.reader.batcher import Batcher
from workers.reader.intake import Intake

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
PATTERN = b"0123456789abcde\n" * 4096
REPEATS = 5120  # 320 MiB
SECONDS_MAX = 100.0
MEASURED = """
import sys, orjson
from tests.postgres.test_large_values import measure
sys.stdout.buffer.write(orjson.dumps(measure(*sys.argv[1:])))
"""


def measure(dsn: str, name: str, way: str) -> tuple[str, float]:
    """SHA-256 of the large value, and how many times its size the process grew for it."""
    server: Any = SimpleNamespace(dsn=lambda _: dsn)
    database = Database(server, name)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if way == "copy":
        columns = copied(database, "t")[1].column("big")
    else:
        with streaming(database, slot=f"slot_{name}", binary=way == "binary stream") as decoding:
            columns = streamed(decoding)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    large, small = columns
    assert small.as_py() in ("small", b"small")
    return hashlib.sha256(large.as_buffer()).hexdigest(), grown / (REPEATS * len(PATTERN))


def streamed(decoding: Decoding) -> pa.ChunkedArray:
    """The two values of the table, batch by batch as the reader takes them."""
    intake = Intake(decoding.stream, decoding.assembler, Batcher(10_000, 4 << 20, 60.0))
    found: list[pa.Array] = []
    deadline = time.monotonic() + SECONDS_MAX
    while sum(map(len, found)) < 2:
        assert time.monotonic() < deadline, "the values did not come"
        full = list(intake.read(time.monotonic()))
        if not full and not intake.more:
            decoding.stream.wait(1.0)
            full = [intake.seal()] if intake.has_open_batch else []
        for batch in full:
            found += [item.batch.column("big") for item in decoding.decoder.decode(batch).segments]
    return pa.chunked_array(found)


@pytest.mark.parametrize(
    ("kind", "way", "times_max"),
    [
        ("text", "stream", 4),
        ("text", "binary stream", 4),
        ("text", "copy", 6),
        ("bytea", "stream", 8),  # its text is twice as long
        ("bytea", "binary stream", 4),
        ("bytea", "copy", 12),
    ],
)
def test_a_value_of_hundreds_of_megabytes_comes_whole_and_in_bounded_memory(
    database: Database, kind: str, way: str, times_max: float
) -> None:
    database.execute(f"create table t (id int primary key, big {kind}); alter table t alter big set storage external")
    database.execute("create publication p for all tables")
    make_slot(database, f"slot_{database.name}")
    value = f"repeat(%s, {REPEATS})"
    value = f"convert_to({value}, 'utf8')" if kind == "bytea" else value
    database.execute(f"insert into t values (1, {value})", PATTERN.decode())
    database.execute("insert into t values (2, 'small')")
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, database.dsn, database.name, way],
        env={"PATH": "", "PYTHONPATH": ":".join(path for path in sys.path if path)},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    digest, times = orjson.loads(done.stdout)
    expected = hashlib.sha256()
    for _ in range(REPEATS):
        expected.update(PATTERN)
    assert digest == expected.hexdigest()
    assert times < times_max, f"{times:.1f} times the value"
