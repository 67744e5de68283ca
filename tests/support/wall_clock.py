"""The wall clock of a process tree, which a test can set: `clock.c`, compiled and preloaded. Everything in the process sees it, C and Rust too.

Servers that are started otherwise keep the true time, as PostgreSQL and Snowflake do when our machine's clock jumps.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("clock.c")


class WallClock:
    """Made in a folder; `environment` is for the processes. `there`: whether this machine has a compiler."""

    there = shutil.which("cc") is not None

    def __init__(self, folder: Path) -> None:
        self._file, library = folder / "clock", folder / "clock.so"
        subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o", library, SOURCE], check=True)
        self.set(0)
        self.environment = {"LD_PRELOAD": str(library), "ETL_CLOCK_FILE": str(self._file)}

    def set(self, seconds: int) -> None:
        """So far ahead of the true time from now on; negative: behind."""
        mode = "r+b" if self._file.exists() else "wb"
        with self._file.open(mode, buffering=0) as file:  # in place: it is mapped
            file.write(struct.pack("=q", seconds))
