"""All embedded parts together: what `make run` starts on a machine that has nothing.

    .local/postgres    databases etl_config (config database) and shop (the demo's source)
    .local/valkey      state; without a Valkey the PostgreSQL state store takes its place, and it is said
    .local/snowflake   the local Snowflake
    .local/secret.key  SECRET_KEY of this installation (0600)

Everything here dies with us and keeps its data; the next start goes on. Ports stay the same while they are free; the rows of the config database
are brought up to date at each start all the same.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any, Self

import psycopg
from psycopg import conninfo

from etl_supervisor.config.settings import Settings
from etl_supervisor.embedded.postgres import EmbeddedPostgres
from etl_supervisor.embedded.process import make_directories
from etl_supervisor.embedded.snowflake.launch import LocalSnowflake
from etl_supervisor.embedded.valkey import EmbeddedValkey
from etl_supervisor.errors import EtlError
from etl_supervisor.repository.newest import bring_up
from etl_supervisor.repository.write import upsert

CONFIG_DATABASE = "etl_config"
SECRET_KEY_BYTES = 32
SNOWFLAKE_DATABASE = "ANALYTICS"


class EmbeddedStack:
    """PostgreSQL, Valkey and a local Snowflake under one directory."""

    def __init__(self, directory: Path, *, commit_delay_s: float = 0.0) -> None:
        self.directory = directory
        self.postgres = EmbeddedPostgres(directory / "postgres")
        self.valkey: EmbeddedValkey | None = EmbeddedValkey(directory / "valkey")
        self.snowflake = LocalSnowflake(directory / "snowflake", commit_delay_s=commit_delay_s)
        self.missing: str = ""  # why there is no Valkey

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> Self:
        """Start all three; EtlError(EMBEDDED) when one can't be."""
        make_directories(self.directory)
        try:
            self.postgres.start()
            self._start_valkey()
            self.snowflake.start()
            self.postgres.create_database(CONFIG_DATABASE)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop all three, the sources of rows last."""
        self.snowflake.stop()
        if self.valkey is not None:
            self.valkey.stop()
        self.postgres.stop()

    def environment(self) -> dict[str, str]:
        """The settings that lead to these parts."""
        found = {"DATABASE_URL": self.postgres.url(CONFIG_DATABASE), "SECRET_KEY": self._secret_key()}
        if self.valkey is not None:
            return {**found, "REDIS_URL": self.valkey.url}
        return {**found, "STATE_STORE": "postgres"}

    def configure(
        self,
        settings: Settings,
        *,
        source: str,
        database: str,
        publication: str,
        apply_seconds: float,
        copy_load_path: str = "streaming",
    ) -> None:
        """A source in our PostgreSQL, the local Snowflake as destination, and a started pipeline between them."""
        bring_up(settings)
        with psycopg.connect(settings.config_dsn()) as connection:
            keyring = settings.keyring()
            source_id = upsert(
                connection, keyring, "sources", name=source, **self._source(database), publication_name=publication
            )
            destination_id = upsert(
                connection, keyring, "destinations", name="local", **self._destination(apply_seconds)
            )
            upsert(
                connection,
                keyring,
                "pipelines",
                name=f"{source}-to-snowflake",
                source_id=source_id,
                destination_id=destination_id,
                status="START",
                batch_max_fill_ms=500,
                table_error_retry_delay_ms=1000,
                copy_load_path=copy_load_path,
            )

    def _source(self, database: str) -> dict[str, Any]:
        parts = conninfo.conninfo_to_dict(self.postgres.dsn(database))
        return {
            "pg_host": parts["host"],
            "pg_port": int(str(parts["port"])),
            "pg_database": database,
            "pg_username": parts["user"],
            "pg_password": parts["password"],
            "pg_tls_mode": "disable",
        }

    def _destination(self, apply_seconds: float) -> dict[str, Any]:
        return {
            "snowflake_account": "LOCAL",
            "snowflake_user": "ETL",
            "snowflake_database": SNOWFLAKE_DATABASE,
            "snowflake_schema": "PUBLIC",
            "snowflake_private_key_path": str(self.snowflake.key_file),
            "snowflake_host": self.snowflake.host,
            "snowflake_apply_interval_seconds": apply_seconds,
            "settings": {"ca_file": str(self.snowflake.bundle_file)},
        }

    def _start_valkey(self) -> None:
        assert self.valkey is not None
        try:
            self.valkey.start()
        except EtlError as error:
            self.missing, self.valkey = error.line, None

    def _secret_key(self) -> str:
        path = self.directory / "secret.key"
        if not path.exists():
            path.touch(mode=0o600)
            path.write_text(secrets.token_hex(SECRET_KEY_BYTES))
        return path.read_text().strip()
