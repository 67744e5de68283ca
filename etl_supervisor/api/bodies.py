"""The bodies of sources, destinations and pipelines: what is sent, and what comes back. Field names are the columns' names.

Secrets are only sent: what comes back says `<name>_set`. A field that is not known is refused, so that a typing error is no silent default. What a
field means: docs/configuration.md.
"""

from __future__ import annotations

import copy
import re
from datetime import datetime
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    create_model,
)

from etl_supervisor.model import names
from etl_supervisor.repository.desired import TABLE_SETTINGS

ID_MAX = (1 << 63) - 1  # of PostgreSQL's bigint
INTEGER_MAX = (1 << 31) - 1  # of its integer
_MOMENT = re.compile(r"\d{4}-\d\d-\d\d[Tt ]")
NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$"

_LISTED = {"pattern": r'^\s*("([^"\x00]|"")+"|[^",\s\x00])', "description": 'One or several: `orders, "a, b"`'}


def _no_zero_byte(text: str) -> str:
    if "\0" in text:
        raise ValueError("a zero byte is not allowed")
    return text


def _listed(text: str) -> str:
    if not names.publications(_no_zero_byte(text)):
        raise ValueError("a publication is needed")
    return text


def _written_out(moment: object) -> object:
    """A bare number is no moment, though it could be read as seconds."""
    if not isinstance(moment, str) or _MOMENT.match(moment) is None:
        raise ValueError("write it as 2024-01-31T12:00:00Z")
    return moment


Name = Annotated[str, Field(pattern=NAME, description="Letters, digits, _ . -; can't be changed later")]
_WITHOUT_ZERO_BYTES = {"pattern": r"^[^\x00]*$"}  # for the description: the validator says it better
Text = Annotated[
    str, Field(min_length=1, max_length=1024, json_schema_extra=_WITHOUT_ZERO_BYTES), AfterValidator(_no_zero_byte)
]
Secret = Annotated[SecretStr, Field(min_length=1, max_length=4096)]
Tenant = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,63}$")]
Moment = Annotated[AwareDatetime, Field(strict=False), BeforeValidator(_written_out)]
Id = Annotated[int, Field(ge=1, le=ID_MAX)]


class Body(BaseModel):
    """Something that is sent. A number is no text, and 0 is not false: a value has the type that the description says."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, strict=True)


class SourceBody(Body):
    """A PostgreSQL database that changes are read from."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "name": "production-postgres",
                "pg_host": "postgres.example.com",
                "pg_port": 5432,
                "pg_database": "myapp_production",
                "pg_username": "replication_user",
                "pg_password": "SecurePassword123!",
                "publication_name": "dbz_publication",
                "replication_id": 1,
            }
        }
    )

    name: Name
    pg_host: Text
    pg_port: int = Field(5432, ge=1, le=65535)
    pg_database: Text
    pg_username: Text
    pg_password: Secret | None = None
    pg_tls_mode: Literal["auto", "disable", "allow", "prefer", "require", "verify-ca", "verify-full"] = "auto"
    pg_tls_ca: Text | None = None
    pg_channel_binding: Literal["prefer", "require", "disable"] = "prefer"
    publication_name: Annotated[
        str, Field(min_length=1, max_length=4096, json_schema_extra=_LISTED), AfterValidator(_listed)
    ]
    replication_id: Id | None = Field(None, description="Names the slot; the id when not given; can't be changed later")
    stream_in_progress: bool = True
    transfer: Literal["auto", "text", "binary"] = "auto"
    heartbeat_seconds: float = Field(60, ge=0, le=86400, allow_inf_nan=False)
    primary_url: Secret | None = None
    slot_failover: bool = False
    on_slot_lost: Literal["ask", "resync"] = "ask"
    warning_wal_mb: int | None = Field(
        None, ge=1, le=INTEGER_MAX, description="Instead of WARNING_WAL, for this source"
    )
    danger_wal_mb: int | None = Field(None, ge=1, le=INTEGER_MAX, description="Instead of DANGER_WAL, for this source")
    tenant: Tenant | None = Field(None, description="The key's own when not given; can't be changed later")


class DestinationBody(Body):
    """A Snowflake database that changes are brought to."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "name": "snowflake-production",
                "snowflake_account": "xy12345.us-east-1",
                "snowflake_user": "ETL_USER",
                "snowflake_database": "ANALYTICS",
                "snowflake_schema": "RAW_DATA",
                "snowflake_role": "SYSADMIN",
                "snowflake_private_key_path": "user/snowflake_key.p8",
                "snowflake_host": "xy12345.snowflakecomputing.com",
            }
        }
    )

    name: Name
    destination_type: Literal["snowflake"] = "snowflake"
    snowflake_account: Text
    snowflake_user: Text
    snowflake_database: Text
    snowflake_schema: Text
    snowflake_warehouse: Text | None = None
    snowflake_role: Text | None = None
    snowflake_private_key_path: Text
    snowflake_private_key_passphrase: Secret | None = None
    snowflake_host: Text | None = None
    snowflake_landing_schema: Text = "ETL_SCHEMA"
    snowflake_task_schedule_minutes: int = Field(60, ge=1, le=11520)
    snowflake_apply_interval_seconds: float = Field(60, ge=0.1, le=86400)
    identifier_case: Literal["upper", "keep"] = "upper"
    schema_mapping: Literal["prefix", "schema"] = "prefix"
    copy_comments: bool = False
    settings: dict[str, str] = Field(default_factory=dict, description="What has no field of its own, like ca_file")
    tenant: Tenant | None = Field(None, description="The key's own when not given; can't be changed later")


def _own_settings(tables: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    for name, own in tables.items():
        schema, dot, table = name.partition(".")
        if not (schema and dot and table):
            raise ValueError(f"write the table {name} as schema.table")
        if unknown := sorted(set(own) - TABLE_SETTINGS):
            raise ValueError(f"{name} has {unknown[0]}; allowed are {', '.join(sorted(TABLE_SETTINGS))}")
    return tables


class PipelineBody(Body):
    """One source into one destination."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {"name": "production-to-snowflake", "source_id": 1, "destination_id": 1, "status": "START"}
        }
    )

    name: Name
    source_id: Id = Field(description="Can't be changed later")
    destination_id: Id = Field(description="Can't be changed later")
    status: Literal["START", "PAUSE"] = "PAUSE"
    batch_max_size: int = Field(1000, ge=1, le=1_000_000)
    batch_max_fill_ms: int = Field(5000, ge=1, le=600_000)
    table_error_retry_delay_ms: int = Field(10_000, ge=10, le=86_400_000)
    table_error_retry_max_attempts: int = Field(5, ge=0, le=1000)
    max_table_sync_workers: int = Field(4, ge=1, le=64)
    load_path: Literal["streaming", "snowpipe", "copy"] = "streaming"
    copy_load_path: Literal["streaming", "snowpipe", "copy"] = "streaming"
    file_max_size_mb: int = Field(1024, ge=1, le=16384)
    file_max_age_seconds: float = Field(60, ge=0.1, le=3600)
    apply: Literal["merge", "view", "task", "dynamic_table", "append"] = "merge"
    apply_delete: Literal["hard", "soft"] = "hard"
    apply_history: bool = False
    apply_interval_seconds_max: float = Field(3600, ge=1, le=86400)
    landing_retention_hours: float | None = Field(None, ge=0, le=87600)
    consistency: Literal["table", "transaction"] = "table"
    apply_tables: Annotated[dict[str, dict[str, Any]], AfterValidator(_own_settings)] = Field(
        default_factory=dict,
        json_schema_extra={"propertyNames": {"pattern": r"^[^.\x00]+\.[^\x00]+$"}},
        description="Settings of tables, {schema.table: {setting: value}}: " + ", ".join(sorted(TABLE_SETTINGS)),
    )
    channels_per_table: int = Field(1, ge=1, le=8)
    tables_include: list[str] = Field(
        default_factory=list, description="Patterns of schema.table; every one without any"
    )
    tables_exclude: list[str] = Field(default_factory=list, description="Patterns that are left out in any case")
    columns: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description='Columns that are not shown as they are: {schema.table: {column: exclude, hash, null or {"constant": text}}}',
    )


T = TypeVar("T")


class Page(BaseModel, Generic[T]):
    """Some of a list, in its order; `next_cursor` leads to the rest and is null at its end."""

    items: list[T]
    next_cursor: str | None = None


def changes_of(body: type[Body], name: str) -> Any:
    """The same body with every field optional: what is left out stays as it is."""
    fields: dict[str, Any] = {key: (field.annotation, _optional(field)) for key, field in body.model_fields.items()}
    return create_model(name, __base__=Body, **fields)


def _optional(field: Any) -> Any:
    optional = copy.copy(field)
    optional.default, optional.default_factory = None, None
    return optional


def view_of(body: type[Body], name: str, secrets: tuple[str, ...]) -> Any:
    """What comes back: the fields, `<secret>_set` in place of secrets, and what the database adds."""
    fields: dict[str, Any] = {"id": (int, ...)}
    for key, field in body.model_fields.items():
        if key in secrets:
            fields[f"{key}_set"] = (bool, Field(description="Whether there is one; it is never shown"))
        else:
            fields[key] = (field.annotation, ...)
    if body is PipelineBody:
        fields["retries"] = (int, Field(description="How often held tables were asked to be tried again"))
    fields |= {"tenant": (str, ...), "created_at": (datetime, ...), "updated_at": (datetime, ...)}
    return create_model(name, **fields)
