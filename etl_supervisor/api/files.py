"""Files of this machine that a body may name: those below API_KEY_DIRECTORY, for a key of a tenant those below its subdirectory of the tenant's name.

A path is one that the workers will open with our rights, wherever it leads: another tenant's key, or any file whose absence, permissions or form
an error tells. So it is followed to its end (symbolic links, `..`) before it is taken. What is stored already, or written by SQL, is the operator's
and is not looked at. A unix socket may let us in as the user that we run as, so it is not for tenants.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict
from pydantic import SecretStr

from etl_supervisor.api import faults

SYSTEM_AUTHORITIES = "system"  # as libpq has it: no file
# Of libpq's parameters those that name a file, one that is written (sslkeylogfile), or one that names others (service).
FILE_PARAMETERS = frozenset(
    ("sslrootcert", "sslcert", "sslkey", "sslcrl", "sslcrldir", "sslkeylogfile", "passfile", "service", "servicefile")
)


@dataclass(frozen=True, slots=True)
class Files:
    """What a caller of `tenant` (None: all) may name. `directory` is where relative paths count from, `home` where files may be."""

    directory: Path
    home: str
    tenant: str | None

    def check(self, values: dict[str, Any], before: dict[str, Any] | None = None) -> None:
        """Fault 422 for a path that leads elsewhere, among the values of a source or destination that are about to be written."""
        for field, path in _named(values, before or {}):
            if not self.holds(path):
                shown = "API_KEY_DIRECTORY" + (f"/{self.tenant}" if self.tenant is not None else "")
                raise faults.invalid(field, f"a file that is named by the API must be in {shown}")
        if self.tenant is not None:
            for field, host in _hosts(values):
                if not host or host.startswith(("/", "@")):
                    raise faults.invalid(field, "a unix socket is not for keys of a tenant")

    def holds(self, path: str) -> bool:
        """Whether this path ends where the caller's files are."""
        try:
            home = (self.directory / self.home / (self.tenant or "")).resolve()
            return (self.directory / path).resolve().is_relative_to(home)
        except (OSError, RuntimeError, ValueError):  # links in a circle, names that are too long, zero bytes
            return False


def _named(values: dict[str, Any], before: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(field, path) of every file."""
    for field in ("snowflake_private_key_path", "pg_tls_ca"):
        if (path := values.get(field)) is not None and path != SYSTEM_AUTHORITIES:
            yield field, path
    authority = (values.get("settings") or {}).get("ca_file")
    if authority is not None and authority != (before.get("settings") or {}).get("ca_file"):
        yield "settings.ca_file", authority
    for parameter, value in (_parts(values) or {}).items():
        if parameter in FILE_PARAMETERS and value != SYSTEM_AUTHORITIES:
            yield "primary_url", value


def _hosts(values: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(field, host) of every server; one without a name is libpq's default, a unix socket."""
    found = {"pg_host": values.get("pg_host")}
    if (parts := _parts(values)) is not None:
        found["primary_url"] = parts.get("host") or parts.get("hostaddr") or ""
    for field, hosts in found.items():
        for host in [] if hosts is None else hosts.split(","):
            yield field, host.strip()


def _parts(values: dict[str, Any]) -> dict[str, str] | None:
    """The parameters of `primary_url`, when there is one. Fault 422 when libpq can't read it."""
    url = values.get("primary_url")
    if not isinstance(url, SecretStr):
        return None
    try:
        return {name: str(value) for name, value in conninfo_to_dict(url.get_secret_value()).items()}
    except psycopg.Error:
        reason = "it can't be read; write it as postgresql://user:password@host:port/database"
        raise faults.invalid("primary_url", reason) from None
