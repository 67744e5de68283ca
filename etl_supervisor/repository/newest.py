"""Whether the schemas are the newest, which they nearly always are. Alembic is imported only where they are not: that takes longer than the rest of a
supervisor's start.
"""

from __future__ import annotations

import re
from importlib import resources
from typing import TYPE_CHECKING, Literal

import psycopg

from etl_supervisor.repository.connection import connect, trouble

if TYPE_CHECKING:
    from etl_supervisor.config.settings import Settings

Chain = Literal["app", "etl"]
CHAINS: tuple[Chain, ...] = ("app", "etl")
_LINK = re.compile(r'^(revision|down_revision) = "(\w+)"', re.MULTILINE)


def bring_up(settings: Settings) -> None:
    """Migrate both chains if a step is missing. EtlError(CONFIG_DATABASE) when it can't be done."""
    if all(version(settings, chain) == newest(chain) for chain in CHAINS):
        return
    from etl_supervisor.repository.migrations import migrate

    migrate(settings)


def dsn_of(settings: Settings, chain: Chain) -> str:
    """Where a chain is: the two may be in two databases."""
    return settings.config_dsn() if chain == "app" else settings.state_dsn()


def newest(chain: Chain) -> str:
    """The revision that no other one builds on, by the text of the migrations."""
    versions = resources.files("migrations") / chain / "versions"
    texts = [item.read_text() for item in versions.iterdir() if item.name.endswith(".py")]
    links = [link for text in texts for link in _LINK.findall(text)]
    built_on = {name for kind, name in links if kind == "down_revision"}
    (head,) = [str(name) for kind, name in links if kind == "revision" and name not in built_on]
    return head


def version(settings: Settings, chain: Chain) -> str | None:
    """Up to where a chain is; None for a database that has nothing of it."""
    try:
        with connect(dsn_of(settings, chain)) as connection:
            there = connection.execute("SELECT to_regclass(%s)", [f"{chain}.alembic_version"]).fetchone()
            if there is None or there[0] is None:
                return None
            row = connection.execute(f"SELECT version_num FROM {chain}.alembic_version".encode()).fetchone()
    except psycopg.Error as error:
        raise trouble(error) from None
    return str(row[0]) if row is not None else None
