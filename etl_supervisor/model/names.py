"""Names that the system gives by itself: slots, channels, its own tables. What tables of the source are called is in `naming`."""

from __future__ import annotations

import re

WATERMARK_TABLE = "_ETL_WATERMARK"
STATE_TABLE = "_ETL_STATE"
DEAD_LETTER_TABLE = "_ETL_DEAD_LETTER"
FILES_TABLE = "_ETL_FILES"
STAGE = "_ETL_STAGE"
LANDING_PREFIX = "LANDING_"
HISTORY_SUFFIX = "_HISTORY"
LIVE_SUFFIX = "_LIVE"
META_PREFIX = "_ETL_"


_PARKED = re.compile(r"_p\d+$")
_LISTED = re.compile(r'\s*(?:"((?:[^"]|"")+)"|([^",]*[^",\s]))\s*(?:,|$)')


def publications(text: str) -> list[str]:
    """The names in a comma-separated list, in order: `orders, "a name, with a comma"`. ValueError where a quote is out of place.

    Unlike in SQL a name without quotes keeps its case. Quotes are needed for a name that has a comma or a quote (doubled inside).
    """
    found: dict[str, None] = {}
    text, at = text.strip(), 0
    while at < len(text):
        match = _LISTED.match(text, at)
        if match is None:
            raise ValueError(f"publication_name can't be read at character {at + 1}")
        found[match[2] or match[1].replace('""', '"')] = None
        at = match.end()
    return list(found)


def slot(replication_id: int, pipeline_id: int | None = None) -> str:
    """The replication slot of a source, by its `replication_id`; or of one of its pipelines that is parked."""
    return f"etl_stream_{replication_id}" + (f"_p{pipeline_id}" if pipeline_id is not None else "")


def shared_slot(name: str) -> str:
    """The slot of the source, whether `name` is that or a parked pipeline's."""
    return _PARKED.sub("", name)


def copy_slot(replication_id: int, incarnation: int) -> str:
    """The temporary slot of one copy worker."""
    return f"etl_copy_{replication_id}_{incarnation}"


def verify_slot(replication_id: int, pid: int) -> str:
    """The temporary slot of one verification."""
    return f"etl_verify_{replication_id}_{pid}"


def pipeline_mark(pipeline_id: int) -> str:
    """What stands for a whole pipeline among the landing tables of `_ETL_WATERMARK`; no landing table is called so."""
    return f"PIPELINE {pipeline_id}"


def stream_channel(pipeline_id: int, generation: int, number: int = 0) -> str:
    """The channel of a pipeline's changes into one table; the pipe belongs to the table, so its name need not be in it."""
    return f"etl-p{pipeline_id}-g{generation:08X}-{number}"


def copy_channel(pipeline_id: int, generation: int, consistent_point: int) -> str:
    """The channel of one copy, at the consistent point of its snapshot."""
    return f"etl-p{pipeline_id}-g{generation:08X}-copy-{consistent_point:016X}"


def is_copy(channel: str) -> bool:
    """Whether a channel is a copy's."""
    return "-copy-" in channel


def is_over(channel: str, opened: str) -> bool:
    """Whether nobody will open `channel` again, now that `opened` is of the same table: an older copy's, or the stream's of an older generation."""
    if is_copy(channel) != is_copy(opened) or channel.split("-")[1] != opened.split("-")[1]:
        return False
    return channel < opened
