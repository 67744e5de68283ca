"""What is repeated when Snowflake fails, and what is not: the table of rules, and the real connector against the local Snowflake's faults."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import structlog
from snowflake.connector.errors import Error
from snowflake.ingest.streaming.streaming_ingest_error import StreamingIngestErrorCode

from etl_supervisor import policy
from etl_supervisor.embedded.snowflake.launch import LocalSnowflake
from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.ipc.messages import OpenTable
from etl_supervisor.model.pipeline import Destination
from tests.support.fix_local_snowflake import destination_in
from tests.support.histories import TABLE, insert, opening
from workers.snowflake import ddl
from workers.snowflake.apply import apply
from workers.snowflake.connection import DOES_NOT_EXIST, classify, connect
from workers.snowflake.failure import RULES, Directive, explain, of_http, of_sdk, of_sql
from workers.snowflake.identifiers import objects_of
from workers.snowflake.owner import Watermark
from workers.snowflake.sessions import TRIES_MAX, Sessions
from workers.snowflake.tagging import Tag

TAG = Tag("pipe", "public.things", "apply")
BLOCK = "^EXECUTE IMMEDIATE"


def refused(code: str, message: str = "no") -> dict[str, Any]:
    """The answer of a statement that fails with one of Snowflake's numbers."""
    data = {"errorCode": code, "sqlState": "XX000"}
    return {"status": 200, "body": {"success": False, "code": code, "message": message, "data": data}}


@pytest.fixture
def sessions() -> Sessions:
    return Sessions(lambda secret: "", Path(), "test")


def made(sessions: Sessions, destination: Destination, it: OpenTable) -> Watermark:
    """The table, with seven rows in its change log."""
    mark = sessions.run(destination, TAG, lambda session: ddl.ensure(session, it)).watermark
    rows = [("I", 100, 10, n, 0, None, None, n, 1, "x", None) for n in range(7)]
    sessions.run(destination, TAG, lambda session: insert(session, destination, rows))
    return mark


# -- the table


def test_no_number_code_or_status_has_two_rules() -> None:
    for part in ("sql", "sdk", "http"):
        listed = [item for rule in RULES for item in getattr(rule, part)]
        assert len(listed) == len(set(listed)), part


def test_a_destination_waits_exactly_where_the_policy_of_the_kind_says_so() -> None:
    for rule in RULES:
        if rule.kind is not None and not rule.directive.transient:
            alone = policy.directive(rule.kind) is policy.Directive.TABLE
            assert alone is (rule.directive is Directive.TABLE), rule.name


def test_every_code_of_the_sdk_has_a_line() -> None:
    known = set().union(*(rule.sdk for rule in RULES))
    assert {code.name for code in StreamingIngestErrorCode} <= known


@pytest.mark.parametrize(
    ("number", "rule", "directive"),
    [
        (625, "locked", Directive.AGAIN),
        (603, "interrupted", Directive.AGAIN),
        (390114, "expired session", Directive.RECONNECT),
        (390112, "expired session", Directive.RECONNECT),
        (250003, "network", Directive.RECONNECT),
        (253003, "stage", Directive.RECONNECT),
        (290503, "network", Directive.RECONNECT),
        (290599, "server", Directive.RECONNECT),
        (290429, "saturated", Directive.AGAIN),
        (290403, "key", Directive.DESTINATION),
        (390144, "key", Directive.DESTINATION),
        (DOES_NOT_EXIST, "missing", Directive.HEAL),
        (3001, "privilege", Directive.TABLE),
        (904, "schema", Directive.TABLE),
        (90073, "warehouse", Directive.DESTINATION),
        (630, "too long", Directive.TABLE),
        (999999, "unknown", Directive.TABLE),
    ],
)
def test_numbers_of_sql_and_their_rules(number: int, rule: str, directive: Directive) -> None:
    assert (of_sql(number).name, of_sql(number).directive) == (rule, directive)


@pytest.mark.parametrize(
    ("code", "status", "directive"),
    [
        ("RECEIVER_SATURATED", 0, Directive.AGAIN),
        ("INVALID_CHANNEL_ERROR", 409, Directive.REOPEN),
        ("SF_API_PIPE_FAILED_OVER_ERROR", 410, Directive.REOPEN),
        ("CHANNEL_NOT_FOUND", 404, Directive.HEAL),
        ("HTTP_CLIENT_NON_RETRYABLE_ERROR", 403, Directive.DESTINATION),
        ("CONFIG_ERROR", 0, Directive.TABLE),
        ("OF_NEXT_YEAR", 0, Directive.REOPEN),
    ],
)
def test_codes_of_the_sdk_and_their_directives(code: str, status: int, directive: Directive) -> None:
    assert of_sdk(code, status).directive is directive


def test_an_error_of_the_sdk_is_told_without_its_message() -> None:
    error = explain(ValueError("a value of a row"), "here")
    assert error.line == (
        "channel at here: Snowpipe Streaming, unknown to us: ValueError (the channel is opened again by itself)"
    )
    assert of_http(404).directive is Directive.HEAL


# -- statements


@pytest.mark.parametrize(
    ("fault", "rules"),
    [
        (refused("000625"), ["locked"] * 2),
        (refused("000603"), ["interrupted"] * 2),
        (refused("390114"), ["expired session"] * 2),
        ({"status": 503}, []),  # by the connector itself
        ({"status": 429}, []),
        ({"drop": True}, ["network"] * 2),
        ({"drop": True, "apply": True}, ["network"] * 2),
        ({"status": 503, "apply": True}, []),
    ],
    ids=["locked", "internal", "expired", "503", "429", "dropped", "answer lost", "answer 503"],
)
def test_an_apply_block_is_repeated_and_applies_once(
    destination: Destination,
    local_snowflake: LocalSnowflake,
    sessions: Sessions,
    fault: dict[str, Any],
    rules: list[str],
) -> None:
    it = opening(destination)
    mark = made(sessions, destination, it)
    local_snowflake.set(faults=[{"path": "query-request", "sql": BLOCK, "count": 2, **fault}])
    with structlog.testing.capture_logs() as logs:
        moved = sessions.run(destination, TAG, lambda session: apply(session, it, mark, 20))
    assert moved.applied == 20
    assert [line["rule"] for line in logs if line["event"] == "statement_repeated"] == rules
    with sessions.borrow(destination) as session, session.cursor() as cursor:
        cursor.execute(f"SELECT K, A FROM {objects_of(destination, TABLE).target_sql} ORDER BY K")
        assert [(int(k), int(a)) for k, a in cursor.fetchall()] == [(n, 1) for n in range(7)]


def test_sessions_that_a_server_has_forgotten_cost_a_job_one_repeat_however_many_were_kept(tmp_path: Path) -> None:
    with LocalSnowflake(tmp_path / "snowflake") as server:
        destination = destination_in(server)
        sessions = Sessions(lambda secret: "", Path(), "test")
        with contextlib.ExitStack() as kept:
            for _ in range(4):
                kept.enter_context(sessions.borrow(destination))
        server.stop()
        server.start()

        def job(connection: Any) -> str:
            try:
                return str(connection.cursor().execute("SELECT 'well'").fetchone()[0])
            except Error as error:
                raise classify(error, "here", Kind.APPLY) from None

        with structlog.testing.capture_logs() as logs:
            assert sessions.run(destination, TAG, job) == "well"
        assert [line["rule"] for line in logs if line["event"] == "statement_repeated"] == ["expired session"]
        assert server.state()["requests"]["POST login-request"] == 1


@pytest.mark.parametrize(
    ("code", "kind"),
    [("003001", Kind.DESTINATION_SETUP), ("000904", Kind.APPLY), ("100038", Kind.APPLY), ("000630", Kind.APPLY)],
)
def test_privileges_and_shapes_are_not_repeated(
    destination: Destination, local_snowflake: LocalSnowflake, sessions: Sessions, code: str, kind: Kind
) -> None:
    it = opening(destination)
    mark = made(sessions, destination, it)
    fault = {"path": "query-request", "sql": BLOCK, "count": 9, **refused(code)}
    local_snowflake.set(faults=[fault])
    before = local_snowflake.state()["requests"]["POST query-request"]
    with pytest.raises(EtlError) as caught:
        sessions.run(destination, TAG, lambda session: apply(session, it, mark, 20))
    asked = local_snowflake.state()["requests"]["POST query-request"] - before
    assert caught.value.kind is kind
    assert not caught.value.transient
    assert asked == 3, "is there a row, one survey, one block"


def test_what_is_busy_for_long_is_given_up_and_the_next_job_counts_anew(
    destination: Destination, local_snowflake: LocalSnowflake, sessions: Sessions
) -> None:
    it = opening(destination)
    mark = made(sessions, destination, it)
    local_snowflake.set(
        faults=[{"path": "query-request", "sql": BLOCK, "count": TRIES_MAX + 2, **refused("000625", "20 waiters")}]
    )
    with pytest.raises(EtlError) as caught:
        sessions.run(destination, TAG, lambda session: apply(session, it, mark, 20))
    assert caught.value.line == (
        "apply at pipeline pipe, table public.things: 20 waiters (625)"
        " (another writer holds this table; it is tried again by itself)"
    )
    assert sessions.run(destination, TAG, lambda session: apply(session, it, mark, 20)).applied == 20


def test_a_login_is_repeated_while_snowflake_does_not_answer(
    destination: Destination, local_snowflake: LocalSnowflake
) -> None:
    local_snowflake.set(faults=[{"path": "login-request", "count": 2, "status": 503}])
    connect(destination, lambda secret: "", Path(), purpose="test").close()
