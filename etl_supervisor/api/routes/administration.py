"""API keys, the audit log, the connection pool: for admins.

An admin of a tenant makes keys of that tenant alone, and sees its audit log; the pool is the installation's, for admins of all tenants.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field, field_validator

from etl_supervisor.api import access, audit, faults
from etl_supervisor.api.access import Admin
from etl_supervisor.api.bodies import Body, Moment, Page, Tenant, Text
from etl_supervisor.api.caller import Caller, Role
from etl_supervisor.api.control import ControlOf
from etl_supervisor.api.cursors import after_id, by_id, page_of
from etl_supervisor.api.routes.resources import Filters

router = APIRouter(tags=["administration"])


class KeyBody(Body):
    """A key to be made."""

    name: Text = Field(max_length=63, description="Whose it is, for the audit log")
    role: Role = Field(Role.VIEWER, strict=False)
    tenant: Tenant | None = Field(None, description="It sees this tenant alone; the maker's own when not given")
    expires_at: Moment | None = None

    @field_validator("expires_at")
    @classmethod
    def _in_the_future(cls, value: datetime | None) -> datetime | None:
        if value is not None and value <= datetime.now(UTC):
            raise ValueError("it is in the past")
        return value


class Key(BaseModel):
    """A key, without what it is."""

    id: int
    name: str
    prefix: str
    role: Role
    tenant: str | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


class MadeKey(BaseModel):
    """The only time that a key is shown."""

    id: int
    prefix: str
    key: str


class Entry(BaseModel):
    """One change. `before` and `after` have the columns that differ; secrets are masked."""

    id: int
    at: datetime
    who: str
    tenant: str
    action: str
    entity: str
    entity_id: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None


class PoolStatus(BaseModel):
    """Connections to the config database; at most `size` + `max_overflow`."""

    size: int
    max_overflow: int
    checked_out: int
    idle: int


@router.get("/api-keys", summary="List keys")
def list_keys(control: ControlOf, caller: Admin) -> list[Key]:
    """In the order in which they were made."""
    with control.pool.transaction() as connection:
        return [Key(**row) for row in access.listed(connection, caller.tenant)]


@router.post("/api-keys", status_code=201, summary="Make a key")
def create_key(body: KeyBody, control: ControlOf, caller: Admin) -> MadeKey:
    """The answer is the only time that it is shown."""
    if caller.tenant is not None and body.tenant not in (None, caller.tenant):
        raise faults.Fault(
            403, "PermissionDeniedError", f"The key belongs to tenant {caller.tenant}", tenant=caller.tenant
        )
    tenant = body.tenant or caller.tenant
    with control.pool.transaction() as connection:
        made = access.create(connection, body.name, body.role, tenant, body.expires_at)
        told = {"name": body.name, "role": str(body.role), "tenant": tenant, "expires_at": body.expires_at}
        audit.note(connection, caller, "create", ("ApiKey", made.prefix), (None, told), tenant)
    return MadeKey(id=made.id, prefix=made.prefix, key=made.key)


@router.delete("/api-keys/{prefix}", status_code=204, summary="Revoke a key")
def revoke_key(prefix: str, control: ControlOf, caller: Admin) -> None:
    """It ends with the next request."""
    with control.pool.transaction() as connection:
        if access.revoke(connection, prefix, caller.tenant) is None:
            raise faults.not_found("ApiKey", prefix)
        audit.note(connection, caller, "revoke", ("ApiKey", prefix))


@router.get("/audit-log", summary="Read the audit log")
def read_audit_log(control: ControlOf, caller: Admin, filters: Annotated[Filters, Query()]) -> Page[Entry]:
    """The newest first."""
    with control.pool.transaction() as connection:
        found = audit.listed(connection, caller, after_id(filters.cursor), filters.limit + 1)
    return Page[Entry](**page_of(found, filters.limit, by_id))


@router.get("/pool", summary="Read the state of the connection pool")
def read_pool(control: ControlOf, caller: Admin) -> PoolStatus:
    """Of the process that answers."""
    installation_wide(caller)
    return PoolStatus(**control.pool.status())


def installation_wide(caller: Caller) -> None:
    """Fault 403 for a key of one tenant."""
    if caller.tenant is not None:
        raise faults.Fault(403, "PermissionDeniedError", "This is for keys of all tenants", tenant=caller.tenant)
