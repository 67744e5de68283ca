"""What of a segment's memory a job works on: all of its rows, or those that are meant.

Rows are views of the publisher's slab (an oversize segment's of a mapping of its own); only where some are left out are the others copied.
"""

from __future__ import annotations

import os

import numpy as np
import pyarrow as pa

from etl_supervisor.ipc.messages import OVERSIZE_SLOT, Segment
from etl_supervisor.ipc.segment import SlabReader, oversize_batch


def view(slab: SlabReader, segment: Segment, fd: int | None) -> pa.RecordBatch:
    """The rows that are meant, without those that are in the dead letter already."""
    if segment.slot == OVERSIZE_SLOT:
        assert fd is not None
        batch = oversize_batch(os.dup(fd), segment.length)
    else:
        batch = slab.batch(segment)
    first, rows = (segment.start, segment.rows) if segment.trial else (0, batch.num_rows)
    meant = batch.slice(first, rows)
    if not segment.left_out:
        return meant
    kept = np.ones(batch.num_rows, bool)
    kept[list(segment.left_out)] = False
    return meant.filter(pa.array(kept[first:][:rows]))


def close_descriptor(fd: int | None) -> None:
    """Give an oversize segment's descriptor back."""
    if fd is not None:
        os.close(fd)
