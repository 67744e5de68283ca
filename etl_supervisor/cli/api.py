"""`api`: the REST API alone; `api-key`: who may use it."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

from psycopg.rows import dict_row
from rich.console import Console
from rich.table import Table

from etl_supervisor.api import access
from etl_supervisor.api.caller import Role
from etl_supervisor.api.serve import serve_alone
from etl_supervisor.config.settings import Settings
from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.monitor import logs
from etl_supervisor.repository.connection import connect

TENANT = r"[A-Za-z0-9_-]{1,63}"


def run(settings: Settings, address: str | None) -> None:
    """Serve until told to stop."""
    logs.configure(settings, process="api")
    serve_alone(settings, address)


def create(settings: Settings, name: str, role: Role, tenant: str | None, days: int | None) -> str:
    """Make a key; the key itself, which nobody can show again."""
    if tenant is not None and re.fullmatch(TENANT, tenant) is None:
        raise EtlError(Kind.CONFIG, "--tenant", "it is letters, digits, _ and -, at most 63", "choose another name")
    expires = None if days is None else datetime.now(UTC) + timedelta(days=days)
    with _connect(settings) as connection:
        return access.create(connection, name, role, tenant, expires).key


def show(settings: Settings, console: Console) -> None:
    """Print all keys, without what they are."""
    table = Table("prefix", "name", "role", "tenant", "created", "expires", "last used", "state")
    now = datetime.now(UTC)
    with _connect(settings) as connection:
        for row in access.listed(connection):
            over = row["expires_at"] is not None and row["expires_at"] <= now
            state = "revoked" if row["revoked_at"] else "expired" if over else "good"
            moments = (_moment(row[key]) for key in ("created_at", "expires_at", "last_used_at"))
            table.add_row(row["prefix"], row["name"], row["role"], row["tenant"] or "all", *moments, state)
    console.print(table)


def revoke(settings: Settings, prefix: str) -> None:
    """End a key. EtlError(CONFIG) when there is none."""
    with _connect(settings) as connection:
        if access.revoke(connection, prefix) is None:
            remedy = "see `etl-supervisor api-key list`"
            raise EtlError(Kind.CONFIG, f"API key {prefix}", "there is no key of this prefix", remedy)


def _connect(settings: Settings) -> Any:
    return connect(settings.config_dsn(), row_factory=dict_row)


def _moment(value: datetime | None) -> str:
    return "-" if value is None else f"{value:%Y-%m-%d %H:%M}"
