"""Every setting: its name, default, limits and reason, and where its value was read.

    real environment  >  .env  >  configuration/{APP_ENVIRONMENT}.yaml  >  configuration/base.yaml  >  default

A YAML file may group settings: `snowflake: {actor_pool_size: 8}` is SNOWFLAKE_ACTOR_POOL_SIZE, and so is the variable
APP_SNOWFLAKE__ACTOR_POOL_SIZE (which counts as the environment). A key that is not known, a value out of range or a missing secret is one line
that names the key, where it was read and what is allowed. docs/configuration.md is checked against this file.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, ValidationInfo, field_validator

from etl_supervisor.config.addresses import are_addresses
from etl_supervisor.config.database_url import libpq_url, redis_url
from etl_supervisor.config.reading import Reading
from etl_supervisor.config.secrets import SECRET_KEY_LENGTH_MIN, Keyring
from etl_supervisor.errors import EtlError, Kind

_ENVIRONMENTS = {"development": "dev", "production": "prod"}
_PORT_MAX = 65535
LEASE_SECONDS_MIN = 4  # time for three renewals and a kill


def _taking(allowed: str) -> dict[str, Any]:
    """What a text setting takes, in words; the schema can't say it."""
    return {"allowed": allowed}


_POSTGRES_URL = _taking("postgres://, postgresql:// or postgresql+driver://")
_KEY = _taking(f"text, at least {SECRET_KEY_LENGTH_MIN} characters")


class Settings(BaseModel):
    """All settings; immutable. Attribute names are the variables' in lower case."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    database_url: SecretStr | None = Field(
        None,
        description="Config database. Without it and CONFIG_DB_HOST the embedded parts are started",
        json_schema_extra=_POSTGRES_URL,
    )
    etl_database_url: SecretStr | None = Field(
        None,
        description="Database of the etl schema (state); DATABASE_URL when not set",
        json_schema_extra=_POSTGRES_URL,
    )
    config_db_host: str | None = Field(None, description="Config database, in parts: host")
    config_db_port: int = Field(5432, ge=1, le=_PORT_MAX, description="Config database: port")
    config_db_database: str = Field("etl_config", description="Config database: name")
    config_db_username: str = Field("postgres", description="Config database: user")
    config_db_password: SecretStr | None = Field(None, description="Config database: password")
    redis_url: SecretStr = Field(
        SecretStr("redis://127.0.0.1:6379"),
        description="State store",
        json_schema_extra=_taking("redis://, rediss:// or unix://"),
    )
    redis_tls_ca: str | None = Field(
        None,
        description="Authority (PEM file, relative to the .env) of a rediss:// server; the machine's authorities without it",
    )
    state_store: Literal["auto", "redis", "postgres"] = Field("auto", description="Where state is kept; auto is Redis")
    snowflake_actor_pool_size: int = Field(
        4, ge=1, le=64, description="Actor processes; each takes a share of the tables"
    )
    snowflake_channels_max: int = Field(
        200,
        ge=1,
        le=10_000,
        description="Streaming channels that an actor keeps open; beyond it those without rows are closed until the next row",
    )
    snowflake_channel_idle_seconds: float = Field(
        600, ge=1, le=86_400, description="A streaming channel without rows is closed after so long, until the next row"
    )
    snowflake_commit_seconds_max: float = Field(
        300,
        ge=1,
        le=86_400,
        description="Rows of a streaming channel of which Snowflake commits nothing for so long are sent again, by a new channel",
    )
    pipeline_poll_interval_secs: float = Field(
        5, ge=1, le=3600, description="Seconds between looks at the config database"
    )
    metrics_addr: str = Field("[::]:9000", description="Where /metrics answers", json_schema_extra=_taking("host:port"))
    otel_exporter_otlp_endpoint: SecretStr | None = Field(
        None,
        description="Collector (OTLP over HTTP) for traces of batches; needs the extra `otel`. Other OTEL_* come from the environment alone",
        json_schema_extra=_taking("http:// or https://"),
    )
    on_rewrite: Literal["resync", "hold"] = Field(
        "resync",
        description="A table whose rows changed without events (ALTER TYPE, partitions): copied again, or held",
    )
    park_after_seconds: float = Field(300, ge=5, le=86400, description="Pipelines stuck for so long leave the others")
    delete_grace_seconds: float = Field(3600, ge=0, le=2_592_000, description="How long deleted pipelines keep slots")
    shared_memory_budget_mb: int = Field(
        256, ge=4, le=65536, description="Rows in flight per reader, MiB; when spent, PostgreSQL holds the WAL"
    )
    batch_max_bytes_mb: int = Field(
        16, ge=1, le=512, description="A batch is sealed at this size, MiB, whatever its rows"
    )
    spool_memory_mb: int = Field(
        32,
        ge=1,
        le=4096,
        description="Transactions in progress in memory, per reader, MiB; what is beyond goes to disk",
    )
    spool_disk_mb: int = Field(
        20480,
        ge=1,
        le=16_777_216,
        description="Transactions in progress on disk, per reader, MiB; beyond it the stream is tried again later",
    )
    spool_directory: str | None = Field(
        None, description="Where transactions in progress go on disk; the system's temporary directory when not set"
    )
    copy_connections: int = Field(
        2, ge=1, le=16, description="First copy: connections of one copy worker, each reads ranges of pages"
    )
    copy_range_pages: int = Field(
        1024,
        ge=1,
        le=1_048_576,
        description="First copy: pages of a range; finished ranges are not read again after a crash",
    )
    shutdown_grace_seconds: float = Field(
        30, ge=1, le=3600, description="How long a drain may wait for rows to become durable"
    )
    heartbeat_timeout_seconds: float = Field(
        60, ge=2, le=3600, description="A child silent for longer is killed and started again"
    )
    lease_seconds: float = Field(
        6,
        ge=0,
        le=3600,
        description="Fail-over: a supervisor that can't renew its leases for so long stops, another goes on; 0: there is only one",
    )
    wal_monitor_enabled: bool = Field(True, description="WAL monitor: Measure each slot's retained WAL")
    wal_monitor_interval_seconds: int = Field(
        300, ge=1, le=86400, description="WAL monitor: Seconds between measurements"
    )
    wal_monitor_timeout_seconds: int = Field(
        30, ge=1, le=3600, description="WAL monitor: Time limit of one measurement"
    )
    wal_monitor_max_retries: int = Field(
        3, ge=0, le=100, description="WAL monitor: Tries again of a measurement that failed, with growing pauses"
    )
    warning_wal: int = Field(3000, ge=1, description="WAL monitor: Retained WAL that warns, MB")
    danger_wal: int = Field(
        6000,
        ge=1,
        validate_default=True,
        description="WAL monitor: Retained WAL that is dangerous, MB; not below WARNING_WAL",
    )
    wal_monitor_retention_days: int = Field(
        30, ge=1, le=3650, description="WAL monitor: Days that measurements are kept"
    )
    alert_wal_url: SecretStr | None = Field(
        None, description="WAL alerts: Webhook", json_schema_extra=_taking("http:// or https://")
    )
    alert_slack_url: SecretStr | None = Field(
        None,
        description="WAL alerts: Webhook of Slack, or of what takes its form",
        json_schema_extra=_taking("http:// or https://"),
    )
    alert_email_to: str | None = Field(None, description="WAL alerts: Addresses, by comma; needs ALERT_SMTP_URL")
    alert_email_from: str = Field("etl-stream@localhost", description="WAL alerts: Sender of e-mails")
    alert_smtp_url: SecretStr | None = Field(
        None,
        description="WAL alerts: Mail server; smtp:// uses STARTTLS where it is offered, and sends no password without",
        json_schema_extra=_taking("smtp://user:password@host:port or smtps://user:password@host:port"),
    )
    time_check_notification: int = Field(
        10,
        ge=0,
        le=10080,
        description="WAL alerts: Minutes that trouble must last before it is told",
    )
    secret_key: SecretStr | None = Field(None, description="Encrypts secrets at rest", json_schema_extra=_KEY)
    secret_key_previous: SecretStr | None = Field(
        None,
        description="The SECRET_KEY before: opens what was written under it, until `etl-supervisor rotate-secrets` has encrypted everything anew",
        json_schema_extra=_KEY,
    )
    masking_secret: SecretStr | None = Field(
        None,
        description="Columns that a pipeline hashes are hashed with it; another one has their tables copied again",
        json_schema_extra=_KEY,
    )
    app_environment: Literal["dev", "staging", "prod"] = Field(
        "prod", description="Which YAML file is read (also APP_ENV)"
    )
    debug: bool = Field(False, description="LOG_LEVEL DEBUG, whatever it says")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="Lines below it are not written"
    )
    log_file: str | None = Field(None, description="Also log into this file, turned over by size; relative to the .env")
    db_pool_size: int = Field(20, ge=1, le=1000, description="REST API: connections kept to the config database")
    db_max_overflow: int = Field(10, ge=0, le=1000, description="REST API: connections beyond the pool")
    db_pool_timeout: int = Field(30, ge=1, le=3600, description="REST API: seconds to wait for a connection")
    db_pool_recycle: int = Field(
        3600, ge=1, le=86400, description="REST API: seconds after which a connection is made anew"
    )
    api_addr: str | None = Field(
        None,
        description="REST API: where the supervisor's child answers; without it there is none",
        json_schema_extra=_taking("host:port"),
    )
    api_auth: Literal["required", "disabled"] = Field(
        "required", description="REST API: API keys; disabled only where API_ADDR is this machine alone (127.0.0.1)"
    )
    api_cors_origins: str = Field(
        "",
        description="REST API: web pages that may call it, by comma",
        json_schema_extra=_taking("https://host, by comma"),
    )
    api_rate_limit: int = Field(
        300, ge=0, le=1_000_000, description="REST API: requests per second of one key or address; 0 is no limit"
    )
    api_body_max_kb: int = Field(1024, ge=1, le=65536, description="REST API: largest request, KiB")
    api_key_directory: str = Field(
        ".",
        description="REST API: files that it names are here, those of a tenant's key in its subdirectory; relative to the .env",
    )
    data_directory: str = Field(".local", description="Data of the embedded parts; relative to the .env")
    directory: Path = Field(Path(), exclude=True, description="internal: the directory of the .env")

    @field_validator("database_url", "etl_database_url")
    @classmethod
    def _postgres_url(cls, value: SecretStr | None) -> SecretStr | None:
        return None if value is None else SecretStr(libpq_url(value.get_secret_value()))

    @field_validator("redis_url")
    @classmethod
    def _redis_url(cls, value: SecretStr) -> SecretStr:
        return SecretStr(redis_url(value.get_secret_value()))

    @field_validator("redis_tls_ca")
    @classmethod
    def _of_a_tls_server(cls, value: str | None, info: ValidationInfo) -> str | None:
        url: SecretStr | None = info.data.get("redis_url")
        if value is not None and url is not None and not url.get_secret_value().startswith("rediss://"):
            raise ValueError("REDIS_URL is no rediss:// URL")
        return value

    @field_validator("metrics_addr", "api_addr")
    @classmethod
    def _host_and_port(cls, value: str | None) -> str | None:
        if value is None:
            return None
        _, separator, port = value.rpartition(":")
        if not separator or not port.isdecimal() or int(port) > _PORT_MAX:
            raise ValueError("a host and a port are needed")
        return value

    @field_validator("otel_exporter_otlp_endpoint", "alert_wal_url", "alert_slack_url", "alert_smtp_url")
    @classmethod
    def _url(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        schemes = ("smtp", "smtps") if info.field_name == "alert_smtp_url" else ("http", "https")
        if value is not None:
            try:
                parts = urlsplit(value.get_secret_value())
                good = parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
            except ValueError:  # its text has parts of the value
                good = False
            if not good:
                raise ValueError("it is no such URL")
        return value

    @field_validator("alert_email_to", "alert_email_from")
    @classmethod
    def _addresses(cls, value: str | None) -> str | None:
        if value is not None and not are_addresses(value):
            raise ValueError("it is no e-mail address")
        return value

    @field_validator("lease_seconds")
    @classmethod
    def _none_or_some_tries(cls, value: float) -> float:
        if 0 < value < LEASE_SECONDS_MIN:
            raise ValueError(f"it is 0 or at least {LEASE_SECONDS_MIN}")
        return value

    @field_validator("danger_wal")
    @classmethod
    def _not_below_the_warning(cls, value: int, info: ValidationInfo) -> int:
        if value < info.data.get("warning_wal", value):
            raise ValueError("it is below WARNING_WAL")
        return value

    @field_validator("secret_key", "secret_key_previous", "masking_secret")
    @classmethod
    def _long_enough(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value()) < SECRET_KEY_LENGTH_MIN:
            raise ValueError(f"at least {SECRET_KEY_LENGTH_MIN} characters are needed")
        return value

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value

    @field_validator("app_environment", mode="before")
    @classmethod
    def _short(cls, value: object) -> object:
        return _ENVIRONMENTS.get(value.lower(), value.lower()) if isinstance(value, str) else value

    @property
    def embedded(self) -> bool:
        """True when there is no config database: the embedded parts are to be started."""
        return self.database_url is None and self.config_db_host is None

    def config_dsn(self) -> str:
        """libpq's connection string of the config database. Holds the password: never log it."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        if self.config_db_host is None:
            raise EtlError(
                Kind.CONFIG, "settings", "no config database is set", "set DATABASE_URL, or CONFIG_DB_HOST and its kin"
            )
        parts: dict[str, Any] = {
            "host": self.config_db_host,
            "port": self.config_db_port,
            "dbname": self.config_db_database,
            "user": self.config_db_username,
            "password": self.config_db_password.get_secret_value() if self.config_db_password else None,
        }
        return " ".join(f"{key}='{_quoted(value)}'" for key, value in parts.items() if value is not None)

    def state_dsn(self) -> str:
        """libpq's connection string of the database with schema etl."""
        return self.etl_database_url.get_secret_value() if self.etl_database_url else self.config_dsn()

    def masking(self) -> str:
        """The secret that columns are hashed with; empty without one (then none is hashed)."""
        return self.masking_secret.get_secret_value() if self.masking_secret else ""

    def keyring(self) -> Keyring:
        """What opens secrets at rest. EtlError(CONFIG) without SECRET_KEY."""
        if self.secret_key is None:
            remedy = (
                f"set SECRET_KEY (at least {SECRET_KEY_LENGTH_MIN} characters), for example from: openssl rand -hex 32"
            )
            raise EtlError(Kind.CONFIG, "SECRET_KEY", "secrets at rest need a key", remedy)
        old = [self.secret_key_previous.get_secret_value()] if self.secret_key_previous else []
        return Keyring(self.secret_key.get_secret_value(), *old)


def load(directory: Path | None = None, environment: Mapping[str, str] | None = None, **overrides: object) -> Settings:
    """Read all sources. EtlError(CONFIG), one line, for the first thing that is wrong."""
    directory = (directory or Path.cwd()).resolve()
    environment = os.environ if environment is None else environment
    env_file = directory / ".env"
    read = Reading(frozenset(_names()))
    env = read.from_env_file(env_file)
    real = read.from_environment(environment)
    named = real.get("APP_ENVIRONMENT") or env.get("APP_ENVIRONMENT")
    stage = Settings._short(named[0]) if named else "prod"
    found: dict[str, tuple[Any, str]] = {}
    for name in ("base", str(stage)):
        found |= read.from_yaml(directory / "configuration" / f"{name}.yaml")
    found |= env | real
    values = {key.lower(): value for key, (value, _) in found.items()}
    try:
        return Settings(**{**values, **overrides, "directory": directory})
    except ValidationError as error:
        raise _explain(error, found) from None


def _names() -> set[str]:
    return {name for name, field in Settings.model_fields.items() if not field.exclude}


def allowed(name: str) -> str:
    """What a setting takes, from its schema."""
    schema = Settings.model_json_schema()["properties"][name]
    if "allowed" in schema:
        return str(schema["allowed"])
    schema = next((part for part in schema.get("anyOf", []) if part.get("type") != "null"), schema)
    if "enum" in schema:
        return ", ".join(schema["enum"])
    kind = {"integer": "integer", "number": "number", "boolean": "true, false", "string": "text"}[schema["type"]]
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        return f"{kind}, {low} to {high}"
    return f"{kind}, at least {low}" if low is not None else kind


def _explain(error: ValidationError, found: Mapping[str, tuple[Any, str]]) -> EtlError:
    """The first thing that is wrong, without its value."""
    first = error.errors(include_input=False, include_url=False)[0]
    name = str(first["loc"][0]).upper()
    where = found[name][1] if name in found else "the default"
    reason = f"{first['msg'].removeprefix('Value error, ')} (read from {where})"
    return EtlError(Kind.CONFIG, name, reason, f"allowed: {allowed(name.lower())}")


def _quoted(value: object) -> str:
    return str(value).replace("\\", "\\\\").replace("'", "\\'")
