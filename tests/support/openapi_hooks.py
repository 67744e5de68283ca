"""What schemathesis can't know: which objects are real, and that nothing may be asked of other machines.

Ids that are only numbers become 1 to 3, so that most of them are of something. The objects of id 1 (a database and a local Snowflake that answer, and
a pipeline between them) stay as they are. A cursor is one that a list could have given. Sources are on this machine, whatever host was thought of.
"""

from __future__ import annotations

import base64
from typing import Any

import schemathesis

REAL = 1
IDS = 3
CURSOR_LENGTH_MAX = 64
FIXED = ("PATCH", "PUT", "DELETE")


@schemathesis.hook
def map_path_parameters(_: schemathesis.HookContext, path_parameters: Any) -> Any:
    key = (path_parameters or {}).get("key")
    if isinstance(key, int) and not isinstance(key, bool) and key > IDS:
        return path_parameters | {"key": 1 + key % IDS}
    return path_parameters


@schemathesis.hook
def map_query(_: schemathesis.HookContext, query: Any) -> Any:
    cursor = (query or {}).get("cursor")
    if isinstance(cursor, str) and 1 <= len(cursor) <= CURSOR_LENGTH_MAX:
        return query | {"cursor": base64.urlsafe_b64encode(str(len(cursor)).encode()).decode()}
    return query


@schemathesis.hook
def map_body(_: schemathesis.HookContext, body: Any) -> Any:
    if isinstance(body, dict) and isinstance(body.get("pg_host"), str):
        return body | {"pg_host": "127.0.0.1"}
    return body


@schemathesis.hook
def filter_case(_: schemathesis.HookContext, case: schemathesis.Case) -> bool:
    whole = case.path.endswith("{key}")
    return not (whole and case.method in FIXED and str((case.path_parameters or {}).get("key")) == str(REAL))
