"""Runs the migrations of `migrations/app` and `migrations/etl`: at the supervisor's start, and alone by `etl-supervisor migrate`.

An advisory lock makes two supervisors that start together take turns. Each step is a transaction: a crash leaves the steps before it.
"""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING, Literal

import alembic.command
import psycopg
import sqlalchemy
from alembic.config import Config

from etl_supervisor.repository.connection import connect, trouble

if TYPE_CHECKING:
    from etl_supervisor.config.settings import Settings

Chain = Literal["app", "etl"]
_LOCK = 0x45544C53  # "ETLS": the advisory lock of migrations


def migrate(settings: Settings, which: Literal["app", "etl", "all"] = "all") -> list[str]:
    """Bring the chains to their newest step; returns what was run. EtlError(CONFIG_DATABASE) when it can't be."""
    chains: dict[Chain, str] = {"app": settings.config_dsn(), "etl": settings.state_dsn()}
    done = []
    for chain, dsn in chains.items():
        if which in (chain, "all"):
            done += _run(chain, dsn)
    return done


def _run(chain: Chain, dsn: str) -> list[str]:
    engine = sqlalchemy.create_engine(
        "postgresql+psycopg://", creator=lambda: connect(dsn), poolclass=sqlalchemy.pool.NullPool
    )
    config = Config()
    config.set_main_option("script_location", str(resources.files("migrations") / chain))
    config.set_main_option("path_separator", "os")
    steps: list[str] = []
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql(f"SELECT pg_advisory_lock({_LOCK})")
            connection.exec_driver_sql(f"CREATE SCHEMA IF NOT EXISTS {chain}")
            connection.commit()
            before = _version(connection, chain)
            config.attributes["connection"] = connection
            alembic.command.upgrade(config, "head")
            connection.commit()
            after = _version(connection, chain)
            connection.exec_driver_sql(f"SELECT pg_advisory_unlock({_LOCK})")
            connection.commit()
            if after != before:
                steps.append(f"{chain}: {before or 'nothing'} -> {after}")
    except sqlalchemy.exc.DBAPIError as error:
        if isinstance(error.orig, psycopg.Error):
            raise trouble(error.orig) from None
        raise
    except psycopg.Error as error:
        raise trouble(error) from None
    finally:
        engine.dispose()
    return steps


def _version(connection: sqlalchemy.Connection, chain: Chain) -> str | None:
    exists = connection.exec_driver_sql(f"SELECT to_regclass('{chain}.alembic_version')").scalar()
    if exists is None:
        return None
    found = connection.exec_driver_sql(f"SELECT version_num FROM {chain}.alembic_version").scalar()
    return str(found) if found else None
