"""Which state store: Redis unless STATE_STORE says postgres. And a reader's last word in it."""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from etl_supervisor.errors import EtlError
from etl_supervisor.model.progress import SourceReport
from etl_supervisor.state.store import Observe, StateStore, unobserved

if TYPE_CHECKING:
    from etl_supervisor.config.settings import Settings


def open_store(settings: Settings, observe: Observe = unobserved) -> StateStore:
    """The state store of this installation; connects at its first use. `observe` is told of each operation on Redis."""
    if settings.state_store == "postgres":
        from etl_supervisor.state.postgres import PostgresStore

        return PostgresStore(settings.state_dsn())
    from etl_supervisor.state.redis import RedisStore

    authority = settings.directory / settings.redis_tls_ca if settings.redis_tls_ca else None
    return RedisStore(settings.redis_url.get_secret_value(), observe, authority)


def leave_word(settings: Settings, source: str, error: EtlError) -> None:
    """Why the reader of a source ended: `status` shows it until the next one reports. Best effort."""
    with contextlib.suppress(EtlError), contextlib.closing(open_store(settings)) as store:
        last = store.report(source) or SourceReport("")
        store.save_report(source, replace(last, state="stopped", trouble=error.line, reported_at=time.time()))
