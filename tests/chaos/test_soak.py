"""The soak in short: rows and tables change under a seeded stream of faults, and afterwards nothing is lost, doubled or left over."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import psycopg
import pytest
from psycopg.pq import TransactionStatus

from etl_supervisor.failpoints import NAMES
from tests.support.fix_deployment import wait_for
from tests.support.fix_postgres import Database
from tests.support.soak import faults
from tests.support.soak.faults import STRIKES, NobodyError, strike
from tests.support.soak.markers import Markers
from tests.support.soak.plan import ELSEWHERE, KINDS, Fault, bursts, failpoints
from tests.support.soak.run import Recovery, Soak
from tests.support.soak.verdict import Verdict, crashed, ended, judge
from tests.support.soak.workload import (
    ACTS,
    BIG_BYTES,
    LITTLE_MEMORY,
    ROLLBACK,
    SPOOLED,
    SPOOLED_ROWS,
    STREAMED,
    TRANSACTIONS,
    Connection,
    prepare,
    transact,
)
from tests.support.soak.world import SETTINGS, World, fresh_world

ROOT = Path(__file__).parents[2]
SEED = 20261121
MINUTES = 1.5
FAULTS_MIN = 5  # in a minute and a half, on a machine that is busy with other tests


def test_every_fault_that_can_be_planned_can_be_struck() -> None:
    assert set(KINDS) == set(STRIKES)


def test_a_seed_decides_faults_and_failpoints() -> None:
    def first(seed: int) -> list[str]:
        return [str(fault) for burst in itertools.islice(bursts(seed), 300) for fault in burst]

    assert list(itertools.islice(bursts(7), 50)) == list(itertools.islice(bursts(7), 50))
    assert first(7) != first(8)
    assert set(first(7)) == {f"{kind} {whom}" for kind, (_, all_) in KINDS.items() for whom in all_}
    armed = {item.partition("=")[0] for start in range(100) for item in failpoints(7, start).split(",")}
    assert armed == NAMES.keys() - ELSEWHERE.keys()


def test_failpoints_that_the_soak_does_not_come_by_have_tests_and_the_page_lists_them() -> None:
    for name, path in ELSEWHERE.items():
        text = (ROOT / path).read_text()
        assert name in text or f"{name.partition('.')[0]}.{{place}}" in text, (name, path)
    page = (ROOT / "docs/soak.md").read_text()
    listed = re.findall(r"^\| ((?:`[a-z_.]+`(?:, )?)+) \| `(tests/\S+)` \|$", page, re.MULTILINE)
    assert {name: path for names, path in listed for name in re.findall(r"`(.+?)`", names)} == ELSEWHERE


class Recorder:
    """A connection that only writes down what it is told; there is nothing in its database."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def execute(self, query: object, parameters: object = ()) -> Any:
        self.told.append((str(query), parameters))
        return SimpleNamespace(rowcount=1, fetchall=list)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        self.told.append("savepoint")
        with contextlib.suppress(psycopg.Rollback):
            yield
        self.told.append("its end")


def told(seed: int, name: str, number: int) -> tuple[list[object], bool, Counter[str]]:
    recorder = Recorder()
    keep, acts = transact(seed, name, number, cast(Connection, recorder))
    return recorder.told, keep, acts


def test_a_seed_and_a_number_decide_the_statements_of_a_transaction() -> None:
    for name in TRANSACTIONS:
        first = [told(7, name, number) for number in range(300)]
        assert first == [told(7, name, number) for number in range(300)]
        assert len({str(statements) for statements, _, _ in first}) > 250, "a number is like another"
        assert first != [told(8, name, number) for number in range(300)]


def test_the_workload_contains_everything_that_it_is_there_for() -> None:
    found: Counter[str] = Counter()
    for name, count in (("small", 1500), ("large", 150), ("shape", 100)):  # in ten minutes
        for number in range(count):
            _, keep, acts = told(7, name, number)
            found.update(acts if keep else [ROLLBACK])
    assert set(+found) == set(ACTS) - {STREAMED}
    assert found[SPOOLED] > 5


def test_large_transactions_are_one_each_and_some_are_more_than_a_reader_keeps_in_memory(database: Database) -> None:
    prepare(database)
    assert int(SETTINGS["SPOOL_MEMORY_MB"]) << 20 < SPOOLED_ROWS * BIG_BYTES
    assert int(LITTLE_MEMORY.removesuffix("kB")) << 10 < SPOOLED_ROWS * BIG_BYTES
    with psycopg.connect(database.dsn) as connection:
        for number in range(30):
            keep, acts = transact(7, "large", number, connection)
            assert connection.info.transaction_status == TransactionStatus.INTRANS, "a part of it is committed already"
            if acts[SPOOLED]:
                written = "select count(*), min(length(big)) from items where note = 'spooled' and xmin = %s::xid8::xid"
                (now,) = connection.execute("select pg_current_xact_id()::text").fetchall()
                assert connection.execute(written, now).fetchall() == [(SPOOLED_ROWS, BIG_BYTES)]
                return
            (connection.commit if keep else connection.rollback)()
    pytest.fail("none in thirty")


def test_children_that_crash_and_supervisors_that_end_by_themselves_are_told() -> None:
    log = (
        '{"event":"child_failed","process":"copy-1-shop","kind":"state_store"}\n'
        "not JSON\n"
        '{"event":"child_crashed","process":"copy-1-shop","exception":"Traceback:\\n  File x\\nAssertionError"}\n'
        '{"event":"parent_gone","process":"monitor"}\n'
    )
    assert crashed(log) == ["copy-1-shop crashed: AssertionError"]
    faults = Counter({"kill supervisor": 1, "failpoint supervisor.after_reap": 1, "restart supervisor": 2})
    assert ended(Counter({0: 2, -9: 2}), faults) == []
    assert ended(Counter({0: 1, 1: 1, -9: 2}), faults) == [], "told to stop twice"
    assert ended(Counter({0: 2, 1: 2, 70: 1, -9: 3, -11: 1}), faults) == [
        "1 supervisors ended with -11, which nobody asked for",
        "1 supervisors ended with -9, which nobody asked for",
        "1 supervisors ended with 1, which nobody asked for",
        "1 supervisors ended with 70, which nobody asked for",
    ]


def test_each_list_of_the_verdict_fails_it() -> None:
    assert Verdict().good
    for bad in ("differences", "leftovers", "crashes", "absent"):
        assert not Verdict(**{bad: ["a line"]}).good
    assert not Verdict(rows_doubled=1).good


def test_goals_that_are_missed_are_told() -> None:
    def missed(minutes: float, faults: int, *recoveries: Recovery) -> list[str]:
        world = SimpleNamespace(landed=Counter)
        soak = Soak(cast(Any, world), print, struck=Counter({"kill actor": faults}), recoveries=list(recoveries))
        return soak.goals_missed(minutes)

    quick, slow = Recovery(("kill actor",), 4.0, cooled=False), Recovery(("kill actor", "cut store"), 6.0, cooled=False)
    assert missed(15, 200, quick) == []
    assert missed(5, 10, quick, Recovery(("kill actor",), 33.0, cooled=True)) == []
    assert missed(15, 199, quick, slow, slow) == [
        "95 % of the recoveries took up to 6 s; the goal is 5 s",
        "199 faults in 15 minutes; the goal is 200",
    ]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_nothing_is_lost_doubled_or_left_over_whatever_fails() -> None:
    with fresh_world(SEED) as world:
        soak = Soak(world, print)
        verdict = soak.run(MINUTES)
        report = soak.report(MINUTES, verdict)
        assert verdict.good, f"make soak MINUTES={MINUTES} SEED={SEED}: {report}\n{world.deployment.log[-3000:]}"
    assert report["faults"] >= FAULTS_MIN, report
    assert report["workload"][STREAMED], report
    assert sum(len(one["faults"]) for one in report["recoveries"]) <= report["faults"]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_room_is_really_short_where_a_fault_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with fresh_world(SEED) as world:
        world.start_supervisor(armed=False)
        markers = Markers(world)
        arrived(markers)
        for target, choice in (
            ("memory", 0.9),
            ("spill", 0.1),
        ):  # of depot, of shop; more in a row would open a breaker
            striking = strike(world, Fault("full", target, choice, 0.3))
            next(striking)
            next(striking, None)
            arrived(markers)
        assert "source shop" in refusals(world)
        monkeypatch.setattr(faults, "REACH_SECONDS_MAX", 3.0)
        world.proxies["source"].refusing = True
        for target in faults.TIGHT:
            with pytest.raises(NobodyError):
                next(strike(world, Fault("full", target, 0.1, 0.3)))
        world.heal()
        arrived(markers)
        markers.close()
        verdict = judge(world, Counter())
        assert verdict.good, verdict


def arrived(markers: Markers) -> None:
    """A marker that is written now, in both targets."""
    marker = markers.write()
    wait_for("a marker", lambda: marker in markers.look(), 120)


def refusals(world: World) -> set[str]:
    """Sources whose reader had no room for a transaction in progress."""
    return {line["place"] for line in world.deployment.events("child_failed") if line["kind"] == "spool"}
