"""Metrics on a disk that is full: the process counts on."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client.mmap_dict import MmapedDict

from etl_supervisor.monitor.counting import BYTES, ReservedDict

KEYS = [f'["etl", "etl", {{"table": "public.{"t" * 100}{number}"}}, "help"]' for number in range(2000)]
DISK_KIB = 128  # room for two files that are still empty

COUNT = """
from etl_supervisor.monitor import metrics
metrics.identify("reader-shop")
for number in range(3000):
    metrics.COPY_ROWS.labels("shop", f"public.{'t' * 100}{number}").inc()
print("counted")
"""


def full(*_: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def written(values: MmapedDict) -> dict[str, float]:
    for number, key in enumerate(KEYS):
        values.write_value(key, float(number), 0.0)
    return {key: value for key, value, _ in values.read_all_values()}


def test_blocks_are_there_before_pages_are_mapped(tmp_path: Path) -> None:
    path = tmp_path / "counter_1.db"
    values = ReservedDict(str(path))
    assert path.stat().st_blocks * 512 >= BYTES
    assert written(values) == {key: float(number) for number, key in enumerate(KEYS)}
    assert path.stat().st_size > BYTES, "it has grown"
    assert path.stat().st_blocks * 512 >= path.stat().st_size
    values.close()
    again = ReservedDict(str(path))
    assert again.read_value(KEYS[7]) == (7.0, 0.0), "a successor counts on"
    again.close()
    assert [value for _, value, _, _ in MmapedDict.read_all_values_from_file(str(path))][7] == 7.0


def test_a_full_disk_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "posix_fallocate", full)
    values = ReservedDict(str(tmp_path / "counter_1.db"))
    assert len(written(values)) == len(KEYS)
    values.close()


def test_a_disk_that_is_full_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "counter_1.db"
    values = ReservedDict(str(path))
    values.write_value(KEYS[0], 5.0, 0.0)
    monkeypatch.setattr(os, "posix_fallocate", full)
    assert written(values) == {key: float(number) for number, key in enumerate(KEYS)}
    values.close()
    assert path.stat().st_size == BYTES, "what was counted until then can still be read"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
def test_a_process_on_a_small_disk_lives(tmp_path: Path) -> None:
    if subprocess.run(["unshare", "-m", "true"], check=False).returncode != 0:
        pytest.skip("no mount namespaces here")
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path), "PYTHONPATH": os.getcwd()}
    mounted = f'mount -t tmpfs -o size={DISK_KIB}k none "$0" && exec "$1" -c "$2"'
    command = ["unshare", "-m", "sh", "-c", mounted, str(tmp_path), sys.executable, COUNT]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert "counted" in ended.stdout
    assert "metrics_not_kept" in ended.stdout + ended.stderr
