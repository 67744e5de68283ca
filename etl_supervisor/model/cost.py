"""What loading costs in Snowflake, estimated: the factor of docs/snowflake.md#cost, which a contract may change."""

from __future__ import annotations

from dataclasses import dataclass

CREDITS_PER_GB = 0.0037  # of streamed values and of Parquet by Snowpipe
BYTES_PER_GB = 10**9  # the smaller of the two gigabytes: an estimate that is rather too high


@dataclass(frozen=True, slots=True)
class Credits:
    """Credits by what they are billed for. None: not to be known here, as it is the time of a warehouse of unknown size."""

    streaming: float
    snowpipe: float
    copy: float | None
    apply: float | None


def credits_of(billed_bytes: int, snowpipe_bytes: int, copy_files: int, applies: int) -> Credits:
    """Of what was brought. What did not happen costs nothing."""
    return Credits(
        billed_bytes / BYTES_PER_GB * CREDITS_PER_GB,
        snowpipe_bytes / BYTES_PER_GB * CREDITS_PER_GB,
        None if copy_files else 0.0,
        None if applies else 0.0,
    )
