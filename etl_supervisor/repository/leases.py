"""Which supervisor runs which source: a row per source with a holder, an epoch and a time to live, by the database's clock.

    take      a row that nobody has, that is ours, that has run out, or whose holder is known to be dead: ours for so long
    give up   ours run out now: the next one need not wait

One statement takes and renews, so two that come at the same moment wait for each other's row, and the second finds it taken. The epoch rises when the
holder changes, and with nothing else.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg

from etl_supervisor.repository.connection import connect, trouble

if TYPE_CHECKING:
    from etl_supervisor.config.settings import Settings

_TAKE = """
INSERT INTO app.leases AS l (source_id, holder, epoch, taken_at, expires_at)
SELECT id, %(holder)s, 1, now(), now() + make_interval(secs => %(seconds)s) FROM app.sources WHERE id = ANY(%(wanted)s) ORDER BY id
ON CONFLICT (source_id) DO UPDATE SET (holder, epoch, taken_at, expires_at) = ROW(
    excluded.holder,
    CASE WHEN l.holder = excluded.holder THEN l.epoch ELSE l.epoch + 1 END,
    CASE WHEN l.holder = excluded.holder THEN l.taken_at ELSE excluded.taken_at END,
    excluded.expires_at)
WHERE l.holder = excluded.holder OR l.expires_at < clock_timestamp() OR l.holder = ANY(%(dead)s)
RETURNING source_id, epoch
"""


@dataclass(frozen=True, slots=True)
class Lease:
    """One row; `seconds_left` is negative when it has run out."""

    source: str
    holder: str
    epoch: int
    seconds_left: float


def take(
    connection: psycopg.Connection[Any], holder: str, wanted: Collection[int], dead: Collection[str], seconds: float
) -> dict[int, int]:
    """Take or renew the leases of these sources (ids) for so long; those that are ours now, with their epochs."""
    values = {"holder": holder, "wanted": sorted(wanted), "dead": sorted(dead), "seconds": seconds}
    return {int(source): int(epoch) for source, epoch in connection.execute(_TAKE, values)}


def others(connection: psycopg.Connection[Any], holder: str) -> set[str]:
    """Who else holds leases that have not run out."""
    query = "SELECT DISTINCT holder FROM app.leases WHERE holder <> %s AND expires_at >= now()"
    return {name for (name,) in connection.execute(query, [holder])}


def give_up(connection: psycopg.Connection[Any], holder: str) -> None:
    """Ours run out now."""
    connection.execute("UPDATE app.leases SET expires_at = now() WHERE holder = %s AND expires_at > now()", [holder])


def leases(settings: Settings) -> list[Lease]:
    """Every lease, for people. EtlError(CONFIG_DATABASE)."""
    query = (
        "SELECT s.name, l.holder, l.epoch, extract(epoch FROM l.expires_at - now())::float8"
        " FROM app.leases l JOIN app.sources s ON s.id = l.source_id ORDER BY s.name"
    )
    try:
        with connect(settings.config_dsn()) as connection:
            return [Lease(*row) for row in connection.execute(query)]
    except psycopg.Error as error:
        raise trouble(error) from None
