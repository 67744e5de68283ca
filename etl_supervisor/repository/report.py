"""How the supervisor's children are, in the config database: the API answers `/ready` by it, wherever it runs. One row, written by the monitor."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import psycopg
from psycopg.types.json import Jsonb

from etl_supervisor.ipc.messages import Supervised
from etl_supervisor.model.child import ChildStatus
from etl_supervisor.repository.connection import connect, trouble

if TYPE_CHECKING:
    from etl_supervisor.config.settings import Settings


@dataclass(frozen=True, slots=True)
class Reported:
    """The children as they were told last; `fresh`: lately."""

    children: tuple[ChildStatus, ...]
    fresh: bool


def find(settings: Settings) -> Reported | None:
    """The last report; None when there was none. EtlError(CONFIG_DATABASE)."""
    try:
        with connect(settings.config_dsn()) as connection:
            row = connection.execute("SELECT children, good_until > now() FROM app.supervisor_report").fetchone()
    except psycopg.Error as error:
        raise trouble(error) from None
    return None if row is None else Reported(tuple(ChildStatus(**child) for child in row[0]), row[1])


def save(settings: Settings, told: Supervised, good_seconds: float) -> None:
    """Write it; it counts for so long. EtlError(CONFIG_DATABASE)."""
    try:
        with connect(settings.config_dsn()) as connection:
            connection.execute(
                "INSERT INTO app.supervisor_report (children, reported_at, good_until)"
                " VALUES (%(children)s, now(), now() + make_interval(secs => %(seconds)s)) ON CONFLICT (only_one) DO UPDATE"
                " SET (children, reported_at, good_until) = ROW(excluded.children, excluded.reported_at, excluded.good_until)",
                {"children": Jsonb([asdict(child) for child in told.children]), "seconds": good_seconds},
            )
    except psycopg.Error as error:
        raise trouble(error) from None
