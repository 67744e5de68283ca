"""What the doctor says of a destination: each fault is made here, and its line is what an operator reads."""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from etl_supervisor.config.settings import Settings, load
from etl_supervisor.embedded.snowflake.launch import LocalSnowflake
from etl_supervisor.model.apply_policy import ApplyMode, ApplyPolicy
from etl_supervisor.model.pipeline import Destination, Load, LoadPath, Pipeline, PipelineStatus
from tests.support.fix_local_snowflake import sql_session
from tests.support.keys import write_key
from workers.snowflake import doctor
from workers.snowflake.privileges import parts


@dataclass
class Patient:
    """A destination whose user and role may do nothing at first."""

    destination: Destination
    settings: Settings
    all_powerful: Destination

    def administer(self, *statements: str) -> None:
        with sql_session(self.all_powerful) as session, session.cursor() as cursor:
            for statement in statements:
                cursor.execute(self.names(statement))

    def names(self, text: str) -> str:
        """This test's names in place of DB, USR and ROL."""
        there = self.destination
        ours = {"DB": there.database, "USR": there.user, "ROL": str(there.role)}
        return re.sub(r"\b(DB|USR|ROL)\b", lambda found: ours[found[0]], text)

    def lines(
        self, path: LoadPath = LoadPath.STREAMING, mode: ApplyMode = ApplyMode.MERGE, **changes: Any
    ) -> list[str]:
        """What is found, with DB, USR and ROL in place of this test's names."""
        there = replace(self.destination, **changes)
        found = doctor.examine(self.settings, there, [pipeline(there, path, mode)])
        mine = self.destination
        names = {mine.database: "DB", str(mine.role): "ROL", mine.user: "USR"}
        lines = []
        for item in found:
            line = item.line
            for name, short in names.items():
                line = line.replace(name, short)
            lines.append(line)
        return lines


def pipeline(there: Destination, path: LoadPath, mode: ApplyMode) -> Pipeline:
    return Pipeline(
        id=1,
        name="one",
        source_id=1,
        destination=there,
        status=PipelineStatus.START,
        batch_max_size=1000,
        batch_max_fill_ms=1000,
        table_error_retry_delay_ms=1000,
        table_error_retry_max_attempts=1,
        max_table_sync_workers=1,
        load=Load(path),
        copy_load=Load(path),
        policy=ApplyPolicy(mode),
    )


@pytest.fixture
def patient(all_powerful: Destination, tmp_path: Path) -> Patient:
    name = uuid.uuid4().hex[:8].upper()
    limited = replace(
        all_powerful,
        user=f"U{name}",
        role=f"R_{name}",
        schema="RAW_DATA",
        warehouse="ETL_WH",
        private_key_path=str(tmp_path / "key.p8"),
    )
    made = Patient(limited, load(tmp_path, {"SECRET_KEY": "k" * 32}), all_powerful)
    public = write_key(tmp_path / "key.p8", "")
    (tmp_path / "key.p8").chmod(0o600)
    with sql_session(all_powerful) as session, session.cursor() as cursor:
        cursor.execute(f"ALTER USER {limited.user} SET RSA_PUBLIC_KEY = '{public}'")
    made.administer("CREATE ROLE ROL")
    return made


GRANTED = (
    "GRANT ROLE ROL TO USER USR",
    "GRANT USAGE ON WAREHOUSE ETL_WH TO ROLE ROL",
    "GRANT USAGE ON DATABASE DB TO ROLE ROL",
    "CREATE SCHEMA DB.ETL_SCHEMA",
    "CREATE SCHEMA IF NOT EXISTS DB.RAW_DATA",
    "GRANT USAGE, CREATE TABLE ON SCHEMA DB.ETL_SCHEMA TO ROLE ROL",
    "GRANT USAGE, CREATE TABLE, CREATE VIEW ON SCHEMA DB.RAW_DATA TO ROLE ROL",
)


def test_a_destination_with_what_it_needs_has_nothing(patient: Patient) -> None:
    patient.administer(*GRANTED)
    assert patient.lines() == []


def test_a_role_that_was_not_granted_is_told_apart_from_a_wrong_key(patient: Patient) -> None:
    assert patient.lines() == [
        "wrong role at destination local: user USR may log in, but not as role ROL (GRANT ROLE ROL TO USER USR)"
    ]
    patient.administer(
        "ALTER USER USR SET RSA_PUBLIC_KEY = '" + write_key(Path(patient.settings.directory) / "other.p8") + "'"
    )
    (line,) = patient.lines()
    assert line.startswith("wrong destination_auth at destination local: Snowflake refuses the login (390144)")


def test_what_is_missing_is_told_with_the_statement_that_grants_it(patient: Patient) -> None:
    patient.administer(GRANTED[0])
    assert patient.lines() == [
        "wrong warehouse at destination local: warehouse ETL_WH does not exist, or role ROL may not use it"
        ' (GRANT USAGE ON WAREHOUSE ETL_WH TO ROLE "ROL")',
        "wrong database at destination local: database DB does not exist, or role ROL may not use it"
        ' (GRANT USAGE ON DATABASE "DB" TO ROLE "ROL")',
    ]
    patient.administer(*GRANTED[1:3])
    assert (
        patient.lines()
        == [
            "wrong schema at destination local: schema ETL_SCHEMA does not exist (or role ROL does not see it), and the role may make none"
            ' (CREATE SCHEMA IF NOT EXISTS "DB"."ETL_SCHEMA"; GRANT USAGE, CREATE TABLE ON SCHEMA "DB"."ETL_SCHEMA" TO ROLE "ROL")',
            "wrong grants at destination local: role ROL lacks USAGE, CREATE TABLE, CREATE VIEW on schema RAW_DATA"  # a login makes it here
            ' (GRANT USAGE, CREATE TABLE, CREATE VIEW ON SCHEMA "DB"."RAW_DATA" TO ROLE "ROL")',
        ]
    )
    patient.administer(GRANTED[3], *GRANTED[5:])
    assert patient.lines(LoadPath.SNOWPIPE, ApplyMode.TASK) == [
        "wrong grants at destination local: role ROL lacks CREATE STAGE, CREATE PIPE, CREATE STREAM, CREATE TASK on schema ETL_SCHEMA"
        ' (GRANT CREATE STAGE, CREATE PIPE, CREATE STREAM, CREATE TASK ON SCHEMA "DB"."ETL_SCHEMA" TO ROLE "ROL")',
        'wrong grants at destination local: role ROL lacks EXECUTE TASK on account (GRANT EXECUTE TASK ON ACCOUNT TO ROLE "ROL")',
    ]
    patient.administer('GRANT EXECUTE TASK ON ACCOUNT TO ROLE "ROL"')
    assert patient.lines(LoadPath.STREAMING, ApplyMode.DYNAMIC_TABLE) == [
        "wrong grants at destination local: role ROL lacks CREATE DYNAMIC TABLE on schema RAW_DATA"
        ' (GRANT CREATE DYNAMIC TABLE ON SCHEMA "DB"."RAW_DATA" TO ROLE "ROL")'
    ]


def test_a_role_that_may_make_schemas_needs_none_made_for_it(patient: Patient) -> None:
    patient.administer(*GRANTED[:3], GRANTED[6], "GRANT CREATE SCHEMA ON DATABASE DB TO ROLE ROL")
    assert patient.lines() == []


def test_a_change_log_alone_needs_neither_warehouse_nor_targets(patient: Patient) -> None:
    patient.administer(GRANTED[0], *GRANTED[2:6], "GRANT USAGE ON SCHEMA DB.RAW_DATA TO ROLE ROL")
    assert patient.lines(mode=ApplyMode.APPEND) == []
    assert [line.split(" at ")[0] for line in patient.lines()] == ["wrong warehouse", "wrong grants"]


def test_no_warehouse_at_all_is_said(patient: Patient) -> None:
    patient.administer(*GRANTED)
    assert patient.lines(warehouse=None) == [
        "wrong warehouse at destination local: no warehouse is set, and the user has none by default: nothing can be applied"
        " (set snowflake_warehouse of the destination)"
    ]


def test_a_key_that_others_can_read_and_one_that_is_not_there(patient: Patient) -> None:
    patient.administer(*GRANTED)
    key = Path(patient.destination.private_key_path)
    key.chmod(0o644)
    assert [line.replace(str(key), "KEY") for line in patient.lines()] == [
        "risk key_file at destination local: private key KEY can be read by every user of this machine (chmod 600 KEY)"
    ]
    assert patient.lines(private_key_path="nothing.p8") == [
        "wrong config at destination local: private key nothing.p8 can't be read: No such file or directory"
        " (correct snowflake_private_key_path, or the file's permissions)"
    ]


def test_streaming_has_a_door_of_its_own(patient: Patient, local_snowflake: LocalSnowflake) -> None:
    patient.administer(*GRANTED)
    local_snowflake.set(faults=[{"path": "/oauth/token", "method": "POST", "status": 403, "count": 1}])
    assert patient.lines() == [
        "wrong streaming_role at destination local: SQL lets user USR in, Snowpipe Streaming does not: answered 403"
        " (check the role, and network policies and proxies for the account's host)"
    ]
    local_snowflake.set(faults=[{"path": "/oauth/token", "method": "POST", "status": 403, "count": 1}])
    assert patient.lines(LoadPath.COPY, ApplyMode.APPEND) == [
        "wrong grants at destination local: role ROL lacks CREATE STAGE on schema ETL_SCHEMA"
        ' (GRANT CREATE STAGE ON SCHEMA "DB"."ETL_SCHEMA" TO ROLE "ROL")'
    ]


def test_nobody_there_is_one_finding(patient: Patient) -> None:
    (line,) = patient.lines(host="127.0.0.1:1")
    assert line.startswith("wrong destination_unreachable at destination local: ")


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        ("DB", ("DB",)),
        ("DB.S", ("DB", "S")),
        ('"my ""db"".x"."s"', ('my "db".x', "s")),
        ('DB."a.b".T', ("DB", "a.b", "T")),
    ],
)
def test_names_that_snowflake_shows_are_read(shown: str, expected: tuple[str, ...]) -> None:
    assert parts(shown) == expected
