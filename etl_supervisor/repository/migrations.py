"""Runs the migrations of `migrations/app` and `migrations/etl`: at the supervisor's start, and alone by `etl-supervisor migrate`.

Nothing else migrates: whoever uses these packages as a library, or serves the API alone, finds the database as it is and is told when it is not
what this program needs. The two chains know nothing of each other and may be in two databases.

An advisory lock makes processes that start together take turns: the first one does it, the others find it done. Each step is a transaction with its
entry in `alembic_version`, and the lock goes with its session, so a crash leaves the steps before it and nobody locked out.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Literal

import alembic.command
import alembic.util
import psycopg
import sqlalchemy
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.script.revision import RevisionError

from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.repository.connection import connect, trouble
from etl_supervisor.repository.newest import CHAINS, Chain, dsn_of, version

if TYPE_CHECKING:
    from etl_supervisor.config.settings import Settings

_LOCK = 0x45544C53  # "ETLS": the advisory lock of migrations


@dataclass(frozen=True, slots=True)
class Step:
    """A migration, and whether the database has it."""

    revision: str
    does: str
    applied: bool


def migrate(settings: Settings, which: Literal["app", "etl", "all"] = "all") -> list[str]:
    """Bring the chains to their newest step; returns what was run. EtlError(CONFIG_DATABASE) when it can't be."""
    chains: tuple[Chain, ...] = CHAINS if which == "all" else (which,)
    done = []
    for chain in chains:
        with _locked(settings, chain) as (connection, config):
            connection.exec_driver_sql(f"CREATE SCHEMA IF NOT EXISTS {chain}")
            connection.commit()
            before = version(settings, chain)
            alembic.command.upgrade(config, "head")
            after = version(settings, chain)
        if after != before:
            done.append(f"{chain}: {before or 'nothing'} -> {after}")
    return done


def revert(settings: Settings, chain: Chain, steps: int) -> str:
    """Take back the newest `steps` of a chain (at most all), with the data that only they can hold; says what was run."""
    with _locked(settings, chain) as (_, config):
        before = version(settings, chain)
        applied = [step.revision for step in _steps(config, before) if step.applied]
        if not applied:
            return f"{chain}: nothing to take back"
        left = applied[:-steps]
        alembic.command.downgrade(config, left[-1] if left else "base")
    return f"{chain}: {before} -> {left[-1] if left else 'nothing'}"


def steps_of(settings: Settings, chain: Chain) -> list[Step]:
    """All migrations of a chain, the oldest first; changes nothing."""
    with _connected(settings, chain) as (_, config):
        return _steps(config, version(settings, chain))


@contextlib.contextmanager
def _locked(settings: Settings, chain: Chain) -> Iterator[tuple[sqlalchemy.Connection, Config]]:
    with _connected(settings, chain) as (connection, config):
        connection.exec_driver_sql(f"SELECT pg_advisory_lock({_LOCK})")
        connection.commit()
        yield connection, config
        connection.commit()
        connection.exec_driver_sql(f"SELECT pg_advisory_unlock({_LOCK})")
        connection.commit()


@contextlib.contextmanager
def _connected(settings: Settings, chain: Chain) -> Iterator[tuple[sqlalchemy.Connection, Config]]:
    """A connection to the database of a chain, and Alembic's configuration with it."""
    dsn = dsn_of(settings, chain)
    engine = sqlalchemy.create_engine(
        "postgresql+psycopg://", creator=lambda: connect(dsn), poolclass=sqlalchemy.pool.NullPool
    )
    config = Config()
    config.set_main_option("script_location", str(resources.files("migrations") / chain))
    config.set_main_option("path_separator", "os")
    try:
        with engine.connect() as connection:
            config.attributes["connection"] = connection
            yield connection, config
    except sqlalchemy.exc.DBAPIError as error:
        if isinstance(error.orig, psycopg.Error):
            raise trouble(error.orig) from None
        raise
    except psycopg.Error as error:
        raise trouble(error) from None
    except (alembic.util.CommandError, RevisionError):
        reason = f"schema {chain} is at a version that this program does not know"
        remedy = "run the program that made it, or a newer one"
        raise EtlError(Kind.CONFIG_DATABASE, "config database", reason, remedy) from None
    finally:
        engine.dispose()


def _steps(config: Config, version: str | None) -> list[Step]:
    scripts = ScriptDirectory.from_config(config)
    applied = {script.revision for script in scripts.iterate_revisions(version, "base")} if version else set()
    walk = reversed(list(scripts.walk_revisions()))
    return [Step(script.revision, _first_line(script.doc), script.revision in applied) for script in walk]


def _first_line(doc: str) -> str:
    return doc.strip().partition("\n")[0]
