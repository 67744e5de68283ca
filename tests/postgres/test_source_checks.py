"""What must hold of a source before its stream starts; each fault is one line with its remedy."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

import pytest

from etl_supervisor.embedded.ports import choose_port
from etl_supervisor.embedded.postgres import EmbeddedPostgres
from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.model.progress import Progress
from tests.support.fix_postgres import Database
from tests.support.proxy import Proxy
from tests.support.streaming import source_of
from workers.reader import beginning
from workers.reader import source as sources
from workers.reader.beginning import reach
from workers.reader.stream import ReplicationStream, connect


def refused(database: Database, **changes: object) -> str:
    source, password = source_of(database)
    source = replace(source, **changes)
    with pytest.raises(EtlError) as caught, connect(source, password) as connection:
        sources.check(connection, source)
    assert password not in caught.value.line
    return caught.value.line.replace(source.name, "NAME").replace(f"{source.pg_host}:{source.pg_port}", "PLACE")


def test_wal_level_replica_is_refused(open_folder: Path) -> None:
    with EmbeddedPostgres(open_folder / "postgres", settings={"wal_level": "replica", "fsync": "off"}) as server:
        line = refused(Database(server, "postgres"))
    assert line == (
        "source_setup at source NAME: wal_level is replica (ALTER SYSTEM SET wal_level = logical, then restart PostgreSQL)"
    )


def test_a_missing_publication_is_refused(database: Database) -> None:
    database.execute("create publication p for all tables")
    assert refused(database, publication_name="p, q") == (
        "source_setup at source NAME: publication q does not exist in database NAME"
        " (CREATE PUBLICATION q FOR ALL TABLES, or name existing ones in publication_name)"
    )


def test_a_wrong_user_is_refused(database: Database) -> None:
    assert refused(database, pg_username="somebody").startswith(
        "source_auth at source NAME: PLACE refused user somebody: wrong password or user"
    )


def test_a_missing_database_is_refused(database: Database) -> None:
    assert refused(database, pg_database="nowhere") == (
        "source_setup at source NAME: database nowhere does not exist on PLACE (correct pg_database of the source)"
    )


def test_nobody_there_is_said(database: Database) -> None:
    assert refused(database, pg_port=1).startswith("source_unreachable at source NAME: PLACE does not answer")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"system_identifier": "1"}, "this is another database cluster"),
        ({"confirmed": 1}, "beyond our 0/1"),
    ],
)
def test_a_slot_that_can_not_go_on_is_lost_and_never_moved_silently(
    database: Database, change: dict[str, object], reason: str
) -> None:
    source, password = source_of(database)
    with connect(source, password) as connection:
        stream = ReplicationStream(source, password)
        made = sources.starting_point(connection, stream, source, None, lambda: None)
        assert sources.starting_point(connection, stream, source, made, lambda: None) == made
        wrong: Progress = replace(made, **change)  # type: ignore[arg-type]
        with pytest.raises(EtlError, match=reason) as caught:
            sources.starting_point(connection, stream, source, wrong, lambda: None)
        assert caught.value.kind == "slot_lost"
        stream.close()


def test_a_source_that_is_away_for_a_moment_is_reached_when_it_is_back(database: Database) -> None:
    proxy, ticks = Proxy(("127.0.0.1", database.server.port)), 0
    source, password = source_of(database)
    proxy.refusing = True

    def tick() -> None:
        nonlocal ticks
        ticks += 1
        proxy.refusing = ticks < 3

    with contextlib.closing(proxy), reach(replace(source, pg_port=proxy.port), password, tick) as connection:
        assert connection.execute("select 1").fetchall() == [(1,)]
    assert ticks == 3


@pytest.mark.parametrize(
    ("changes", "kind", "ticked"),
    [({}, Kind.SOURCE_UNREACHABLE, True), ({"pg_username": "nobody"}, Kind.SOURCE_AUTH, False)],
)
def test_only_what_may_pass_is_waited_for_and_not_for_long(
    database: Database, monkeypatch: pytest.MonkeyPatch, changes: dict[str, str], kind: Kind, ticked: bool
) -> None:
    monkeypatch.setattr(beginning, "REACH_SECONDS", 0.5)
    source, password = source_of(database)
    port = database.server.port if changes else choose_port()  # where nobody listens
    ticks: list[None] = []
    with pytest.raises(EtlError) as caught:
        reach(replace(source, pg_port=port, **changes), password, lambda: ticks.append(None))
    assert (caught.value.kind, bool(ticks)) == (kind, ticked)
