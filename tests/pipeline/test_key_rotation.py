"""A user's key is exchanged under load: no process ends, no row is missing."""

from __future__ import annotations

import threading
import uuid

import pytest

from tests.support.fix_deployment import Deployment, wait_for
from tests.support.fix_local_snowflake import sql_session
from tests.support.keys import write_key

PASSPHRASE = "a passphrase"


class Writer:
    """Inserts rows until the end of the block."""

    def __init__(self, deploy: Deployment) -> None:
        self._deploy, self._end = deploy, threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.rows = 0

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        with self._deploy.source.connect() as connection:
            while not self._end.wait(0.02):
                connection.execute("insert into t (v) values ('x'), ('y'); update t set v = v || '.' where k % 50 = 0")
                self.rows += 2


def administer(deploy: Deployment, *statements: str) -> None:
    with sql_session(deploy.destination) as session, session.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


def landed(deploy: Deployment) -> int:
    with sql_session(deploy.destination) as session, session.cursor() as cursor:
        there = f'"{deploy.destination.database}"."{deploy.destination.landing_schema}"."LANDING_T"'
        return int(cursor.execute(f"SELECT COUNT(*) FROM {there}").fetchone()[0])


@pytest.mark.timeout(240)
@pytest.mark.parametrize(("path", "passphrase"), [("streaming", PASSPHRASE), ("snowpipe", "")])
def test_a_key_is_exchanged_under_load_and_nothing_stops(deploy: Deployment, path: str, passphrase: str) -> None:
    user, file = f"U{uuid.uuid4().hex[:8].upper()}", deploy.folder / "rotated.p8"
    public = write_key(file, passphrase)
    administer(deploy, f"ALTER USER {user} SET RSA_PUBLIC_KEY = '{public}'", f"GRANT ROLE LOADER TO USER {user}")
    deploy.source.execute("create table t (k serial primary key, v text); create publication p for table t")
    deploy.add("one", load_path=path, file_max_age_seconds=0.5)
    deploy.config.execute(
        f"update app.destinations set snowflake_user = '{user}', snowflake_role = 'LOADER',"
        f" snowflake_private_key_path = 'rotated.p8', snowflake_private_key_passphrase = nullif('{passphrase}', '')"
    )
    deploy.start()
    deploy.ready("one")
    with Writer(deploy) as writer:
        wait_for("rows", lambda: landed(deploy) > 20)
        before = deploy.settled()
        second = write_key(file, passphrase)
        administer(deploy, f"ALTER USER {user} SET RSA_PUBLIC_KEY_2 = '{second}'")
        administer(deploy, f"ALTER USER {user} UNSET RSA_PUBLIC_KEY")
        after_exchange = writer.rows
        wait_for("rows by the second key", lambda: landed(deploy) > after_exchange + 50)
    deploy.caught_up("one")
    assert deploy.children() == before
    deploy.same("one", t=("k",))
    assert "a passphrase" not in deploy.log


@pytest.mark.timeout(120)
def test_a_role_that_was_not_granted_is_refused_at_every_door(deploy: Deployment) -> None:
    user, file = f"U{uuid.uuid4().hex[:8].upper()}", deploy.folder / "key.p8"
    administer(deploy, f"ALTER USER {user} SET RSA_PUBLIC_KEY = '{write_key(file)}'")
    deploy.source.execute("create table t (k serial primary key, v text); create publication p for table t")
    deploy.add("one")
    deploy.config.execute(
        f"update app.destinations set snowflake_user = '{user}', snowflake_role = 'LOADER', snowflake_private_key_path = 'key.p8'"
    )
    deploy.start()
    line = "destination_auth at destination"
    wait_for("the refusal", lambda: any(line in state.trouble for state in deploy.states("one").values()))
    administer(deploy, f"GRANT ROLE LOADER TO USER {user}")
    deploy.source.execute("insert into t (v) values ('x')")
    deploy.ready("one")
    deploy.same("one", t=("k",))
