"""What a role must be granted, and what is said where something lacks. (All tests of deployments run with exactly the rights of scripts/sql.)"""

from __future__ import annotations

from typing import Any

import pytest

from etl_supervisor.model.finding import Weight
from etl_supervisor.monitor import doctor
from tests.support import least
from tests.support.fix_deployment import Deployment, wait_for

SNOWFLAKE = least.statements("snowflake_role.sql")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


def administer(deploy: Deployment, user: str, *texts: str) -> None:
    least.administer(deploy.destination, user, *texts)


def prepare(deploy: Deployment, **pipeline: object) -> str:
    """A user with a key, whose role the destination uses; its name."""
    user = least.snowflake_user(deploy.destination, deploy.folder)
    deploy.source.execute("create table t (k int primary key, v text); create publication p for all tables")
    deploy.source.execute("insert into t select g, 'n' from generate_series(1, 100) g")
    deploy.add("one", **pipeline)
    deploy.config.execute(
        f"update app.destinations set snowflake_user = '{user}', snowflake_role = 'ROLE_{user}', snowflake_private_key_path = 'key.p8',"
        " snowflake_warehouse = 'ETL_WH'"
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
    administer(deploy, user, *SNOWFLAKE)
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
    first, *rest = SNOWFLAKE
    administer(deploy, user, first, *(text for text in rest if "CREATE TABLE" not in text))

    def told(line: str) -> bool:
        return any(line in state.trouble for state in deploy.states("one").values())

    deploy.start()
    wait_for("the landing schema", lambda: told("Schema '") and told("does not exist or not authorized"))
    administer(deploy, user, "GRANT USAGE ON SCHEMA ANALYTICS.ETL_SCHEMA TO ROLE ETL_ROLE")
    refused = "SQL access control error: Insufficient privileges to operate on schema 'ETL_SCHEMA' (3001)"
    wait_for("the refusal", lambda: told(refused))
    administer(deploy, user, *rest, *least.FOR_TASKS)
    deploy.ready("one")
    assert deploy.stop() == 0


def test_the_roles_of_all_three_scripts_are_enough_and_the_doctor_agrees(deploy: Deployment) -> None:
    deploy.source.execute("create schema other; create table other.u (k int primary key)")
    user = prepare(deploy, load_path="streaming", copy_load_path="snowpipe", apply_history=True)
    administer(deploy, user, *SNOWFLAKE)
    (deploy.folder / "key.p8").chmod(0o600)
    assert [item.line for item in doctor.examine(deploy.settings) if item.weight is Weight.WRONG] == []
    deploy.start()
    deploy.ready("one", 2)
    deploy.source.execute("create table late (k int primary key, v text); insert into late values (1, 'x')")
    change(deploy)
    deploy.ready("one", 3)
    deploy.caught_up("one")
    deploy.same("one", t=("k",), late=("k",))
    deploy.config.execute("delete from app.pipelines")  # its slot goes, too
    deploy.config.execute("update app.removed set removed_at = now() - interval '1 day'")
    gone = "select count(*) from pg_replication_slots where database = current_database()"
    wait_for("the slot to go", lambda: deploy.source.execute(gone) == [(0,)])
    assert deploy.stop() == 0
    assert "permission denied" not in deploy.log


@pytest.mark.parametrize(
    "pipeline",
    [
        {"load_path": "streaming", "copy_load_path": "streaming"},
        {"load_path": "snowpipe", "copy_load_path": "copy", "file_max_age_seconds": 0.3},
        {"apply": "append"},
        {"apply": "task"},
        {"apply": "dynamic_table"},
    ],
    ids=lambda pipeline: "-".join(map(str, pipeline.values())),
)
def test_what_the_doctor_asks_for_is_enough(deploy: Deployment, pipeline: dict[str, Any]) -> None:
    user = prepare(deploy, **pipeline)
    (deploy.folder / "key.p8").chmod(0o600)
    administer(deploy, user, "CREATE ROLE ETL_ROLE")
    asked = []
    for _ in range(5):
        wrong = [item for item in doctor.examine(deploy.settings) if item.weight is Weight.WRONG]
        if not wrong:
            break
        asked += [remedy for item in wrong for remedy in item.remedy.split("; ")]
        least.administer(deploy.destination, user, *(text for item in wrong for text in item.remedy.split("; ")))
    assert not wrong, [item.line for item in wrong]
    assert any("WAREHOUSE" in text for text in asked) == (pipeline.get("apply") != "append")
    deploy.start()
    deploy.ready("one")
    deploy.source.execute("update t set v = v || '!'")
    end = deploy.written("one")
    wait_for("the changes to be durable", lambda: deploy.confirmed("one") >= end)
    if pipeline.get("apply", "merge") == "merge":
        deploy.caught_up("one")
    assert deploy.stop() == 0
    assert "access control" not in deploy.log


def test_a_role_of_the_source_that_lacks_something_is_told_what(deploy: Deployment) -> None:
    deploy.source.execute(
        "create schema other; create table other.u (k int primary key); create table t (k int primary key)"
    )
    deploy.source.execute("create publication p for all tables; alter table t enable row level security")
    role = f"reader_{deploy.source.name}"
    deploy.source.execute(f"create role {role} login password 'geheim'")
    deploy.add("one", pg_username=role, pg_password="geheim")
    try:
        wrong = [item.line for item in doctor.examine(deploy.settings) if item.weight is Weight.WRONG]
        assert wrong == [
            f"wrong replication_role at source one: user {role} may not replicate (ALTER ROLE {role} REPLICATION)",
            f'wrong schema at source one, table other.u: user {role} may not use its schema (GRANT USAGE ON SCHEMA "other" TO {role})',
            "wrong select at source one, table other.u: it may not be read, so it can't be copied"
            f" (GRANT SELECT ON other.u TO {role})",
            f"wrong select at source one, table public.t: it may not be read, so it can't be copied (GRANT SELECT ON public.t TO {role})",
            f"wrong row_security at source one, table public.t: row security hides rows from user {role}: the copy fails, or lacks them"
            f" (ALTER ROLE {role} BYPASSRLS)",
        ]
    finally:
        least.drop_role(deploy.source, role)
