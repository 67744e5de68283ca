"""What schemathesis can't know: which objects are real, and that nothing may be asked of other machines.

Ids that are only numbers become 1 to 3, so that most of them are of something. The objects of id 1 (a database and a local Snowflake that answer, and
a pipeline between them) stay as they are. Sources are on this machine, whatever host was thought of.
"""

from __future__ import annotations

from typing import Any

import schemathesis

REAL = 1
IDS = 3
FIXED = ("PATCH", "PUT", "DELETE")


@schemathesis.hook
def map_path_parameters(_: schemathesis.HookContext, path_parameters: dict[str, Any]) -> dict[str, Any]:
    key = path_parameters.get("key")
    if isinstance(key, int) and not isinstance(key, bool) and key > IDS:
        return path_parameters | {"key": 1 + key % IDS}
    return path_parameters


@schemathesis.hook
def map_body(_: schemathesis.HookContext, body: Any) -> Any:
    if isinstance(body, dict) and isinstance(body.get("pg_host"), str):
        return body | {"pg_host": "127.0.0.1"}
    return body


@schemathesis.hook
def filter_case(_: schemathesis.HookContext, case: schemathesis.Case) -> bool:
    whole = case.path.endswith("{key}")
    return not (whole and case.method in FIXED and str((case.path_parameters or {}).get("key")) == str(REAL))
