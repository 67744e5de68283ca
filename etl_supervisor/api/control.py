"""What every route works with: settings, connection pool, keyring, state store, the crew for what takes long. One per process."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, Request

from etl_supervisor.api.operations import Crew
from etl_supervisor.api.pool import Pool
from etl_supervisor.config.secrets import Keyring
from etl_supervisor.state.choose import open_store
from etl_supervisor.state.store import StateStore

if TYPE_CHECKING:
    from etl_supervisor.config.settings import Settings


@dataclass(frozen=True, slots=True)
class Control:
    """`origins` are the web pages that may call us; `crew` does what takes long."""

    settings: Settings
    pool: Pool
    crew: Crew
    keyring: Keyring
    origins: frozenset[str]

    @contextlib.contextmanager
    def store(self) -> Iterator[StateStore]:
        """The state store, for one request: its clients are not shared by threads."""
        with contextlib.closing(open_store(self.settings)) as store:
            yield store


def control_of(settings: Settings) -> Control:
    """EtlError(CONFIG) when the settings lack what the API needs."""
    origins = frozenset(origin.strip() for origin in settings.api_cors_origins.split(",") if origin.strip())
    pool = Pool(settings)
    return Control(settings, pool, Crew(pool), settings.keyring(), origins)


def _control(request: Request) -> Control:
    found: Control = request.app.state.control
    return found


ControlOf = Annotated[Control, Depends(_control)]
