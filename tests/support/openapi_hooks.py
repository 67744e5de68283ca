"""What schemathesis can't know: which objects are real, and that nothing may be asked of other machines.

Before each request that fits the description otherwise:

* the objects of id REAL (a database and a local Snowflake that answer, and a pipeline between them) stay as they are: a change of one goes to one of
  SPARE; an id beyond MADE_MAX, which nothing has, becomes one of these, so that most requests are about something
* every other If-Match is of any version, so that changes are made, too
* a cursor is one that a list could have given
* what is made has a name and a number of its own
* a source is on this machine, whatever host was thought of
"""

from __future__ import annotations

import base64
import itertools
import re
from typing import Any

import schemathesis

from etl_supervisor.api.bodies import NAME
from tests.support.fix_api import REAL, SPARE

CHANGES = ("PATCH", "PUT", "DELETE")
CURSOR_LENGTH_MAX = 64
MADE_MAX = 1000
ID_END = 1 << 63
IF_MATCH_LENGTH_MAX = 256
_any_version = itertools.cycle((True, False))
COLLECTIONS = ("/api/v1/sources", "/api/v1/destinations", "/api/v1/pipelines")
RULES = (
    "it is not a next",  # a cursor of another list
    "it is not before `to`",
    "give tables or schemas, or all_tables",
    "give ids, or table, or all",
)  # between fields, or of what a list has given
_number = itertools.count(1_000_000)
_spare = itertools.cycle(SPARE)


@schemathesis.hook
def before_call(_: schemathesis.HookContext, case: schemathesis.Case, __: dict[str, Any]) -> None:
    key = str((case.path_parameters or {}).get("key"))
    changed = case.path.endswith("{key}") and case.method in CHANGES
    if key == str(REAL) and changed:
        case.path_parameters["key"] = next(_spare)
    elif key.isdecimal() and MADE_MAX < int(key) < ID_END:
        case.path_parameters["key"] = next(_spare) if changed else REAL
    if 1 <= len(str((case.headers or {}).get("if-match", ""))) <= IF_MATCH_LENGTH_MAX and next(_any_version):
        case.headers["if-match"] = "*"
    cursor = (case.query or {}).get("cursor")
    if isinstance(cursor, str) and 1 <= len(cursor) <= CURSOR_LENGTH_MAX:
        case.query["cursor"] = base64.urlsafe_b64encode(str(len(cursor)).encode()).decode()
    if isinstance(case.body, dict):
        _settle(case.body, made=case.method == "POST" and case.path in COLLECTIONS)


@schemathesis.hook
def filter_failure(_: schemathesis.HookContext, failure: Any, __: schemathesis.Case, response: Any) -> bool:
    """Rules that a description can't say: a refusal with one of these reasons is right."""
    return response.status_code != 422 or not any(rule in response.text for rule in RULES)


def _settle(body: dict[str, Any], made: bool) -> None:
    if isinstance(body.get("pg_host"), str):
        body["pg_host"] = "127.0.0.1"
    if made and isinstance(body.get("name"), str) and re.fullmatch(NAME, body["name"]):
        body["name"] = f"made{next(_number)}"
    if made and type(body.get("replication_id")) is int and 1 <= body["replication_id"] < ID_END:
        body["replication_id"] = next(_number)
