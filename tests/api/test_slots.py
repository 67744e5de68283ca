"""Slots altered, advanced, and kept where they are needed."""

import contextlib
from typing import Any

import psycopg
import pytest

from tests.api.test_inspection import SHOP, over
from tests.api.test_publications import made
from tests.api.test_resources import error
from tests.support.fix_api import Api
from tests.support.fix_deployment import wait_for
from tests.support.fix_postgres import Database

SLOTS = "/api/v1/sources/1/slots"
OWN = "select pg_create_logical_replication_slot(%s, 'pgoutput')"


@pytest.fixture
def source(api: Api, database: Database) -> str:
    """A source with its own slot and one that is nobody's; the name of its own."""
    database.execute(SHOP)
    made(api, database)
    own = f"etl_stream_{api.get('/api/v1/sources/1').json()['replication_id']}"
    for name in (own, f"foreign_{database.name}"):
        database.execute(OWN, name)
    return own


@pytest.fixture
def foreign(source: str, database: Database) -> str:
    return f"foreign_{database.name}"


def slot(api: Api, name: str) -> dict[str, Any]:
    (found,) = [item for item in api.get(SLOTS).json() if item["name"] == name]
    return dict(found)


def test_a_slot_is_kept_on_standbys_or_not(api: Api, source: str, foreign: str) -> None:
    assert (slot(api, source)["failover"], slot(api, foreign)["failover"]) == (False, False)
    for name in (source, foreign):
        for wanted in (True, True, False):
            answer = api.patch(f"{SLOTS}/{name}", json={"failover": wanted})
            assert (answer.status_code, answer.json()["failover"]) == (200, wanted), answer.text
    entries = [item for item in api.get("/api/v1/audit-log").json()["items"] if item["action"] == "alter slot"]
    assert [(item["before"], item["after"]) for item in entries] == [
        ({"failover": True}, {"failover": False}),
        ({"failover": False}, {"failover": True}),
    ] * 2


def test_a_slot_is_not_altered_against_its_source(api: Api, source: str) -> None:
    api.patch("/api/v1/sources/1", json={"slot_failover": True})
    assert api.patch(f"{SLOTS}/{source}", json={"failover": True}).status_code == 200
    assert error(api.patch(f"{SLOTS}/{source}", json={"failover": False})) == (
        409,
        "ConflictError",
        f"Slot {source} is as slot_failover of the source says; change that first",
        {"slot": source},
    )
    assert slot(api, source)["failover"] is True


def test_an_old_server_has_no_failover_slots(api: Api, old_database: Database) -> None:
    old_database.execute(SHOP)
    made(api, old_database)
    name = f"foreign_{old_database.name}"
    old_database.execute(OWN, name)
    assert slot(api, name)["failover"] is None
    assert error(api.patch(f"{SLOTS}/{name}", json={"failover": True})) == (
        422,
        "ValidationError",
        "failover: it needs PostgreSQL 17 or newer",
        {"errors": [{"field": "failover", "reason": "it needs PostgreSQL 17 or newer"}]},
    )
    old_database.execute("select pg_drop_replication_slot(%s)", name)


def test_a_slot_of_nobodys_is_advanced(api: Api, foreign: str, database: Database) -> None:
    ((half,),) = database.execute("select pg_logical_emit_message(true, 'x', 'y')::text")
    database.execute("select pg_logical_emit_message(true, 'x', 'y')")
    done = over(api, api.post(f"{SLOTS}/{foreign}/advance", json={"to": half}))
    assert (done["status"], done["result"]) == ("succeeded", {"name": foreign, "lsn": half})
    assert slot(api, foreign)["confirmed"] == half
    done = over(api, api.post(f"{SLOTS}/{foreign}/advance", json={}))
    assert done["status"] == "succeeded"
    query = "select confirmed_flush_lsn > %s::pg_lsn from pg_replication_slots where slot_name = %s"
    assert database.execute(query, half, foreign) == [(True,)]
    back = over(api, api.post(f"{SLOTS}/{foreign}/advance", json={"to": "0/1"}))
    assert (back["status"], back["error"]["error"]) == ("failed", "SourceSetupError")
    assert "cannot advance replication slot to 0/" in back["error"]["message"]
    wrong = error(api.post(f"{SLOTS}/{foreign}/advance", json={"to": "now"}))
    assert wrong[:2] == (422, "ValidationError")


def test_a_slot_of_ours_is_not_advanced(api: Api, source: str, database: Database) -> None:
    before = slot(api, source)["confirmed"]
    told = (409, "ConflictError", f"Slot {source} is a source's of ours: what it holds would be lost", {"slot": source})
    assert error(api.post(f"{SLOTS}/{source}/advance", json={})) == told
    assert slot(api, source)["confirmed"] == before


def test_a_slot_of_another_source_is_that_ones(api: Api, source: str, database: Database) -> None:
    made(api, database, name="other", replication_id=77, tenant="acme")
    told = (409, "ConflictError", f"Slot {source} belongs to another source", {"slot": source})
    theirs = f"/api/v1/sources/2/slots/{source}"
    with api.as_("admin", "acme") as acme:
        assert error(acme.delete(theirs)) == told
        assert error(acme.patch(theirs, json={"failover": True})) == told
        assert error(acme.post(f"{theirs}/advance", json={}))[0] == 409
    assert slot(api, source)["ours"] is True


def test_a_slot_that_is_read_stays_as_it_is(api: Api, foreign: str, database: Database) -> None:
    with contextlib.closing(psycopg.connect(database.dsn + " replication=database", autocommit=True)) as walsender:
        # What follows is the replication protocol: the answer is not waited for.
        walsender.pgconn.send_query(
            f"START_REPLICATION SLOT {foreign} LOGICAL 0/0 (proto_version '1', publication_names 'p')".encode()
        )
        wait_for("the reader", lambda: slot(api, foreign)["active"])
        told = (
            409,
            "ConflictError",
            f"Slot {foreign} is being read; pause its pipelines, or stop its reader, first",
            {"slot": foreign},
        )
        assert error(api.patch(f"{SLOTS}/{foreign}", json={"failover": True})) == told
        assert error(api.post(f"{SLOTS}/{foreign}/advance", json={})) == told
        assert error(api.delete(f"{SLOTS}/{foreign}")) == told


@pytest.mark.usefixtures("source")
@pytest.mark.parametrize(("method", "path"), [("PATCH", ""), ("POST", "/advance"), ("DELETE", "")])
def test_a_slot_that_is_not_there_is_not_found(api: Api, method: str, path: str) -> None:
    body = {"json": {"failover": True} if method == "PATCH" else {}} if method != "DELETE" else {}
    assert error(api.request(method, f"{SLOTS}/nothing{path}", **body)) == (
        404,
        "EntityNotFoundError",
        "Slot with id 'nothing' not found",
        {"entity_type": "Slot", "entity_id": "nothing"},
    )
