"""Secrets in the config database under another key: all of them, at any time, whatever dies in the middle."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from psycopg.rows import dict_row

from etl_supervisor.config.secrets import Keyring
from etl_supervisor.config.settings import Settings, load
from etl_supervisor.errors import EtlError
from etl_supervisor.model.pipeline import EncryptedText
from etl_supervisor.repository import secrets
from etl_supervisor.repository.migrations import migrate
from etl_supervisor.repository.write import upsert
from tests.support import least
from tests.support.configured import DESTINATION, SOURCE
from tests.support.fix_postgres import Database

OLD, NEW, OTHER = "o" * 32, "n" * 32, "x" * 32
CLEAR = {"pg_password": "a password", "primary_url": "postgresql://u:another@h/d"}
PASSPHRASE = "a passphrase"


def settings_with(database: Database, folder: Path, **keys: str) -> Settings:
    return load(folder, {"DATABASE_URL": least.config_role(database), **keys})


@pytest.fixture
def filled(database: Database, tmp_path: Path) -> Database:
    """Three sources, a destination, and a pipeline that was deleted, under the old key."""
    old = settings_with(database, tmp_path, SECRET_KEY=OLD)
    migrate(old)
    with database.connect() as connection:
        for name in ("a", "b", "c"):
            source = upsert(connection, old.keyring(), "sources", name=name, **SOURCE, **CLEAR)
        destination = upsert(
            connection,
            old.keyring(),
            "destinations",
            name="wh",
            **DESTINATION,
            snowflake_private_key_passphrase=PASSPHRASE,
        )
        upsert(connection, old.keyring(), "pipelines", name="p", source_id=source, destination_id=destination)
    database.execute("delete from app.pipelines")
    return database


def stored(database: Database) -> dict[str, str]:
    """Every ciphertext, by its place."""
    found = database.execute(
        "select 'sources/' || name || '/pg_password', pg_password from app.sources"
        " union all select 'sources/' || name || '/primary_url', primary_url from app.sources"
        " union all select 'destinations/' || name || '/snowflake_private_key_passphrase', snowflake_private_key_passphrase from app.destinations"
        " union all select 'removed: sources/' || (source->>'name') || '/pg_password', source->>'pg_password' from app.removed"
        " union all select 'removed: sources/' || (source->>'name') || '/primary_url', source->>'primary_url' from app.removed"
    )
    return dict(found)


def opened(database: Database, keyring: Keyring) -> dict[str, str]:
    return {
        place: keyring.decrypt(EncryptedText(text, place.removeprefix("removed: ")))
        for place, text in stored(database).items()
    }


def rotating(database: Database, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command."""
    return subprocess.run(
        [sys.executable, "-m", "etl_supervisor.cli.main", "rotate-secrets"],
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "DATABASE_URL": least.config_role(database),
            "SECRET_KEY": NEW,
            "SECRET_KEY_PREVIOUS": OLD,
            **environment,
        },
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_secret_comes_under_the_new_key_and_the_old_one_is_not_needed_any_more(
    filled: Database, tmp_path: Path
) -> None:
    filled.execute("update app.sources set pg_password = 'in clear' where name = 'b'")
    before = stored(filled)
    done = rotating(filled, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (
        0,
        "9 encrypted anew, 0 current already, 0 left alone\n",
        "",
    )
    found = opened(filled, Keyring(NEW))
    assert len(found) == 9
    assert found["sources/b/pg_password"] == "in clear"
    assert found["removed: sources/c/primary_url"] == CLEAR["primary_url"]
    assert found["destinations/wh/snowflake_private_key_passphrase"] == PASSPHRASE
    assert not set(before.values()) & set(stored(filled).values())


def test_a_second_rotation_writes_nothing(filled: Database, tmp_path: Path) -> None:
    rotating(filled, tmp_path)
    before = stored(filled)
    assert rotating(filled, tmp_path).stdout == "0 encrypted anew, 9 current already, 0 left alone\n"
    assert stored(filled) == before


@pytest.mark.parametrize("visit", [1, 2, 9])
def test_a_rotation_that_is_killed_is_finished_by_the_next(filled: Database, tmp_path: Path, visit: int) -> None:
    killed = rotating(filled, tmp_path, ETL_FAILPOINTS=f"rotation.before_commit=kill@{visit}")
    assert killed.returncode == -9
    assert len(opened(filled, Keyring(NEW, OLD))) == 9  # nothing is lost in between
    done = rotating(filled, tmp_path)
    assert done.stdout == f"{10 - visit} encrypted anew, {visit - 1} current already, 0 left alone\n"
    assert len(opened(filled, Keyring(NEW))) == 9


def test_what_does_not_open_is_named_and_the_others_are_rotated(filled: Database, tmp_path: Path) -> None:
    foreign = Keyring(OTHER).encrypt("geheim", "sources/a/pg_password").ciphertext
    filled.execute("update app.sources set pg_password = %s where name = 'a'", foreign)
    done = rotating(filled, tmp_path)
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "config at sources/a/pg_password: the stored secret does not open with SECRET_KEY (restore the SECRET_KEY it was"
        " written under (or set it as SECRET_KEY_PREVIOUS), or store the secret again)",
        "8 encrypted anew, 0 current already, 1 left alone",
    ]
    assert stored(filled)["sources/a/pg_password"] == foreign
    with pytest.raises(EtlError):
        opened(filled, Keyring(NEW, OLD))


def test_how_secrets_stand_is_told_by_place(filled: Database, tmp_path: Path) -> None:
    filled.execute("update app.sources set pg_password = 'v1:in clear' where name = 'a'")
    settings = settings_with(filled, tmp_path, SECRET_KEY=NEW, SECRET_KEY_PREVIOUS=OLD)
    found = secrets.standing(settings)
    assert (found.clear, len(found.previous), found.closed) == (("sources/a/pg_password",), 8, ())
    alone = secrets.standing(settings_with(filled, tmp_path, SECRET_KEY=NEW))
    assert (len(alone.previous), len(alone.closed)) == (0, 8)


def test_a_clear_secret_that_begins_like_a_ciphertext_is_encrypted_at_the_next_poll(
    filled: Database, tmp_path: Path
) -> None:
    filled.execute("update app.sources set pg_password = 'v1:in clear' where name = 'a'")
    settings = settings_with(filled, tmp_path, SECRET_KEY=OLD)
    with filled.connect(row_factory=dict_row) as connection:
        secrets.encrypt_in_place(connection, settings.keyring())
    assert opened(filled, settings.keyring())["sources/a/pg_password"] == "v1:in clear"
