"""The files that prometheus-client counts in, with room for what is written.

It makes them sparse and maps them: where the disk is full, a store into a page for which there is no block ends the process by SIGBUS. A process
that counts must not die of that, so blocks are reserved before a page is mapped. Where there are none, the process counts on in memory of its
own, which nobody reads, until it is started again.
"""

from __future__ import annotations

import mmap
import os

import structlog
from prometheus_client.mmap_dict import MmapedDict

BYTES = 1 << 16  # prometheus-client's own first size
_ENTRY_BYTES = 40  # length, padding, value and time of an entry, beside its key

log = structlog.get_logger()


class ReservedDict(MmapedDict):
    """prometheus-client's dictionary in a mapped file."""

    def __init__(self, filename: str, read_mode: bool = False) -> None:
        if not read_mode:
            try:
                with open(filename, "ab") as file:
                    os.posix_fallocate(file.fileno(), 0, max(BYTES, os.fstat(file.fileno()).st_size))
            except OSError as error:
                filename = _elsewhere(error)
        super().__init__(filename, read_mode)  # type: ignore[no-untyped-call]

    def _init_value(self, key: str) -> None:
        if self._used + len(key.encode()) + _ENTRY_BYTES > self._capacity:
            try:
                os.posix_fallocate(self._f.fileno(), 0, 2 * self._capacity)
            except OSError as error:
                held = bytes(self._m)
                self._f.close()
                self._f = open(_elsewhere(error), "r+b")  # noqa: SIM115 - as long as the process counts
                self._f.write(held)
                self._f.flush()
                self._m = mmap.mmap(self._f.fileno(), self._capacity)
        super()._init_value(key)  # type: ignore[no-untyped-call]


def _elsewhere(error: OSError) -> str:
    """A file in memory; its descriptor stays with the process."""
    remedy = (
        "make room in the temporary directory (TMPDIR), then start the supervisor again: it counts unseen until then"
    )
    log.error("metrics_not_kept", reason=error.strerror, remedy=remedy)
    file = os.memfd_create("etl-metrics")
    os.ftruncate(file, BYTES)
    return f"/proc/self/fd/{file}"
