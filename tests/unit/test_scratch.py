"""Private directories: what a killed process leaves is removed, what another one uses is not."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import pytest

from etl_supervisor.ipc.scratch import FILES, METRICS, YOUNG_SECONDS, scratch


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def left(folder: Path, name: str, seconds: float) -> Path:
    """What a killed supervisor left so long ago."""
    path = folder / f"{METRICS}{name}"
    path.mkdir()
    (path / "counter_1.db").write_bytes(b"x")
    aged(path, seconds)
    return path


def aged(path: Path, seconds: float) -> None:
    os.utime(path, (time.time() - seconds,) * 2)


def test_a_directory_goes_with_its_maker(here: Path) -> None:
    with scratch(METRICS) as directory:
        assert Path(directory).is_dir()
        assert Path(directory).stat().st_mode & 0o777 == 0o700
    assert list(here.iterdir()) == []


def test_what_a_killed_supervisor_left_is_removed_by_the_next(here: Path) -> None:
    old, young = left(here, "old", YOUNG_SECONDS + 1), left(here, "young", 0)
    other = here / "somebody-elses"
    other.mkdir()
    link = here / f"{METRICS}link"
    link.symlink_to(other)
    os.utime(link, (0, 0), follow_symlinks=False)
    with scratch(METRICS):
        assert not old.exists()
        assert young.exists(), "it may not be locked yet"
        assert other.exists()
    left(here, "old", YOUNG_SECONDS + 1)
    with scratch(FILES):
        assert old.exists(), "another kind is left to its own"


def test_one_that_is_in_use_stays_however_old_it_is(here: Path) -> None:
    with scratch(METRICS) as first:
        aged(Path(first).parent, YOUNG_SECONDS + 1)
        with scratch(METRICS) as second:
            assert Path(first).exists()
            assert first != second
