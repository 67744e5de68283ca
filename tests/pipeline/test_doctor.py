"""`etl-supervisor doctor` names what is wrong, what is at risk and what could be better, and changes nothing."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from typing import Any

import orjson
import pytest

from etl_supervisor.state.postgres import PostgresStore
from etl_supervisor.state.redis import RedisStore
from tests.support.fix_deployment import Deployment
from tests.support.streaming import make_slot

pytestmark = pytest.mark.timeout(120)


def doctor(deploy: Deployment, *words: str) -> tuple[int, list[dict[str, Any]]]:
    command = [sys.executable, "-m", "etl_supervisor.cli.main", "doctor", "--json", *words]
    done = subprocess.run(command, env=deploy.environment, cwd=deploy.folder, capture_output=True, text=True)
    assert not done.stderr, done.stderr
    return done.returncode, orjson.loads(done.stdout)


def kinds(found: list[dict[str, Any]], source: str = "shop") -> set[tuple[str, str, str]]:
    return {(item["weight"], item["kind"], item["place"]) for item in found if source in item["place"]}


def test_a_healthy_source_has_no_fault(deploy: Deployment) -> None:
    deploy.source.execute("create table items (id int primary key, n int)")
    deploy.source.execute("create table notes (id int primary key, body text)")
    deploy.source.execute("create table log (line text); create publication p for all tables")
    deploy.add("shop")
    code, found = doctor(deploy)
    assert code == 0
    assert kinds(found) == {
        ("advice", "toast", "source shop, table public.notes"),
        ("advice", "toast", "source shop, table public.log"),
        ("advice", "no_key", "source shop, table public.log"),
        ("risk", "replica_identity", "source shop, table public.log"),
        ("advice", "wal_limit", "source shop"),
    }
    assert "geheim" not in repr(found)


def test_orphan_slots_rights_and_masks_are_named(deploy: Deployment) -> None:
    deploy.source.execute("create table items (id int primary key, mail text); create publication p for all tables")
    user = f"narrow_{deploy.source.name}"
    deploy.source.execute(f"create role {user} login password 'geheim' replication")
    deploy.add("shop", pg_username=user, pg_password="geheim", columns={"public.items": {"id": "null"}})
    orphan = f"etl_stream_{int.from_bytes(deploy.source.name.encode()[-3:], 'big')}"
    make_slot(deploy.source, orphan)
    try:
        code, found = doctor(deploy)
    finally:
        deploy.source.execute("select pg_drop_replication_slot(%s)", orphan)
    assert code == 1
    by_kind = {item["kind"]: item for item in found}
    assert by_kind["select"]["place"] == "source shop, table public.items"
    assert orphan in by_kind["orphan_slot"]["remedy"]
    assert by_kind["mask"]["reason"] == "column id is of the key: it can't be masked by null"
    deploy.source.execute(f"drop role {user}")


def test_a_source_that_can_not_be_read_is_one_finding(deploy: Deployment) -> None:
    deploy.add("shop", publication_name="missing")
    code, found = doctor(deploy)
    (item,) = [item for item in found if "shop" in item["place"] and item["weight"] == "wrong"]
    assert (code, item["weight"], item["kind"]) == (1, "wrong", "source_setup")
    assert "CREATE PUBLICATION missing" in item["remedy"]


def test_a_state_store_that_may_forget_is_a_risk(deploy: Deployment, redis_url: str) -> None:
    store = RedisStore(redis_url)
    before = {name: store._redis.config_get(name)[name] for name in ("appendonly", "appendfsync")}
    with contextlib.closing(PostgresStore(deploy.config.dsn)) as other:
        assert other.risk() == "PostgreSQL may lose what was written last: fsync is off"  # of the tests' server
    try:
        store._redis.config_set("appendonly", "yes")
        store._redis.config_set("appendfsync", "always")
        assert store.risk() == ""
        store._redis.config_set("appendfsync", "everysec")
        assert "a crash of the machine loses the last of it" in store.risk()
        deploy.source.execute("create publication p for all tables")
        deploy.add("shop")
        _, found = doctor(deploy)
        assert ("risk", "state_store", "state store") in kinds(found, "state store")
    finally:
        for name, value in before.items():
            store._redis.config_set(name, value)
        store.close()
