"""Every route of the application against everybody who may ask: nobody, keys that are over, each role, and another tenant.

The routes are those of the application, so a new one is in the matrix at once; one that asks for no role fails here.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from etl_supervisor.api.app import PREFIX
from etl_supervisor.api.caller import Role
from tests.api.test_access import routes
from tests.api.test_resources import error
from tests.support.fix_api import SECRET_KEY, Api

OPERATION = "00000000-0000-0000-0000-000000000001"
OURS = "ours-alone"  # a word in every object that another tenant must not see
TABLES = ("sources", "destinations", "pipelines", "api_keys", "operations", "audit_log")


@dataclass(frozen=True)
class Place:
    """A route, and the role it asks for."""

    method: str
    path: str
    role: str

    def asked(self, client: httpx.Client, body: Any = None, **keys: str) -> httpx.Response:
        """Its answer; of a stream only the beginning. What `keys` does not have is nothing that there is."""
        path = re.sub(r"{(\w+)}", lambda found: keys.get(found[1], "999"), self.path)
        with client.stream(self.method, path, json=body or {}) as answer:
            if answer.headers.get("Content-Type", "").startswith("application/json"):
                answer.read()
            return answer


@pytest.fixture
def places(tmp_path: Path) -> list[Place]:
    return [Place(method, path, role) for (method, path), role in routes(tmp_path).items()]


def test_the_matrix_has_every_route_of_the_description_with_one_role(api: Api, places: list[Place]) -> None:
    paths = api.get("/openapi.json").json()["paths"]
    described = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    assert {(place.method, place.path) for place in places} == {
        (method, path) for method, path in described if path.startswith(PREFIX)
    }
    assert {place.role for place in places} <= set(Role)


def test_without_a_key_that_is_good_no_route_answers(api: Api, places: list[Place]) -> None:
    revoked = api.post("/api/v1/api-keys", json={"name": "gone", "role": "admin"}).json()
    api.delete(f"/api/v1/api-keys/{revoked['prefix']}")
    expired = api.key("admin", expires_at=datetime.now(UTC) - timedelta(seconds=1))
    good = api.client.headers["Authorization"].removeprefix("Bearer ")
    keys = [
        None,
        "",
        "etl_",
        SECRET_KEY,
        revoked["key"],
        expired,
        good[:-1],
        good[:-1] + ("A" if good[-1] != "A" else "B"),
    ]
    with api.nobody() as nobody:
        for key in keys:
            nobody.headers.pop("X-API-Key", None)
            if key is not None:
                nobody.headers["X-API-Key"] = key
            for place in places:
                assert error(place.asked(nobody))[:2] == (401, "AuthenticationError"), (key, place)


@pytest.mark.parametrize("role", Role)
def test_a_role_reaches_exactly_the_routes_that_it_includes(api: Api, places: list[Place], role: Role) -> None:
    with api.as_(role) as client:
        for place in places:
            answer = place.asked(client, key="999")
            if role.includes(Role(place.role)):
                assert answer.status_code not in (401, 403), (place, answer.status_code)
            else:
                assert error(answer) == (
                    403,
                    "PermissionDeniedError",
                    f"This needs the role {place.role}; the key has {role}",
                    {"role": str(role), "needed": place.role},
                ), place


def test_another_tenant_finds_no_object_and_changes_none(api: Api, places: list[Place]) -> None:
    keys, before = ours(api), rows_of(api)
    bodies = dict(samples(api))
    below_an_object = [place for place in places if "{" in place.path]
    with api.as_("admin", "acme") as acme:
        for place in below_an_object:
            key = keys.get(place.path.split("/")[3], "1")
            body = bodies.get((place.method, place.path))
            answer = place.asked(acme, body, key=key, prefix=key, name="x", schema="x", table="x")
            status, name, _, details = error(answer)
            assert (status, name, details.get("entity_id")) == (404, "EntityNotFoundError", key), place
    assert rows_of(api) == before


def test_another_tenant_sees_nothing_of_ours_in_a_list(api: Api, places: list[Place]) -> None:
    keys = ours(api)
    lists = [place for place in places if place.method == "GET" and "{" not in place.path]
    streams = [f"{PREFIX}/events"]  # tests/api/test_live.py reads that
    with api.as_("admin", "acme") as acme, api.as_("admin") as everybody:
        seen = [place.path for place in lists if place.path not in streams and OURS in place.asked(everybody).text]
        assert {f"{PREFIX}/{name}" for name in ("sources", "destinations", "pipelines", "operations")} <= set(seen)
        for place in lists:
            if place.path not in streams:
                answer = place.asked(acme)
                assert answer.status_code in (200, 403), place
                assert OURS not in answer.text, place
                assert keys["api-keys"] not in answer.text, place


def ours(api: Api) -> dict[str, str]:
    """Objects of the tenant `default`, in which its word is; the key in the path of each."""
    api.filled()
    made = api.post("/api/v1/api-keys", json={"name": OURS, "role": "admin", "tenant": "default"}).json()
    for table in ("sources", "destinations", "pipelines"):
        api.database.execute(f"update app.{table} set name = '{OURS}'")
    api.database.execute(
        "insert into app.operations (id, tenant, who, kind, target, status)"
        f" values ('{OPERATION}', 'default', '{OURS}', 'replay', 'pipeline 1', 'succeeded')"
    )
    return {"sources": "1", "destinations": "1", "pipelines": "1", "operations": OPERATION, "api-keys": made["prefix"]}


def rows_of(api: Api) -> list[Any]:
    """Everything that belongs to the tenant `default` or to nobody."""
    return [
        api.database.execute(
            f"select to_jsonb(t) - 'last_used_at' from app.{table} t where tenant is distinct from 'acme' order by 1"
        )
        for table in TABLES
    ]


def samples(api: Api) -> Iterator[tuple[tuple[str, str], Any]]:
    """(method, path) -> a body that fits, from the description."""
    description = api.get("/openapi.json").json()
    schemas = description["components"]["schemas"]
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            if "requestBody" in operation:
                yield (
                    (method.upper(), path),
                    sample(operation["requestBody"]["content"]["application/json"]["schema"], schemas),
                )


def sample(schema: dict[str, Any], schemas: dict[str, Any]) -> Any:
    """A value that fits: the example, else what is required and as small as it may be."""
    if "$ref" in schema:
        return sample(schemas[schema["$ref"].rsplit("/", 1)[-1]], schemas)
    for key in ("example", "default", "const"):
        if key in schema:
            return schema[key]
    if "enum" in schema:
        return schema["enum"][0]
    if "anyOf" in schema:
        return sample(schema["anyOf"][0], schemas)
    match schema.get("type"):
        case "object":
            return {name: sample(schema["properties"][name], schemas) for name in schema.get("required", ())}
        case "array":
            return [sample(schema["items"], schemas)] * schema.get("minItems", 0)
        case "integer" | "number":
            return schema.get("minimum", 1)
        case "boolean":
            return False
        case _:
            return "x"
