"""The connector's protocol, over fakesnow's routes: sessions and results are fakesnow's, blocks and unknown statements are ours.

An error is always an answer with Snowflake's number, never an HTTP 500: the connector would repeat that for minutes.
"""

from __future__ import annotations

import gzip
import json
import logging
from dataclasses import replace
from typing import Any

import duckdb
import fakesnow.server as fakesnow
from snowflake.connector.errors import Error
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from etl_supervisor.embedded.snowflake import answers, databases, describe, parquetload, scripting, shows, statements
from etl_supervisor.embedded.snowflake.grants import Grants
from etl_supervisor.embedded.snowflake.pipes import Pipes
from etl_supervisor.embedded.snowflake.stages import StageError
from etl_supervisor.embedded.snowflake.tasks import Tasks
from etl_supervisor.embedded.snowflake.users import RefusedError, Users
from etl_supervisor.embedded.snowflake.warehouse import Warehouse

INTERNAL_ERROR = "000603"
DOES_NOT_EXIST = "002003"
DOUBLE_MATCH = "cannot affect the same target row more than once"  # DuckDB's words for …
NONDETERMINISTIC = ("100090", "Duplicate row detected during DML action", "42P18")  # … and Snowflake's

logging.getLogger("fakesnow.server").setLevel(logging.CRITICAL)  # it logs statements with their values


def tasks_of(warehouse: Warehouse) -> Tasks:
    """Streams and tasks; a task runs in a session of its own."""

    def run(body: str, database: str, schema: str) -> None:
        connection = warehouse.snow.connect(database, schema)
        try:
            _outcome(body, statements.block_of(body), _executor(connection, tasks, warehouse))
        finally:
            connection.close()

    tasks = Tasks(warehouse, run)
    return tasks


def routes(warehouse: Warehouse, tasks: Tasks, pipes: Pipes, users: Users) -> list[Route]:
    """Everything the connector calls."""
    fakesnow.shared_fs = warehouse.snow
    grants = Grants()

    async def login(request: Request) -> Response:
        asked = json.loads(_plain(request, await request.body()))["data"]
        try:
            login = users.enter(asked["TOKEN"], request.query_params.get("roleName")) if "TOKEN" in asked else None
        except RefusedError as error:
            return _failure(error.code, str(error), "08001")
        async with warehouse.lock:
            answer = await fakesnow.login_request(request)
        if login is not None:
            asked_for = replace(login, warehouse=request.query_params.get("warehouse", ""))
            users.sessions[json.loads(bytes(answer.body))["data"]["token"]] = asked_for
        return answer

    async def query(request: Request) -> Response:
        asked = json.loads(_plain(request, await request.body()))
        users.tags[(asked.get("parameters") or {}).get("QUERY_TAG", "")] += 1
        async with warehouse.lock:
            try:
                login = users.sessions.get(fakesnow.to_token(request))
                users.check(login)
                grants.check(login.role if login else "", statements.block_of(asked["sqlText"]) or asked["sqlText"])
                if users.take(asked["sqlText"]) or grants.take(asked["sqlText"]):
                    asked["sqlText"] = statements.SUCCESS
                role, warehouse_ = (login.role, login.warehouse) if login else ("", "")
                asked["sqlText"] = grants.answer(role, warehouse_, asked["sqlText"])
                done, asked["sqlText"] = await run_in_threadpool(
                    _own_statements, pipes, tasks, request, asked["sqlText"]
                )
            except StageError as error:
                return _failure(error.code, str(error), "02000")
            except LookupError as missing:
                return _failure(DOES_NOT_EXIST, f"Table '{missing.args[0]}' does not exist or not authorized.", "42S02")
            except RefusedError as error:
                return _failure(error.code, str(error))
            except fakesnow.ServerError as error:
                return _failure(error.code, error.message)
            if isinstance(done, dict):
                return _success(done)
            asked["sqlText"] = done or asked["sqlText"]
            return await _answer(warehouse, tasks, request, asked)

    async def telemetry(_: Request) -> Response:
        return _success("Log Received")

    own = [
        Route("/session/v1/login-request", login, methods=["POST"]),
        Route("/queries/v1/query-request", query, methods=["POST"]),
        Route("/telemetry/send", telemetry, methods=["POST"]),
        Route("/telemetry/send/sessionless", telemetry, methods=["POST"]),
    ]
    paths = {route.path for route in own}
    return own + [route for route in fakesnow.routes if route.path not in paths]


def _plain(request: Request, body: bytes) -> bytes:
    return gzip.decompress(body) if request.headers.get("content-encoding") == "gzip" else body


def _own_statements(pipes: Pipes, tasks: Tasks, request: Request, sql: str) -> tuple[str | dict[str, Any] | None, str]:
    """Run a statement about databases, stages, pipes, files, error tables, streams, tasks, what is there, or SHOW: the query of its result, or the
    result; None for any other statement. And the statement, which may read error tables. LookupError: there is no such table."""
    stages, errors = pipes.loader.stages, pipes.loader.errors
    connection = fakesnow.to_conn(fakesnow.to_token(request))
    where = (connection.database, connection.schema)
    if (run := stages.statement(sql)) is not None:
        return run(where, f"{request.url.scheme}://{request.url.netloc}"), sql
    if (copy := parquetload.copy_of(sql)) is not None:
        return parquetload.answer(pipes.loader.load(copy, where)), sql
    told: str | dict[str, Any] | None = (
        pipes.statement(sql)
        or databases.answer(pipes, sql)
        or shows.answer(pipes.warehouse, sql, where)
        or errors.statement(sql, where)
    )
    sql = errors.rewritten(sql, where)
    told = told or describe.answer(pipes.warehouse, sql) or (statements.SUCCESS if tasks.take(sql) else None)
    return told, sql


async def _answer(warehouse: Warehouse, tasks: Tasks, request: Request, asked: dict[str, Any]) -> Response:
    sql = asked["sqlText"]
    block = statements.block_of(sql)
    comments = statements.comments_of(sql)
    if block is None and not statements.is_merge(sql):
        asked["sqlText"] = statements.rewritten(sql)
    else:
        try:
            execute = _executor(fakesnow.to_conn(fakesnow.to_token(request)), tasks, warehouse)
            title, outcome = await run_in_threadpool(_outcome, sql, block, execute)
            return _success(answers.value(title, outcome))
        except fakesnow.ServerError as error:
            return _failure(error.code, error.message)
        except Error as error:
            return _failure(f"{error.errno or 603:06d}", error.msg or "the block failed", error.sqlstate)
        except duckdb.Error as error:
            if DOUBLE_MATCH in str(error):
                return _failure(*NONDETERMINISTIC)
            return _failure(INTERNAL_ERROR, str(error).splitlines()[0])
        except scripting.ScriptError as error:
            return _failure(INTERNAL_ERROR, str(error).splitlines()[0])
    if comments:
        warehouse.promise(comments)
    response = await fakesnow.query_request(_with_body(request, json.dumps(asked).encode()))
    if comments:
        done = response.status_code < 500 and json.loads(bytes(response.body))["success"]
        await run_in_threadpool(warehouse.comment, comments if done else [])
    if response.status_code >= 500:
        return _failure(INTERNAL_ERROR, "the local Snowflake can't run this statement")
    return response


def _outcome(sql: str, block: str | None, execute: scripting.Execute) -> tuple[str, Any]:
    """Run a block or a MERGE; the title of its result, and the result."""
    if block is None:
        ((merged,),) = execute(sql)[0]
        return "number of rows merged", int(merged)
    outcome = scripting.run(block, execute)
    return "anonymous block", None if outcome is None else str(outcome)


def _executor(connection: Any, tasks: Tasks, warehouse: Warehouse) -> scripting.Execute:
    """Run one statement of a block on the session's own connection."""

    def execute(sql: str) -> tuple[list[tuple[Any, ...]], int]:
        cursor = connection.cursor()
        if (noted := tasks.read(sql)) is not None:
            connection._duck_conn.execute(noted)
        cursor.execute(statements.rewritten(sql), server=True)
        if comments := statements.comments_of(sql):
            warehouse.comment(comments)
        return cursor.fetchall(), int(cursor.rowcount or 0)

    return execute


def _with_body(request: Request, body: bytes) -> Request:
    headers = [(key, value) for key, value in request.scope["headers"] if key != b"content-encoding"]

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    return Request({**request.scope, "headers": headers}, receive)


def _success(data: dict[str, Any] | str) -> JSONResponse:
    return JSONResponse({"data": data, "code": None, "message": None, "success": True})


def _failure(code: str, message: str, state: str | None = None) -> JSONResponse:
    data = {"errorCode": code, "sqlState": state or "XX000"}
    return JSONResponse({"data": data, "code": code, "message": message, "success": False})
