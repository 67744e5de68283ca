"""The routes that sources, destinations and pipelines have alike: list, create, read, change, replace, delete.

`add` makes them for one kind. Every answer with one object has an ETag; a change may send it back as If-Match and is refused (412) when somebody
else was faster. (No postponed annotations here: FastAPI reads the types that a route is made with.)
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Header, Query, Response
from fastapi.encoders import jsonable_encoder
from pydantic import BaseModel, ConfigDict, Field, SecretStr
from pydantic_core import to_json

from etl_supervisor.api import rows
from etl_supervisor.api.access import Admin, Viewer
from etl_supervisor.api.bodies import Body, Id, Page, changes_of, view_of
from etl_supervisor.api.caller import Caller
from etl_supervisor.api.control import Control, ControlOf
from etl_supervisor.api.cursors import Cursor, after_id, by_id, page_of
from etl_supervisor.api.files import Files
from etl_supervisor.api.idempotency import KEY_LENGTH_MAX, once
from etl_supervisor.api.rows import VERSION, Desk, Entity

LIMIT_DEFAULT, LIMIT_MAX = 100, 1000
Limit = Annotated[int, Field(ge=1, le=LIMIT_MAX, description="At most so many")]
IfMatch = Annotated[
    str | None, Header(max_length=256, description="The ETag that was read: refused when it is another now")
]
IfNoneMatch = Annotated[str | None, Header(max_length=256, description="An ETag: 304 when it is still that")]
IdempotencyKey = Annotated[
    str | None,
    Header(min_length=1, max_length=KEY_LENGTH_MAX, description="A create that is sent again with it is done once"),
]


class Filters(BaseModel):
    """What every list takes; a parameter that is not known is refused."""

    model_config = ConfigDict(extra="forbid")

    limit: Limit = LIMIT_DEFAULT
    cursor: Cursor = None


def _header(description: str, **schema: Any) -> dict[str, Any]:
    return {"description": description, "schema": {"type": "string", **schema}}


_ETAG = {"ETag": _header("Its version, for If-Match and If-None-Match", pattern='^"[0-9]+-[0-9]+"$')}
_MADE = {
    "Location": _header("Where it is"),
    "Idempotent-Replayed": _header("Whether this is the answer of an earlier request", enum=["true", "false"]),
}
_HEADERS = {"Read": _ETAG, "Create": _ETAG | _MADE, "Change": _ETAG, "Replace": _ETAG}  # of what is answered


@dataclass(frozen=True, slots=True)
class Kind:
    """What `add` needs: the rows, the bodies, the filters of its list, what a new row needs besides its body, and what must hold of a
    row that was written (it raises; then nothing was)."""

    entity: Entity
    body: type[Body]
    filters: type[Filters]
    complete: Callable[[Control, Desk, dict[str, Any]], dict[str, Any]]
    check: Callable[[Desk, dict[str, Any]], None] = lambda _desk, _row: None


@contextmanager
def desk_of(control: Control, caller: Caller) -> Iterator[Desk]:
    """A transaction for the caller."""
    files = Files(control.settings.directory, control.settings.api_key_directory, caller.tenant)
    with control.pool.transaction() as connection:
        yield Desk(connection, control.keyring, caller, files)


def shown(entity: Entity, row: dict[str, Any]) -> dict[str, Any]:
    """A row without its secrets."""
    told = {key: value for key, value in row.items() if key != VERSION and key not in entity.secrets}
    return told | {f"{key}_set": row[key] is not None for key in entity.secrets}


def etag(row: dict[str, Any]) -> str:
    """The version of a row as a header has it."""
    return f'"{row["id"]}-{row[VERSION]}"'


def seen_version(header: str | None, key: int) -> str | None:
    """The version in an If-Match; None when any will do."""
    if header is None or header.strip() == "*":
        return None
    return header.strip().removeprefix("W/").strip('"').removeprefix(f"{key}-") or "none"


def add(router: APIRouter, kind: Kind) -> None:
    """The routes of one kind."""
    view = view_of(kind.body, kind.entity.name, kind.entity.secrets)
    _add_reading(router, kind, view)
    _add_creating(router, kind, view)
    _add_changing(router, kind, view)


def _add_reading(router: APIRouter, kind: Kind, view: Any) -> None:
    entity, filters_type = kind.entity, kind.filters

    def read_page(control: ControlOf, caller: Viewer, filters: Annotated[filters_type, Query()]) -> Any:  # type: ignore[valid-type]
        asked: dict[str, Any] = filters.model_dump()  # type: ignore[attr-defined]
        limit, after = asked.pop("limit"), after_id(asked.pop("cursor"))
        with desk_of(control, caller) as desk:
            found = rows.listed(desk, entity, asked, after, limit + 1)
        # Rows are what PostgreSQL has checked: a page of a thousand is not checked again.
        return Response(
            to_json(page_of([shown(entity, row) for row in found], limit, by_id)), media_type="application/json"
        )

    def read(key: Id, control: ControlOf, caller: Viewer, response: Response, if_none_match: IfNoneMatch = None) -> Any:
        with desk_of(control, caller) as desk:
            row = rows.one(desk, entity, key)
        if if_none_match == etag(row):
            return Response(status_code=304, headers={"ETag": etag(row)})
        response.headers["ETag"] = etag(row)
        return shown(entity, row)

    _route(router, kind, "GET", "", read_page, "List", Page[view])
    _route(router, kind, "GET", "/{key}", read, "Read", view)


def _add_creating(router: APIRouter, kind: Kind, view: Any) -> None:
    entity, body_type = kind.entity, kind.body

    def create(
        body: body_type,  # type: ignore[valid-type]
        control: ControlOf,
        caller: Admin,
        response: Response,
        idempotency_key: IdempotencyKey = None,
    ) -> Any:
        values = {key: value for key, value in body.model_dump().items() if value is not None}  # type: ignore[attr-defined]
        with desk_of(control, caller) as desk:

            def make() -> Any:
                row = rows.insert(desk, entity, kind.complete(control, desk, values))
                kind.check(desk, row)
                return jsonable_encoder({"etag": etag(row), "row": shown(entity, row)})

            if idempotency_key is None:
                made = make()
            else:
                made, again = once(desk, f"POST {entity.table}", idempotency_key, _plain(values), make)
                response.headers["Idempotent-Replayed"] = str(again).lower()
        response.headers["ETag"] = made["etag"]
        response.headers["Location"] = f"/api/v1/{entity.table}/{made['row']['id']}"
        return made["row"]

    _route(router, kind, "POST", "", create, "Create", view, 201)


def _add_changing(router: APIRouter, kind: Kind, view: Any) -> None:
    entity, body_type = kind.entity, kind.body
    changes_type = changes_of(body_type, f"{entity.name}Changes")

    def bring_to(control: Control, caller: Caller, key: int, values: dict[str, Any], if_match: str | None) -> Any:
        with desk_of(control, caller) as desk:
            row = rows.update(desk, entity, key, values, seen_version(if_match, key))
            kind.check(desk, row)
            return row

    def change(
        key: Id,
        body: changes_type,  # type: ignore[valid-type]
        control: ControlOf,
        caller: Admin,
        response: Response,
        if_match: IfMatch = None,
    ) -> Any:
        values = body.model_dump(exclude_unset=True)  # type: ignore[attr-defined]
        row = bring_to(control, caller, key, values, if_match)
        response.headers["ETag"] = etag(row)
        return shown(entity, row)

    def replace(
        key: Id,
        body: body_type,  # type: ignore[valid-type]
        control: ControlOf,
        caller: Admin,
        response: Response,
        if_match: IfMatch = None,
    ) -> Any:
        kept = {*entity.secrets, *entity.fixed}  # nobody can send back a secret that is never shown
        sent: dict[str, Any] = body.model_dump()  # type: ignore[attr-defined]
        values = {name: value for name, value in sent.items() if value is not None or name not in kept}
        row = bring_to(control, caller, key, values, if_match)
        response.headers["ETag"] = etag(row)
        return shown(entity, row)

    def delete(key: Id, control: ControlOf, caller: Admin, if_match: IfMatch = None) -> None:
        with desk_of(control, caller) as desk:
            rows.delete(desk, entity, key, seen_version(if_match, key))

    _route(router, kind, "PATCH", "/{key}", change, "Change", view)
    _route(router, kind, "PUT", "/{key}", replace, "Replace", view)
    _route(router, kind, "DELETE", "/{key}", delete, "Delete", None, 204)


def _route(
    router: APIRouter, kind: Kind, method: str, path: str, call: Any, verb: str, view: Any, status: int = 200
) -> None:
    what = kind.entity.table if verb == "List" else f"a {kind.entity.name.lower()}"
    told: dict[int | str, dict[str, Any]] = {status: {"headers": _HEADERS[verb]}} if verb in _HEADERS else {}
    if verb == "Read":
        told[304] = {"description": "It is still what `If-None-Match` names", "headers": _HEADERS[verb]}
    router.add_api_route(
        path,
        call,
        methods=[method],
        response_model=view,
        status_code=status,
        summary=f"{verb} {what}",
        operation_id=f"{verb.lower()}_{kind.entity.table}",
        responses=told,
    )


def _plain(values: dict[str, Any]) -> bytes:
    """What was sent, in one form; only ever hashed."""
    return orjson.dumps(values, default=SecretStr.get_secret_value, option=orjson.OPT_SORT_KEYS)
