"""A deployment whose role may do exactly what scripts/sql/snowflake_role.sql grants."""

from __future__ import annotations

import re
import uuid
from pathlib import Path

import pytest

from tests.support.fix_deployment import Deployment, wait_for
from tests.support.fix_local_snowflake import sql_session
from tests.support.keys import write_key

SCRIPT = Path(__file__).parents[2] / "scripts" / "sql" / "snowflake_role.sql"
FOR_TASKS = ("GRANT CREATE STREAM, CREATE TASK ON SCHEMA ANALYTICS.ETL_SCHEMA TO ROLE ETL_ROLE",)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


def statements() -> list[str]:
    lines = [line for line in SCRIPT.read_text().splitlines() if not line.startswith("--")]
    return [text.strip() for text in "\n".join(lines).split(";") if text.strip()]


def administer(deploy: Deployment, user: str, *texts: str) -> None:
    """Run statements of the script, by somebody who may do everything, with the names of this deployment."""
    there = deploy.destination
    ours = {
        "ANALYTICS": there.database,
        "RAW_DATA": there.schema,
        "ETL_SCHEMA": there.landing_schema,
        "ETL_ROLE": f"ROLE_{user}",
        "ETL_USER": user,
    }
    with sql_session(there) as session, session.cursor() as cursor:
        for text in texts:
            cursor.execute(re.sub("|".join(ours), lambda found: ours[found[0]], text))


def prepare(deploy: Deployment, **pipeline: object) -> str:
    """A user with a key, whose role the destination uses; its name."""
    user = f"U{uuid.uuid4().hex[:8].upper()}"
    public = write_key(deploy.folder / "key.p8", "")
    administer(deploy, user, f"ALTER USER {user} SET RSA_PUBLIC_KEY = '{public}'")
    deploy.source.execute("create table t (k int primary key, v text); create publication p for all tables")
    deploy.source.execute("insert into t select g, 'n' from generate_series(1, 100) g")
    deploy.add("one", **pipeline)
    deploy.config.execute(
        f"update app.destinations set snowflake_user = '{user}', snowflake_role = 'ROLE_{user}', snowflake_private_key_path = 'key.p8'"
    )
    return user


def change(deploy: Deployment) -> None:
    deploy.source.execute(
        "insert into t select g, 'late' from generate_series(1001, 1100) g; delete from t where k < 10"
    )
    deploy.source.execute("alter table t add column w int default 7; update t set v = v || '!' where k % 3 = 0")


@pytest.mark.parametrize("path", ["streaming", "snowpipe", "copy"])
def test_the_grants_of_the_script_are_enough_on_every_load_path(deploy: Deployment, path: str) -> None:
    user = prepare(deploy, load_path=path, copy_load_path=path, file_max_age_seconds=0.3, apply_history=True)
    administer(deploy, user, *statements())
    deploy.start()
    deploy.ready("one")
    change(deploy)
    deploy.caught_up("one")
    deploy.same("one", t=("k",))
    assert deploy.stop() == 0
    assert "access control" not in deploy.log


def test_a_privilege_that_is_missing_is_told_with_its_object_and_the_table_goes_on_when_it_is_granted(
    deploy: Deployment,
) -> None:
    user = prepare(deploy, apply="task", table_error_retry_max_attempts=1000)
    first, *rest = statements()
    administer(deploy, user, first, *(text for text in rest if "CREATE TABLE" not in text))

    def told(line: str) -> bool:
        return any(line in state.trouble for state in deploy.states("one").values())

    deploy.start()
    wait_for("the landing schema", lambda: told("Schema '") and told("does not exist or not authorized"))
    administer(deploy, user, "GRANT USAGE ON SCHEMA ANALYTICS.ETL_SCHEMA TO ROLE ETL_ROLE")
    refused = "SQL access control error: Insufficient privileges to operate on schema 'ETL_SCHEMA' (3001)"
    wait_for("the refusal", lambda: told(refused))
    administer(deploy, user, *rest, *FOR_TASKS)
    deploy.ready("one")
    assert deploy.stop() == 0
