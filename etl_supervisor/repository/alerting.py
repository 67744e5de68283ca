"""The alerting that is in force: the process's settings, and over them the one row of `app.settings`, which people change while it runs.

    column          what holds
    NULL, no row    what the process was started with
    a value         the value, from the monitor's next round on

URLs may have tokens in them, so they are encrypted like other secrets, and opened only where they are called: one that does not open stops its own
channel, whose alerts wait, and neither the measuring nor the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.rows import dict_row
from pydantic import SecretStr

from etl_supervisor.config.secrets import is_encrypted
from etl_supervisor.model.pipeline import EncryptedText
from etl_supervisor.repository.secrets import SECRETS, context

if TYPE_CHECKING:
    from etl_supervisor.config.settings import Settings

AT_RUN_TIME = (
    "warning_wal",
    "danger_wal",
    "time_check_notification",
    "alert_wal_url",
    "alert_slack_url",
    "alert_email_to",
    "alert_email_from",
    "alert_smtp_url",
)  # what the table app.settings may say instead, while everything runs
TABLE = "settings"
ROW_ID = 1
URLS = tuple(column for table, column in SECRETS if table == TABLE)


@dataclass(frozen=True, slots=True)
class Alerting:
    """What is in force; MB and minutes. `urls` are those that are set, `overridden` what the table says."""

    warning_wal: int
    danger_wal: int
    time_check_notification: int
    alert_email_to: str | None
    alert_email_from: str
    urls: Mapping[str, SecretStr | EncryptedText]
    overridden: frozenset[str]
    settings: Settings

    def url(self, name: str) -> str:
        """The URL itself. EtlError(CONFIG) when it does not open."""
        stored = self.urls[name]
        return stored.get_secret_value() if isinstance(stored, SecretStr) else self.settings.keyring().decrypt(stored)


def in_force(connection: psycopg.Connection[Any], settings: Settings) -> Alerting:
    """What holds now."""
    row = connection.cursor(row_factory=dict_row).execute("SELECT * FROM app.settings").fetchone() or {}
    own = {name: row[name] for name in AT_RUN_TIME if row.get(name) is not None}
    values = {name: own.get(name, getattr(settings, name)) for name in AT_RUN_TIME if name not in URLS}
    urls = {name: _stored(own[name], name) if name in own else getattr(settings, name) for name in URLS}
    there = {name: url for name, url in urls.items() if url is not None}
    return Alerting(**values, urls=there, overridden=frozenset(own), settings=settings)


def _stored(text: str, column: str) -> SecretStr | EncryptedText:
    """What somebody wrote in clear by SQL is encrypted at the next poll, and good until then."""
    return EncryptedText(text, context(TABLE, "alerting", column)) if is_encrypted(text) else SecretStr(text)
