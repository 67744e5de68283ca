"""The directory of the metrics files: what a killed supervisor leaves is removed, what another one uses is not."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import pytest

from etl_supervisor.cli.metricsdir import PREFIX, YOUNG_SECONDS, metrics_directory


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def left(folder: Path, name: str, seconds: float) -> Path:
    """What a killed supervisor left so long ago."""
    path = folder / f"{PREFIX}{name}"
    path.mkdir()
    (path / "counter_1.db").write_bytes(b"x")
    aged(path, seconds)
    return path


def aged(path: Path, seconds: float) -> None:
    os.utime(path, (time.time() - seconds,) * 2)


def test_a_directory_goes_with_its_supervisor(here: Path) -> None:
    with metrics_directory() as directory:
        assert Path(directory).is_dir()
        assert Path(directory).stat().st_mode & 0o777 == 0o700
    assert list(here.iterdir()) == []


def test_what_a_killed_supervisor_left_is_removed_by_the_next(here: Path) -> None:
    old, young = left(here, "old", YOUNG_SECONDS + 1), left(here, "young", 0)
    other = here / "somebody-elses"
    other.mkdir()
    link = here / f"{PREFIX}link"
    link.symlink_to(other)
    os.utime(link, (0, 0), follow_symlinks=False)
    with metrics_directory():
        assert not old.exists()
        assert young.exists(), "it may not be locked yet"
        assert other.exists()


def test_one_that_is_in_use_stays_however_old_it_is(here: Path) -> None:
    with metrics_directory() as first:
        aged(Path(first), YOUNG_SECONDS + 1)
        with metrics_directory() as second:
            assert Path(first).exists()
            assert first != second
