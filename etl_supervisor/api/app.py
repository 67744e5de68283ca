"""The application: routes, errors, middleware, put together from settings. Nothing is connected before the first request.

    etl-supervisor run      one supervised child, when API_ADDR is set
    etl-supervisor api      alone; also `python -m etl_supervisor.api`
    uvicorn --factory etl_supervisor.api.app:from_environment
    gunicorn -k uvicorn_worker.UvicornWorker etl_supervisor.api.asgi:app

Alone nothing is migrated: `etl-supervisor migrate`, or the supervisor, does that.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from fastapi import APIRouter, FastAPI
from starlette.middleware.cors import CORSMiddleware

from etl_supervisor.api import faults, guard, openapi, pages
from etl_supervisor.api.control import control_of
from etl_supervisor.api.routes import (
    administration,
    alerting,
    configured,
    copying,
    examination,
    health,
    inspection,
    live,
    metering,
    publications,
    slots,
    verification,
    wal,
    watching,
)
from etl_supervisor.config.coredumps import forbid_core_dumps
from etl_supervisor.config.settings import load

if TYPE_CHECKING:
    from etl_supervisor.config.settings import Settings

PREFIX = "/api/v1"
VERSION = "1"
_PARTS = (
    configured.sources,
    inspection.router,
    publications.router,
    slots.router,
    configured.destinations,
    live.destinations,
    configured.pipelines,
    live.pipelines,
    copying.router,
    metering.router,
    examination.router,
    verification.router,
    wal.router,
    watching.router,
    administration.router,
    alerting.router,
)


def create_app(settings: Settings) -> FastAPI:
    """EtlError(CONFIG) when a setting is missing."""
    control = control_of(settings)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        gc.freeze()  # 100,000s of objects that stay: to look through them all held every request up for 150 ms
        yield
        control.crew.close()
        control.pool.close()

    app = FastAPI(
        title="ETL Stream",
        version=VERSION,
        description="Sources, destinations and pipelines: PostgreSQL changes into Snowflake.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
        redirect_slashes=False,
    )
    app.state.control = control
    faults.install(app)
    app.include_router(health.router)
    app.include_router(_versioned())
    pages.add(app)
    openapi.install(app)
    app.add_middleware(guard.Sizes, bytes_max=settings.api_body_max_kb << 10)
    if control.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=sorted(control.origins),
            allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
            allow_headers=[
                "Authorization",
                "X-API-Key",
                "Content-Type",
                "If-Match",
                "If-None-Match",
                "Idempotency-Key",
            ],
            expose_headers=["ETag", "Location", "X-Request-ID", "Idempotent-Replayed", "Retry-After"],
        )
    app.add_middleware(guard.Rates, per_second=settings.api_rate_limit)
    app.add_middleware(guard.Record)
    return app


def from_environment() -> FastAPI:
    """For servers that make it: settings from the environment and .env of the working directory."""
    return of_settings(load())


def of_settings(settings: Settings) -> FastAPI:
    """For a process of its own, which holds keys."""
    forbid_core_dumps()
    return create_app(settings)


def _versioned() -> APIRouter:
    router = APIRouter(prefix=PREFIX)
    for part in _PARTS:
        router.include_router(part)
    return router
