"""Secrets as the config database has them: where they stand, and how they are encrypted, at first and again.

    written in clear (an INSERT in psql)     encrypted at the next poll, or by a rotation
    under SECRET_KEY_PREVIOUS                opens; a rotation writes it under SECRET_KEY
    under any other key                      does not open: it is named, and stays as it is

A rotation goes row by row, each in a transaction of its own with the row locked, and leaves alone what is current already. So it may be killed at any
point and run again, and two of them do not cross. Rows of pipelines that were deleted (`app.removed`) keep their source's secrets; they come along.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
import structlog
from psycopg import sql
from psycopg.rows import dict_row

from etl_supervisor.config.secrets import STORED_FORM, Keyring, is_encrypted
from etl_supervisor.errors import EtlError
from etl_supervisor.failpoints import failpoint
from etl_supervisor.model.pipeline import EncryptedText
from etl_supervisor.repository.connection import connect, trouble

if TYPE_CHECKING:
    from etl_supervisor.config.settings import Settings

SECRETS = (
    ("sources", "pg_password"),
    ("sources", "primary_url"),
    ("destinations", "snowflake_private_key_passphrase"),
    ("settings", "alert_wal_url"),
    ("settings", "alert_slack_url"),
    ("settings", "alert_smtp_url"),
)

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Place:
    """Where secrets of one kind stand: `value` and `name` are expressions of the row, `change` is what an UPDATE sets to %(stored)s."""

    table: str
    column: str
    relation: sql.Composable
    value: sql.Composable
    name: sql.Composable
    change: sql.Composable


@dataclass(frozen=True, slots=True)
class Rotation:
    """What a rotation did. `rewritten` were encrypted anew, `current` were already; `troubles` did not open and were left alone."""

    rewritten: int
    current: int
    troubles: tuple[EtlError, ...]


@dataclass(frozen=True, slots=True)
class Standing:
    """How the secrets of the database stand, as places (`sources/shop/pg_password`)."""

    clear: tuple[str, ...]
    previous: tuple[str, ...]
    closed: tuple[EtlError, ...]


def context(table: str, name: str, column: str) -> str:
    """Where a secret stands; bound into its encryption."""
    return f"{table}/{name}/{column}"


def encrypt_in_place(connection: psycopg.Connection[Any], keyring: Keyring) -> None:
    """Encrypt the secrets that stand in clear; the rows are locked, so two supervisors do not cross."""
    for place in _tables():
        query = sql.SQL(
            "SELECT id, {name} AS name, {value} AS secret FROM {relation} WHERE {value} IS NOT NULL AND {value} !~ {form} FOR UPDATE SKIP LOCKED"
        ).format(name=place.name, value=place.value, relation=place.relation, form=sql.Literal(STORED_FORM))
        for row in connection.execute(query).fetchall():
            _write(connection, place, row["id"], keyring.encrypt(row["secret"], _context(place, row)))
            log.info("secret_encrypted", table=place.table, row=row["name"], column=place.column)


def rotate(settings: Settings) -> Rotation:
    """Bring every secret under SECRET_KEY. EtlError(CONFIG_DATABASE) when the database can't be read."""
    keyring = settings.keyring()
    rewritten, current, troubles = 0, 0, []
    try:
        with connect(settings.config_dsn(), row_factory=dict_row, autocommit=True) as connection:
            for place in _places():
                for key in _keys(connection, place):
                    try:
                        changed = _rotate_one(connection, keyring, place, key)
                    except EtlError as error:
                        troubles.append(error)
                    else:
                        rewritten, current = rewritten + changed, current + (not changed)
    except psycopg.Error as error:
        raise trouble(error) from None
    return Rotation(rewritten, current, tuple(troubles))


def standing(settings: Settings) -> Standing:
    """Look at every secret, change none."""
    keyring = settings.keyring()
    clear, previous, closed = [], [], []
    try:
        with connect(settings.config_dsn(), row_factory=dict_row) as connection:
            for place in _places():
                for row in connection.execute(_select(place)).fetchall():
                    there, stored = _context(place, row), row["secret"]
                    try:
                        if not is_encrypted(stored):
                            clear.append(there)
                            continue
                        keyring.decrypt(EncryptedText(stored, there))
                        if not keyring.is_current(stored):
                            previous.append(there)
                    except EtlError as error:
                        closed.append(error)
    except psycopg.Error as error:
        raise trouble(error) from None
    return Standing(tuple(clear), tuple(previous), tuple(closed))


def _rotate_one(connection: psycopg.Connection[Any], keyring: Keyring, place: _Place, key: int) -> bool:
    """False when there is nothing (more) to do."""
    with connection.transaction():
        row = connection.execute(
            _select(place) + sql.SQL(" AND id = {} FOR UPDATE").format(sql.Literal(key))
        ).fetchone()
        if row is None or keyring.is_current(row["secret"]):
            return False
        there, stored = _context(place, row), row["secret"]
        clear = keyring.decrypt(EncryptedText(stored, there)) if is_encrypted(stored) else stored
        _write(connection, place, key, keyring.encrypt(clear, there))
        failpoint("rotation.before_commit")
    return True


def _keys(connection: psycopg.Connection[Any], place: _Place) -> list[int]:
    return [row["id"] for row in connection.execute(_select(place) + sql.SQL(" ORDER BY id")).fetchall()]


def _select(place: _Place) -> sql.Composed:
    query = "SELECT id, {name} AS name, {value} AS secret FROM {relation} WHERE {value} IS NOT NULL"
    return sql.SQL(query).format(name=place.name, value=place.value, relation=place.relation)


def _write(connection: psycopg.Connection[Any], place: _Place, key: int, secret: EncryptedText) -> None:
    query = sql.SQL("UPDATE {} SET {} WHERE id = %(key)s").format(place.relation, place.change)
    connection.execute(query, {"stored": secret.ciphertext, "key": key})


def _context(place: _Place, row: dict[str, Any]) -> str:
    return context(place.table, row["name"], place.column)


def _tables() -> Iterator[_Place]:
    """The columns of tables."""
    for table, column in SECRETS:
        value = sql.Identifier(column)
        change = sql.SQL("{} = %(stored)s").format(value)
        yield _Place(table, column, sql.Identifier("app", table), value, sql.Identifier("name"), change)


def _places() -> Iterator[_Place]:
    """The columns of tables, and the rows of sources that `app.removed` keeps."""
    yield from _tables()
    for column in (column for table, column in SECRETS if table == "sources"):
        value = sql.SQL("source->>{}").format(sql.Literal(column))
        change = sql.SQL("source = jsonb_set(source, ARRAY[{}], to_jsonb(%(stored)s::text))").format(
            sql.Literal(column)
        )
        yield _Place("sources", column, sql.Identifier("app", "removed"), value, sql.SQL("source->>'name'"), change)
