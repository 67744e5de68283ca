"""Which state store: Redis unless STATE_STORE says postgres."""

from __future__ import annotations

from typing import TYPE_CHECKING

from etl_supervisor.state.store import StateStore

if TYPE_CHECKING:
    from etl_supervisor.config.settings import Settings


def open_store(settings: Settings) -> StateStore:
    """The state store of this installation; connects at its first use."""
    if settings.state_store == "postgres":
        from etl_supervisor.state.postgres import PostgresStore

        return PostgresStore(settings.state_dsn())
    from etl_supervisor.state.redis import RedisStore

    return RedisStore(settings.redis_url.get_secret_value())
