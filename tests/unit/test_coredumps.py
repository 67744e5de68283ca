"""A process that holds keys leaves no core dump, nor do its forks."""

from __future__ import annotations

import ctypes
import os
import resource
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import ctypes, os, resource
from etl_supervisor.config.coredumps import forbid_core_dumps
forbid_core_dumps()
if os.fork() == 0:
    print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), resource.getrlimit(resource.RLIMIT_CORE), flush=True)
    os.abort()
os.wait()
"""


def test_a_fork_that_aborts_leaves_no_core(tmp_path: Path) -> None:
    def allow() -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (resource.getrlimit(resource.RLIMIT_CORE)[1],) * 2)

    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=tmp_path,
        env={"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        preexec_fn=allow,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "0 (0, 0)\n"  # PR_GET_DUMPABLE is 3
    assert list(tmp_path.iterdir()) == []
    assert ctypes.CDLL(None).prctl(3, 0, 0, 0, 0) == 1  # this process may still be looked into
