"""Who may do what: an API key has a role and, perhaps, a tenant.

    viewer      sees everything but secrets
    operator    also starts, pauses, copies again, retries, verifies, tests, replays and drops dead rows
    admin       also changes sources, destinations, pipelines, publications, slots and keys

A key is `etl_<prefix>_<secret>`: the prefix finds its row, the database has only SHA-256 of the whole (256 random bits need no slow hash). A key of
a tenant sees that tenant's rows; others answer as if they did not exist. A role is asked for by the route itself (`Viewer`, `Operator`,
`Admin`), and a test looks that every route of /api/v1 does.

Without keys (API_AUTH=disabled) everybody on this machine is admin: then only this machine's own address answers, under its own name, and not to a
web page of somebody else's.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader, HTTPBearer
from fastapi.security.http import HTTPAuthorizationCredentials

from etl_supervisor.api import guard
from etl_supervisor.api.caller import Caller, Role
from etl_supervisor.api.control import Control, ControlOf
from etl_supervisor.api.faults import Fault
from etl_supervisor.api.pool import Connection

PREFIX_BYTES, SECRET_BYTES = 4, 32
_KEY = re.compile(r"etl_([0-9a-f]{8})_[A-Za-z0-9_-]{43}")
_bearer = HTTPBearer(auto_error=False, description="An API key: `Authorization: Bearer etl_…`")
_header = APIKeyHeader(name="X-API-Key", auto_error=False, description="The same in a header of its own")


NOBODY_IN_PARTICULAR = Caller("anonymous", Role.ADMIN)


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just made: the only time that anybody sees it."""

    id: int
    key: str
    prefix: str


def create(connection: Connection, name: str, role: Role, tenant: str | None, expires_at: datetime | None) -> NewKey:
    """Make a key."""
    prefix = secrets.token_hex(PREFIX_BYTES)
    key = f"etl_{prefix}_{secrets.token_urlsafe(SECRET_BYTES)}"
    row = connection.execute(
        "INSERT INTO app.api_keys (name, prefix, hash, role, tenant, expires_at) VALUES (%s, %s, %s, %s, %s, %s) RETURNING id",
        [name, prefix, _hash(key), str(role), tenant, expires_at],
    ).fetchone()
    assert row is not None
    return NewKey(row["id"], key, prefix)


def listed(connection: Connection, tenant: str | None = None) -> list[dict[str, Any]]:
    """All keys of a tenant (None: of everybody), without what they are."""
    return connection.execute(
        "SELECT id, name, prefix, role, tenant, created_at, expires_at, revoked_at, last_used_at FROM app.api_keys"
        " WHERE %(tenant)s::text IS NULL OR tenant = %(tenant)s ORDER BY id",
        {"tenant": tenant},
    ).fetchall()


def revoke(connection: Connection, prefix: str, tenant: str | None = None) -> dict[str, Any] | None:
    """End a key from now on; None when there is none of this prefix."""
    return connection.execute(
        "UPDATE app.api_keys SET revoked_at = coalesce(revoked_at, now()) WHERE prefix = %(prefix)s"
        " AND (%(tenant)s::text IS NULL OR tenant = %(tenant)s) RETURNING id, name, prefix, revoked_at",
        {"prefix": prefix, "tenant": tenant},
    ).fetchone()


def verify(connection: Connection, key: str) -> Caller | None:
    """Whose key it is; None when it is nobody's, expired or revoked."""
    match = _KEY.fullmatch(key)
    if match is None:
        return None
    row = connection.execute(
        "SELECT id, name, prefix, hash, role, tenant, last_used_at < now() - interval '1 minute' IS NOT FALSE AS stale FROM app.api_keys"
        " WHERE prefix = %s AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())",
        [match[1]],
    ).fetchone()
    if row is None or not hmac.compare_digest(row["hash"], _hash(key)):
        return None
    if row["stale"]:
        connection.execute("UPDATE app.api_keys SET last_used_at = now() WHERE id = %s", [row["id"]])
    return Caller(f"{row['name']} ({row['prefix']})", Role(row["role"]), row["tenant"])


def is_loopback(host: str) -> bool:
    """Whether a host is this machine and nobody else can reach it."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def needs(role: Role) -> Callable[..., Caller]:
    """A dependency: the caller, who has at least this role."""

    def caller(
        request: Request,
        control: ControlOf,
        bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
        header: Annotated[str | None, Security(_header)],
    ) -> Caller:
        if control.settings.api_auth == "disabled":
            _must_be_local(request, control)
            return NOBODY_IN_PARTICULAR
        key = bearer.credentials if bearer else header
        found = _authenticated(control, key)
        setattr(request.state, guard.LET_IN, guard.digest(key or ""))  # its limit is its own from now on
        if not found.role.includes(role):
            message = f"This needs the role {role}; the key has {found.role}"
            raise Fault(403, "PermissionDeniedError", message, role=str(found.role), needed=str(role))
        return found

    caller.role = role  # type: ignore[attr-defined] # for the test that walks the routes
    return caller


Viewer = Annotated[Caller, Depends(needs(Role.VIEWER))]
Operator = Annotated[Caller, Depends(needs(Role.OPERATOR))]
Admin = Annotated[Caller, Depends(needs(Role.ADMIN))]


def _authenticated(control: Control, key: str | None) -> Caller:
    challenge = {"WWW-Authenticate": "Bearer"}
    if key is None:
        message = "An API key is needed: Authorization: Bearer etl_… (make one with `etl-supervisor api-key create`)"
        raise Fault(401, "AuthenticationError", message, challenge)
    with control.pool.transaction() as connection:
        found = verify(connection, key)
    if found is None:
        raise Fault(401, "AuthenticationError", "The API key is not known, expired or revoked", challenge)
    return found


def _must_be_local(request: Request, control: Control) -> None:
    server = request.scope.get("server") or ("", 0)
    origin = request.headers.get("origin")
    local = is_loopback(str(server[0])) and is_loopback(request.url.hostname or "")
    foreign = origin is not None and origin not in control.origins and not is_loopback(urlsplit(origin).hostname or "")
    if not local or foreign:
        message = "API_AUTH=disabled answers this machine alone; set API_AUTH=required and use a key"
        raise Fault(403, "PermissionDeniedError", message)


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
