"""Columns that are masked: what is secret does not leave the reader, whatever way its row takes; pipelines choose tables and masks of their own."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import re
from pathlib import Path
from typing import Any

import orjson
import pytest

from etl_supervisor.model.pipeline import Destination
from tests.support.fix_deployment import Deployment, wait_for
from tests.support.fix_local_snowflake import sql_session
from tests.support.sharing import elsewhere

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

MASKING = {"MASKING_SECRET": "a masking secret of a test, long enough"}
WORD, SECRET = "pumpernickel", "zwieback"  # SECRET is nowhere in clear in any test


def hashed(text: str) -> str:
    return hmac.new(MASKING["MASKING_SECRET"].encode(), text.encode(), hashlib.sha256).hexdigest()


def rows(there: Destination, query: str) -> list[tuple[Any, ...]]:
    with sql_session(there) as session, session.cursor() as cursor:
        cursor.execute(f'USE SCHEMA "{there.database}"."{there.schema}"')
        return list(cursor.execute(query).fetchall())


def shared_memory(deploy: Deployment) -> list[bytes]:
    """Every memfd that a child has open."""
    found = []
    for pid in deploy.settled().values():
        for fd in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                if "memfd:etl-" in str(fd.readlink()):
                    found.append(fd.read_bytes())
            except OSError:
                continue  # it was closed meanwhile
    return found


def contents(folder: Path) -> dict[Path, bytes]:
    """Of every file below it, but for those that go while we look."""
    found = {}
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError, IsADirectoryError):
            found[path] = path.read_bytes()
    return found


def prepared(deploy: Deployment, word: str = WORD, **pipeline: Any) -> None:
    deploy.source.execute("create table people (id int primary key, mail text, born date, phone text, note text)")
    deploy.source.execute("create table orders (id int primary key, note text)")
    deploy.source.execute(
        f"insert into people select g, '{word}-' || g, '2001-02-03', '{word}', 'n' from generate_series(1, 2000) g"
    )
    deploy.source.execute("insert into orders values (1, 'a')")
    deploy.source.execute("create publication p for all tables")
    deploy.add("shop", **pipeline)


COLUMNS = {"public.people": {"mail": "hash", "born": "null", "phone": {"constant": "-"}, "note": "exclude"}}


def test_what_is_masked_is_in_no_shared_memory_no_log_and_no_file_of_snowflake(deploy: Deployment) -> None:
    prepared(deploy, SECRET, columns=COLUMNS)
    deploy.start(**MASKING)
    deploy.ready("shop", 2)
    deploy.server.set(commit_delay_s=1.0)
    deploy.source.execute(f"update people set mail = '{SECRET}-new-' || id, note = '{SECRET}' where id <= 500")
    deploy.source.execute(f"insert into people values (9001, '{SECRET}-later', 'infinity', '{SECRET}', '{SECRET}')")
    deploy.source.execute("insert into orders values (2, 'this one may be seen')")
    seen = wait_for("rows in shared memory", lambda: [m for m in shared_memory(deploy) if b"this one may be seen" in m])
    assert seen
    deploy.server.set(commit_delay_s=0)
    deploy.caught_up("shop")
    assert not any(SECRET.encode() in memory for memory in shared_memory(deploy))
    target = rows(deploy.destination, "SELECT ID, MAIL, BORN, PHONE FROM PEOPLE WHERE ID IN (1, 1000, 9001) ORDER BY 1")
    expected = {1: f"{SECRET}-new-1", 1000: f"{SECRET}-1000", 9001: f"{SECRET}-later"}
    assert target == [(number, hashed(text), None, "-") for number, text in expected.items()]
    landed = rows(deploy.destination, 'SELECT * FROM "ETL_SCHEMA"."LANDING_PEOPLE"')
    assert len(landed) >= 2501
    assert SECRET not in repr(landed)
    assert deploy.stop() == 0
    assert SECRET not in deploy.log
    files = contents(Path(deploy.server.data_dir.parent))
    assert files
    assert not [path for path, content in files.items() if SECRET.encode() in content]


def test_a_masked_column_stays_masked_when_it_and_its_table_are_renamed(deploy: Deployment) -> None:
    prepared(deploy, columns={"public.people": {"mail": "hash"}})
    deploy.start(**MASKING)
    deploy.ready("shop", 2)
    deploy.source.execute("alter table people rename mail to email")
    deploy.source.execute(f"insert into people values (9001, '{WORD}-x', null, null, null)")
    deploy.caught_up("shop")
    deploy.stop()
    deploy.start(**MASKING)
    deploy.source.execute("alter table people rename to folk")
    deploy.source.execute(f"insert into folk values (9002, '{WORD}-y', null, null, null)")
    wait_for("the new name", lambda: "folk" in deploy.states("shop"))
    deploy.ready("shop", 2)
    deploy.caught_up("shop")
    found = rows(deploy.destination, "SELECT ID, EMAIL FROM FOLK WHERE ID > 9000 ORDER BY 1")
    assert found == [(9001, hashed(f"{WORD}-x")), (9002, hashed(f"{WORD}-y"))]
    assert deploy.stop() == 0


def test_a_mask_that_changes_has_its_table_copied_again_and_nothing_else(deploy: Deployment) -> None:
    prepared(deploy)
    deploy.start(**MASKING)
    deploy.ready("shop", 2)
    before = deploy.states("shop")
    deploy.config.execute("update app.pipelines set columns = %s", orjson.dumps(COLUMNS).decode())
    wait_for("the new masks", lambda: deploy.states("shop")["people"].generation > before["people"].generation)
    deploy.ready("shop", 2)
    deploy.caught_up("shop")
    assert rows(deploy.destination, "SELECT COUNT(*), COUNT(DISTINCT MAIL), MAX(PHONE) FROM PEOPLE") == [
        (2000, 2000, "-")
    ]
    assert rows(deploy.destination, "SELECT MAIL FROM PEOPLE WHERE ID = 7") == [(hashed(f"{WORD}-7"),)]
    assert deploy.states("shop")["orders"].generation == before["orders"].generation
    assert deploy.stop() == 0


def test_two_pipelines_of_a_source_choose_and_mask_each_for_itself(deploy: Deployment) -> None:
    prepared(deploy)
    there = elsewhere(deploy)
    deploy.share("other", "shop", there, tables_include=["public.peo*"], columns={"public.people": {"mail": "hash"}})
    deploy.start(**MASKING)
    deploy.ready("shop", 2)
    deploy.ready("other", 1)
    deploy.source.execute("update people set mail = 'm' || id where id < 100; delete from people where id = 100")
    deploy.source.execute("insert into orders values (2, 'b')")
    for name in ("shop", "other"):
        deploy.caught_up(name)
    deploy.same("shop", people=("id",), orders=("id",))
    assert set(deploy.states("other")) == {"people"}
    plain = rows(deploy.destination, "SELECT ID, MAIL FROM PEOPLE ORDER BY ID")
    assert rows(there, "SELECT ID, MAIL FROM PEOPLE ORDER BY ID") == [(n, hashed(mail)) for n, mail in plain]
    generation = deploy.states("shop")["orders"].generation
    deploy.config.execute("update app.pipelines set tables_exclude = '{public.orders}' where name = 'shop'")
    wait_for("the table to be forgotten", lambda: set(deploy.states("shop")) == {"people"})
    deploy.source.execute("insert into orders values (3, 'while it is not taken')")
    deploy.config.execute("update app.pipelines set tables_exclude = '{}' where name = 'shop'")
    wait_for("the table to come back", lambda: "orders" in deploy.states("shop"))
    deploy.ready("shop", 2)
    deploy.caught_up("shop")
    deploy.same("shop", people=("id",), orders=("id",))
    assert deploy.states("shop")["orders"].generation > generation
    assert deploy.stop() == 0


def test_a_mask_that_can_not_be_is_one_line_and_shows_nothing_of_its_table(deploy: Deployment) -> None:
    prepared(deploy, columns={"public.people": {"id": "null"}})
    deploy.start(**MASKING)
    wait_for("the line", lambda: "column id is of the key: it can't be masked by null" in deploy.log)
    wait_for(
        "the other table",
        lambda: deploy.states("shop").get("orders") and deploy.states("shop")["orders"].phase == "READY",
    )
    assert re.search("^schema at table public.people: column id is of the key", deploy.states("shop")["people"].trouble)
    deploy.source.execute("update people set note = 'x' where id = 1")
    deploy.config.execute('update app.pipelines set columns = \'{"public.people": {"mail": "hash"}}\'')
    deploy.ready("shop", 2)
    deploy.caught_up("shop")
    assert rows(deploy.destination, "SELECT NOTE, MAIL FROM PEOPLE WHERE ID = 1") == [("x", hashed(f"{WORD}-1"))]
    assert deploy.stop() == 0
