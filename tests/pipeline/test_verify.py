"""`verify`: source and target at one LSN, while the pipeline runs."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import pytest

from etl_supervisor.config.settings import load as settings_of
from etl_supervisor.model import lsn
from etl_supervisor.model.table_state import Phase
from etl_supervisor.model.verified import Verdict
from etl_supervisor.repository.desired import load
from etl_supervisor.state.choose import open_store
from etl_supervisor.state.streams import arrange
from tests.support.fix_deployment import Deployment, wait_for
from tests.support.fix_local_snowflake import sql_session
from workers.verify import check, comparing
from workers.verify.ranges import COUNT_MAX, Span

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

ROWS = 3_000
LARGE_ROWS = int(os.environ.get("VERIFY_ROWS", "99999"))  # divisible by 3
MASKING_SECRET = "a masking secret of a test, 32 characters or more"
EQUAL, DIFFERENT = 0, 1


def verify(deploy: Deployment, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "etl_supervisor.cli.main", "verify", *words]
    return subprocess.run(command, env=deploy.environment, cwd=deploy.folder, capture_output=True, text=True)


def verdicts(deploy: Deployment, *words: str) -> tuple[int, dict[str, dict[str, Any]]]:
    done = verify(deploy, *words, "--json")
    assert done.stderr == ""
    found = [orjson.loads(line) for line in done.stdout.splitlines()]
    return done.returncode, {item["table"].removeprefix("public."): item for item in found}


def inside(deploy: Deployment, *, repair: bool = False) -> list[Verdict]:
    """All tables of the pipeline, in this process."""
    found: list[Verdict] = []
    with contextlib.closing(open_store(deploy.settings)) as store:
        (spec,) = arrange(load(deploy.settings).specs, store)
        tables = sorted(store.tables(spec.source.name, "shop"))
        check.verify(deploy.settings, store, spec, "shop", tables, found.append, repair=repair)
    return found


def at_target(deploy: Deployment, statement: str) -> list[tuple[Any, ...]]:
    schema = f'"{deploy.destination.database}"."{deploy.destination.schema}"'
    with sql_session(deploy.destination) as session, session.cursor() as cursor:
        return list(cursor.execute(statement.format(schema=schema)).fetchall())


def started(deploy: Deployment, tables: int, **changes: Any) -> None:
    deploy.source.execute("create publication p for all tables")
    deploy.add("shop", **changes)
    deploy.start()
    deploy.ready("shop", tables)
    deploy.caught_up("shop")


@contextlib.contextmanager
def working(deploy: Deployment) -> Iterator[None]:
    """Inserts, updates, deletes and key changes meanwhile, several rows a transaction."""
    ended = threading.Event()

    def work() -> None:
        turn = 0
        while not ended.wait(0.01):
            turn += 1
            deploy.source.execute(
                f"update items set note = 'r{turn}' where id % 50 = {turn % 50};"
                f"insert into items values ({ROWS + turn}, 'new');"
                f"delete from items where id = {turn};"
                f"update items set id = -{turn} where id = {ROWS + turn - 5}"
            )

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@dataclass
class Counted:
    """A side, and how many rows it has given."""

    side: comparing.Side
    rows_read: int = 0

    def rows(self, spans: Sequence[Span] = ()) -> Iterator[comparing.Rows]:
        for rows in self.side.rows(spans):
            self.rows_read += len(rows.row)
            yield rows


def items(deploy: Deployment) -> None:
    deploy.source.execute("create table items (id int primary key, note text)")
    deploy.source.execute(f"insert into items select g, 'n' || g from generate_series(1, {ROWS}) g")


def test_a_row_that_was_changed_deleted_or_added_in_the_target_is_found_and_named(deploy: Deployment) -> None:
    items(deploy)
    started(deploy, 1)
    code, found = verdicts(deploy, "shop")
    assert (code, found["items"]["equal"], found["items"]["source_rows"]) == (EQUAL, True, ROWS)
    at_target(deploy, "UPDATE {schema}.ITEMS SET NOTE = 'changed' WHERE ID = 7")
    at_target(deploy, "DELETE FROM {schema}.ITEMS WHERE ID IN (11, 12)")
    at_target(deploy, "INSERT INTO {schema}.ITEMS (ID, NOTE) VALUES (-1, NULL)")
    code, found = verdicts(deploy, "shop", "--table", "items")
    seen = found["items"]
    assert (code, seen["different_keys"], seen["missing_keys"], seen["extra_keys"]) == (
        DIFFERENT,
        [["7"]],
        [["11"], ["12"]],
        [["-1"]],
    )
    assert (seen["different"], seen["missing"], seen["extra"]) == (1, 2, 1)
    generation = deploy.states("shop")["items"].generation
    done = verify(deploy, "shop", "--repair")
    assert (done.returncode, done.stderr) == (EQUAL, ""), done.stdout
    assert "2 missing, 1 extra, 1 different of 3,000 rows" in done.stdout
    assert "table public.items: 5 rows of its ranges were copied again, it is compared once more" in done.stdout
    assert "equal, 3,000 rows" in done.stdout
    assert verify(deploy, "shop").returncode == EQUAL
    assert deploy.states("shop")["items"].generation == generation, "it was not copied again"
    assert "changed" not in deploy.log
    assert deploy.stop() == 0


def test_what_ranges_will_not_do_is_copied_again(deploy: Deployment) -> None:
    items(deploy)
    deploy.source.execute("create table words (word text primary key, n int)")
    deploy.source.execute("insert into words values ('a', 1), ('b', 2)")
    started(deploy, 2)
    at_target(deploy, "UPDATE {schema}.ITEMS SET NOTE = 'changed' WHERE ID <= 1500")
    at_target(deploy, "UPDATE {schema}.WORDS SET N = 0 WHERE WORD = 'a'")
    generations = {name: state.generation for name, state in deploy.states("shop").items()}
    done = verify(deploy, "shop", "--repair")
    assert done.returncode == DIFFERENT
    for name in generations:
        assert f"table public.{name}: it is copied again now" in done.stdout
    wait_for("new ones", lambda: all(s.generation > generations[name] for name, s in deploy.states("shop").items()))
    deploy.ready("shop", 2)
    assert verify(deploy, "shop").returncode == EQUAL
    assert deploy.stop() == 0


@pytest.mark.parametrize("how", ["hard", "soft"])
def test_ranges_are_put_right_while_rows_change(deploy: Deployment, how: str) -> None:
    items(deploy)
    deploy.source.execute(TYPES)
    started(deploy, 2, apply_tables={f"public.{name}": {"apply_delete": how} for name in ("items", "kinds")})
    generation = deploy.states("shop")["items"].generation
    with working(deploy):
        at_target(deploy, "UPDATE {schema}.ITEMS SET NOTE = 'changed' WHERE MOD(ID, 100) = 3")
        at_target(deploy, "DELETE FROM {schema}.ITEMS WHERE MOD(ID, 100) IN (4, 51)")
        at_target(deploy, "INSERT INTO {schema}.ITEMS (ID, NOTE) VALUES (1000000, NULL), (1000001, 'extra')")
        at_target(deploy, "DELETE FROM {schema}.KINDS WHERE ID = 1")
        at_target(deploy, "UPDATE {schema}.KINDS SET T = 'changed', D = 5 WHERE ID = 2")
        verify(deploy, "shop", "--repair")
    deploy.caught_up("shop")
    done = verify(deploy, "shop", "--repair")
    assert done.returncode == EQUAL, done.stdout + done.stderr
    assert verify(deploy, "shop").returncode == EQUAL
    extra = at_target(deploy, "SELECT _ETL_DELETED FROM {schema}.ITEMS WHERE ID >= 1000000") if how == "soft" else []
    assert extra == ([(True,)] * 2 if how == "soft" else []), "a row that is no more is kept as a deleted one"
    assert deploy.states("shop")["items"].generation == generation
    assert deploy.stop() == 0


LATER = "update items set note = 'later' where id = 7; delete from items where id = 8; update items set id = -9 where id = 9"


def test_a_repair_reverts_nothing_that_came_after_its_snapshot(
    deploy: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    items(deploy)
    started(deploy, 1)
    at_target(deploy, "UPDATE {schema}.ITEMS SET NOTE = 'changed' WHERE ID IN (7, 8, 9, 10)")
    left = [LATER]
    seen: list[list[tuple[Any, ...]]] = []

    def compared(*sides: Any) -> Any:
        """The source changes, and that is applied, between the comparison and the repair."""
        if not left:
            seen.append(at_target(deploy, "SELECT ID, NOTE FROM {schema}.ITEMS WHERE ID BETWEEN -9 AND 10 ORDER BY ID"))
        found = comparing.compare(*sides)
        if left:
            deploy.source.execute(left.pop())
            deploy.caught_up("shop")
        return found

    monkeypatch.setattr(check, "compare", compared)
    first, last = inside(deploy, repair=True)
    assert (first.different, first.repaired) == (4, 1)
    assert [row for row in seen[0] if row[0] in (-9, 7, 8, 9, 10)] == [(-9, "n9"), (7, "later"), (10, "n10")]
    assert (last.equal, last.repaired) == (True, None)
    assert deploy.stop() == 0


def test_only_ranges_of_an_integer_key_that_differ_are_read_again(
    deploy: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy.source.execute("create table items (id bigint primary key, note text)")
    deploy.source.execute(f"insert into items select 3 * g, 'n' || g from generate_series(1, {LARGE_ROWS}) g")
    deploy.source.execute("create publication p for table items where (id > 30 or id = 3)")
    deploy.add("shop", apply_tables={"public.items": {"apply_delete": "soft"}})
    deploy.start()
    wait_for("the copy", lambda: [state.phase for state in deploy.states("shop").values()] == [Phase.READY], 180)
    deploy.caught_up("shop")
    deploy.source.execute("delete from items where id = 3000")
    wait_for("the delete", lambda: at_target(deploy, "SELECT 1 FROM {schema}.ITEMS WHERE _ETL_DELETED") == [(1,)])
    sides: list[Counted] = []

    def compared(source: Any, target: Any, ranges: Any) -> Any:
        sides[:] = Counted(source), Counted(target)
        return comparing.compare(*sides, ranges)

    monkeypatch.setattr(check, "compare", compared)
    (verdict,) = inside(deploy)
    assert (verdict.equal, verdict.source_rows) == (True, LARGE_ROWS - 10)
    assert [side.rows_read for side in sides] == [LARGE_ROWS - 10] * 2
    at_target(deploy, f"UPDATE {{schema}}.ITEMS SET NOTE = 'changed' WHERE ID = {LARGE_ROWS}")
    at_target(deploy, f"DELETE FROM {{schema}}.ITEMS WHERE ID = {3 * LARGE_ROWS}")
    at_target(deploy, f"INSERT INTO {{schema}}.ITEMS (ID, NOTE) VALUES ({10**18}, 'new')")
    (verdict,) = inside(deploy)
    changed = ((str(LARGE_ROWS),),), ((str(3 * LARGE_ROWS),),), ((str(10**18),),)
    assert (verdict.different_keys, verdict.missing_keys, verdict.extra_keys) == changed
    again = [side.rows_read - (LARGE_ROWS - 10) for side in sides]
    print(f"read again of {LARGE_ROWS} rows: {again}")  # noqa: T201 - the numbers of docs/verify.md
    assert all(0 < rows <= 3 * (LARGE_ROWS // COUNT_MAX + 2) for rows in again)
    assert deploy.stop() == 0


def test_a_workload_raises_no_false_alarm(deploy: Deployment) -> None:
    items(deploy)
    started(deploy, 1)
    points: list[int] = []
    with working(deploy):
        for _ in range(20):
            (verdict,) = inside(deploy)
            assert verdict.equal, verdict
            points.append(verdict.lsn)
    assert points == sorted(set(points))
    assert deploy.stop() == 0


TYPES = """
create type colour as enum ('red', 'blue');
create table kinds (id int, at timestamptz, primary key (id, at), b boolean, s smallint, l bigint, f real, d double precision,
    n numeric(12, 3), free numeric, t text, c char(4), v varchar, y bytea, day date, m timestamp, u uuid, j json, jb jsonb, e colour, a int[]);
insert into kinds values
    (1, '2024-02-03 04:05:06.070809+02', true, 1, 1::bigint << 40, 1.1, 0.1, 1.5, 1e-30, E'a\n"b', 'x', '', '\\xab01', '0044-03-15',
     '1969-12-31 23:59:59.5', gen_random_uuid(), '{"b": 1.0, "a": [null, "x"]}', '{"b": 100, "a": {"z": 1e3}}', 'red', '{1,null}'),
    (2, 'infinity', false, -1, -1, 'NaN', '-Infinity', 'NaN', 'NaN', E'\\N', '', 'NULL', '', 'infinity', '0044-03-15 BC', null,
     '{"a": 1, "a": 2}', 'null', 'blue', '{}'),
    (3, '2024-01-01', null, null, null, '-0', 1e23, null, null, null, null, null, null, null, '-infinity', null, null, null, null, null),
    (4, '2024-01-01', null, 0, 0, 1e-40, 5e-324, 0, 0, repeat('long', 5000), 'ab', ' ', '\\x00', '9999-12-31', '9999-12-31 23:59:59.999999',
     null, '"1e400"', '123456789012345678901234567890123456789012', 'red', '{3}')
"""


def test_every_kind_of_table_and_value_is_compared_and_a_change_in_each_is_found(deploy: Deployment) -> None:
    deploy.source.execute(TYPES)
    deploy.source.execute("create table soft (id int primary key, note text)")
    deploy.source.execute("create table heap (a int, b text)")
    deploy.source.execute("alter table heap replica identity full")
    deploy.source.execute("create table log (id int primary key, note text)")
    deploy.source.execute("create table secret (id int primary key, mail text, card text, pin text, born date)")
    deploy.source.execute("create table parts (id int primary key, note text) partition by range (id)")
    deploy.source.execute("create table parts_1 partition of parts for values from (0) to (50)")
    deploy.source.execute("create table parts_2 partition of parts for values from (50) to (1000)")
    for table in ("soft", "log", "parts"):
        deploy.source.execute(f"insert into {table} select g, 'n' || g from generate_series(1, 100) g")
    deploy.source.execute("insert into heap select g % 10, 'same' from generate_series(1, 100) g")
    deploy.source.execute(
        "insert into secret select g, 'm' || g, 'c', '1', '2000-01-01' from generate_series(1, 100) g"
    )
    deploy.source.execute(
        "create publication p for table kinds, soft, heap, log where (id > 20), secret, parts with (publish_via_partition_root)"
    )
    deploy.environment["MASKING_SECRET"] = MASKING_SECRET
    deploy.settings = settings_of(deploy.folder, deploy.environment)
    masks = {"mail": "hash", "card": "exclude", "pin": {"constant": "-"}, "born": "null"}
    deploy.add(
        "shop",
        columns={"public.secret": masks},
        apply_tables={
            "public.soft": {"apply_delete": "soft"},
            "public.log": {"apply": "append"},
        },
    )
    deploy.start()
    deploy.ready("shop", 6)
    deploy.source.execute("delete from soft where id < 10; update soft set note = 'u' where id < 20")
    deploy.source.execute(
        "delete from heap where a = 3; insert into heap values (1, 'same'), (null, null), (null, null)"
    )
    deploy.source.execute("update log set note = 'u' where id < 30; delete from log where id > 95")
    deploy.source.execute("update secret set mail = 'm' where id < 30; update parts set note = 'u' where id % 2 = 0")
    deploy.source.execute("update kinds set t = t || 'x', d = d + 1; update kinds set s = 5")
    wait_for("the changes", lambda: at_target(deploy, "SELECT COUNT(*) FROM {schema}.KINDS WHERE S = 5") == [(4,)])
    wait_for("the changes", lambda: at_target(deploy, "SELECT COUNT(*) FROM {schema}.HEAP") == [(93,)])
    parts = "SELECT COUNT(*) FROM {schema}.PARTS WHERE NOTE = 'u'"
    wait_for("the changes", lambda: at_target(deploy, parts) == [(50,)])
    found = {verdict.table.name: verdict for verdict in inside(deploy)}
    assert sorted(found) == ["heap", "kinds", "log", "parts", "secret", "soft"]
    for verdict in found.values():
        assert verdict.equal, verdict
    assert found["soft"].target_rows == 91
    assert found["heap"].target_rows == 93
    at_target(deploy, "UPDATE {schema}.KINDS SET D = 7 WHERE ID = 1")
    at_target(deploy, "UPDATE {schema}.KINDS SET JB = PARSE_JSON('1') WHERE ID = 2")
    at_target(deploy, "UPDATE {schema}.SOFT SET _ETL_DELETED = TRUE WHERE ID = 50")
    at_target(deploy, "DELETE FROM {schema}.HEAP WHERE A = 1 AND _ETL_COPY = 2")
    at_target(deploy, "UPDATE {schema}.SECRET SET MAIL = 'plain' WHERE ID = 60")
    at_target(deploy, "UPDATE {schema}.PARTS SET NOTE = NULL WHERE ID = 70")
    found = {verdict.table.name: verdict for verdict in inside(deploy)}
    assert [key[0] for key in found["kinds"].different_keys] == ["1", "2"]
    assert found["soft"].missing_keys == (("50",),)
    assert (found["heap"].missing, found["heap"].missing_keys) == (1, (("1", "same"),))
    assert found["secret"].different_keys == (("60",),)
    assert found["parts"].different_keys == (("70",),)
    assert found["log"].equal
    assert deploy.stop() == 0


def test_it_goes_on_by_itself_and_tells_up_to_where_it_was_equal(deploy: Deployment) -> None:
    items(deploy)
    started(deploy, 1)
    metric = 'etl_verified_through_lsn{pipeline="shop",table="public.items"} '
    address = deploy.environment["METRICS_ADDR"]

    def told() -> list[float]:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return [float(line.removeprefix(metric)) for line in lines if line.startswith(metric)]

    def noted() -> int:
        with contextlib.closing(open_store(deploy.settings)) as store:
            (spec,) = arrange(load(deploy.settings).specs, store)
            (found,) = store.verified(spec.source.name, "shop").values()
        return found.lsn

    words = ["verify", "shop", "--continuous", "--interval", "1", "--json"]
    command = [sys.executable, "-m", "etl_supervisor.cli.main", *words]
    with subprocess.Popen(command, env=deploy.environment, cwd=deploy.folder, stdout=subprocess.PIPE) as verifying:

        def turns(*, equal: bool) -> list[int]:
            """The LSNs of verdicts up to the first that says so."""
            assert verifying.stdout is not None
            points: list[int] = []
            while True:
                found = orjson.loads(verifying.stdout.readline())
                points.append(lsn.parse(found["lsn"]))
                if found["equal"] is equal:
                    return points

        try:
            points = turns(equal=True) + turns(equal=True)
            at_target(deploy, "UPDATE {schema}.ITEMS SET NOTE = 'changed' WHERE ID = 7")
            points += turns(equal=False)
            (point,) = turns(equal=False)
            assert points == sorted(set(points))
            assert point > points[-1] > noted() == points[-2]
            wait_for("the metric", lambda: told() == [float(points[-2])])
            at_target(deploy, "UPDATE {schema}.ITEMS SET NOTE = 'n7' WHERE ID = 7")
            point = turns(equal=True)[-1]
            wait_for("the metric", lambda: told()[0] >= point > points[-1])
        finally:
            verifying.terminate()
    assert deploy.stop() == 0
