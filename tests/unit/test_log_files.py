"""The file of LOG_FILE: who may read it, and how several processes and threads turn it over."""

from __future__ import annotations

import fcntl
import os
import stat
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import orjson

from etl_supervisor.monitor import logs

WRITERS, THREADS = 2, 3
SECONDS_MAX = 60.0

# argv: bytes of a file, name of the writer, threads, lines of each thread
PROGRAM = """
import os, sys, threading
from pathlib import Path
import structlog
from etl_supervisor.config.settings import load
from etl_supervisor.monitor import logs
logs.FILE_BYTES_MAX = int(sys.argv[1])
logs.configure(load(Path("."), {"SECRET_KEY": "x" * 32, "LOG_FILE": "logs/etl.log"}), process=sys.argv[2])
print("ready", flush=True)
sys.stdin.read()
def write(thread):
    log = structlog.get_logger()
    for number in range(int(sys.argv[4])):
        log.info("said", thread=thread, number=number, more="x" * (number % 300))
threads = [threading.Thread(target=write, args=(number,)) for number in range(int(sys.argv[3]))]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def write(folder: Path, bytes_max: int, lines: int, writers: int = WRITERS, threads: int = THREADS) -> list[Path]:
    """Have processes write at once; the files, the newest first."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    running = []
    for name in range(writers):
        arguments = [str(bytes_max), f"writer-{name}", str(threads), str(lines)]
        program = [sys.executable, "-c", PROGRAM, *arguments]
        pipe = subprocess.PIPE
        running.append(
            subprocess.Popen(program, cwd=folder, env=environment, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL)
        )
    try:
        for writer in running:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"ready\n"
        for writer in running:
            assert writer.stdin is not None
            writer.stdin.close()
        deadline = time.monotonic() + SECONDS_MAX
        assert [writer.wait(max(0.1, deadline - time.monotonic())) for writer in running] == [0] * writers
    finally:
        for writer in running:
            writer.kill()
            writer.wait()
            assert writer.stdout is not None
            writer.stdout.close()
    return sorted((folder / "logs").iterdir(), key=lambda path: (len(path.name), path.name))


def numbers(files: list[Path]) -> dict[tuple[str, int], list[int]]:
    """What each thread of each writer has said, as it lies in the files, oldest first; every line must be whole."""
    found = defaultdict(list)
    for file in reversed(files):
        text = file.read_bytes()
        assert text.endswith(b"\n")
        for row in text.splitlines():
            line = orjson.loads(row)
            assert line["more"] == "x" * (line["number"] % 300)
            found[line["process"], line["thread"]].append(line["number"])
    return found


def test_nobody_else_may_read_it(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        files = write(tmp_path, 20_000, 50)
    finally:
        os.umask(before)
    assert len(files) > 1
    assert stat.S_IMODE((tmp_path / "logs").stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def test_no_line_is_lost_or_cut_while_it_is_turned_over(tmp_path: Path) -> None:
    lines = 400
    whole = WRITERS * THREADS * lines * 320  # a line has 270 bytes in the mean
    files = write(tmp_path, whole // logs.FILES_KEPT, lines)
    assert 2 <= len(files) <= logs.FILES_KEPT + 1
    said = numbers(files)
    assert len(said) == WRITERS * THREADS
    for name, found in said.items():
        assert sorted(found) == list(range(lines)), name


def test_no_more_files_are_kept_than_are_allowed(tmp_path: Path) -> None:
    bytes_max, lines = 40_000, 600
    files = write(tmp_path, bytes_max, lines)
    assert [path.name for path in files] == ["etl.log", *(f"etl.log.{n}" for n in range(1, logs.FILES_KEPT + 1))]
    said = numbers(files)
    assert sum(map(len, said.values())) < WRITERS * THREADS * lines, "the oldest file was removed"
    assert any(found[-1] == lines - 1 for found in said.values())
    for path in files:  # each thread may find it not yet full
        assert path.stat().st_size < bytes_max + WRITERS * THREADS * 600
    for path in files[1:]:
        assert path.stat().st_size >= bytes_max


def test_a_lock_that_a_fork_has_too_is_given_up(tmp_path: Path) -> None:
    """A child has its parent's descriptors until it closes them; whoever waits for the lock would wait for its end."""
    file = logs._File(tmp_path / "etl.log")
    inherited = os.dup(file._fd)
    os.truncate(inherited, logs.FILE_BYTES_MAX)
    file.write(None, "info", {"event": "the first of the next"})
    with (tmp_path / "etl.log.1").open("ab") as waiting:
        fcntl.flock(waiting, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert (tmp_path / "etl.log").read_bytes() == b'{"event":"the first of the next"}\n'
    os.close(inherited)
    os.close(file._fd)


def test_a_file_that_cannot_be_turned_over_takes_the_lines_of_all(tmp_path: Path) -> None:
    for number in range(1, logs.FILES_KEPT + 1):
        (tmp_path / f"logs/etl.log.{number}/in the way").mkdir(parents=True)
    files = write(tmp_path, 10_000, 200)
    assert len(files) == logs.FILES_KEPT + 1
    assert files[0].stat().st_size > 10_000
    assert sorted(map(len, numbers(files[:1]).values())) == [200] * WRITERS * THREADS


def test_a_descriptor_that_is_somebody_elses_by_now_is_not_closed(tmp_path: Path) -> None:
    """When the new file can't be opened, the number of the old one must not be given up and closed again later."""
    (tmp_path / "logs").mkdir()
    file = logs._File(tmp_path / "logs/etl.log")
    (tmp_path / "logs").rename(tmp_path / "away")
    file.write(None, "info", {"event": "one"})
    with (tmp_path / "other").open("wb") as other:
        file.write(None, "info", {"event": "two"})
        other.write(b"mine")
    assert (tmp_path / "away/etl.log").read_bytes() == b'{"event":"one"}\n{"event":"two"}\n'
    assert (tmp_path / "other").read_bytes() == b"mine"
    os.close(file._fd)
