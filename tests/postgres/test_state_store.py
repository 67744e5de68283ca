"""The promise of a state store, kept by Redis and by PostgreSQL alike."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from etl_supervisor.config.settings import load
from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.model.copy_state import CopiedRange, CopyState
from etl_supervisor.model.pipeline import Pipeline, PipelineStatus
from etl_supervisor.model.progress import Progress, SourceReport
from etl_supervisor.model.table import Table, TableName
from etl_supervisor.model.table_state import Phase, TableState
from etl_supervisor.model.verified import Verified
from etl_supervisor.repository.migrations import migrate
from etl_supervisor.state.postgres import PostgresStore
from etl_supervisor.state.redis import RedisStore
from etl_supervisor.state.store import StateStore, Writer
from tests.support import least
from tests.support.fix_postgres import Database
from tests.unit.test_follower import DESTINATION
from workers.reader.stored import StoredTables

PROGRESS = Progress("7300000000000000000", 1, "etl_stream_1", 1_700_000_000, 2**40)
STATE = TableState(TableName("public", 'odd "name: x'), 16_384, 1_700_000_000)
OTHER = TableState(TableName("public", "other"), 16_385, 1_700_000_000)
PIPELINE = Pipeline(1, "p", 1, DESTINATION, PipelineStatus.START, 1, 1, 1, 1, 1)


@pytest.fixture(params=["redis", "postgres"])
def store(request: pytest.FixtureRequest, database: Database, redis_url: str, tmp_path) -> Iterator[StateStore]:
    if request.param == "redis":
        made: StateStore = RedisStore(redis_url)
    else:
        migrate(load(tmp_path, {"DATABASE_URL": least.config_role(database)}), "etl")
        made = PostgresStore(least.config_role(database))
    yield made
    made.close()


def test_nothing_is_known_of_a_new_source(store: StateStore) -> None:
    assert store.progress("shop") is None
    assert store.report("shop") is None
    assert store.tables("shop", "pipe") == {}


def test_what_was_written_is_read_back(store: StateStore) -> None:
    epoch = store.next_epoch("shop")
    store.save_progress("shop", PROGRESS, epoch)
    assert store.progress("shop") == PROGRESS
    state = STATE.to(Phase.DATASYNC).to(Phase.FINISHEDCOPY, copy_lsn=5, rows_copied=7)
    store.save_table("shop", "pipe", state)
    assert store.tables("shop", "pipe") == {state.table: state}
    report = SourceReport("streaming", 1, 2, 3, 4, 5, 0.5, 6, "", 7.0)
    store.save_report("shop", report)
    assert store.report("shop") == report


def test_a_reader_that_was_followed_by_another_writes_nothing_any_more(store: StateStore) -> None:
    old = Writer("shop", store.next_epoch("shop"))
    store.save_table("shop", "pipe", STATE, old)
    new = Writer("shop", store.next_epoch("shop"))
    for write in (
        lambda: store.save_table("shop", "pipe", replace(STATE, trouble="old"), old),
        lambda: store.save_copy("shop", "pipe", CopyState(STATE.table, STATE.generation), old),
        lambda: store.save_tables("shop", "pipe", [replace(STATE, trouble="old"), OTHER], old),
        lambda: store.save_copies("shop", "pipe", [CopyState(STATE.table, STATE.generation)], old),
    ):
        with pytest.raises(EtlError, match="another reader has taken the source over"):
            write()
    assert store.tables("shop", "pipe") == {STATE.table: STATE}
    assert store.copies("shop", "pipe") == {}
    newer = replace(STATE, trouble="new")
    store.save_tables("shop", "pipe", [newer, OTHER], new)
    assert store.tables("shop", "pipe") == {STATE.table: newer, OTHER.table: OTHER}


def test_a_store_that_was_emptied_gets_its_epoch_back(store: StateStore) -> None:
    store.restore_epoch("shop", 5)
    store.restore_epoch("shop", 7)
    assert store.epoch("shop") == 5
    assert store.next_epoch("shop") > 5


def test_several_tables_are_written_at_once(store: StateStore) -> None:
    states = {name: replace(STATE, table=name, oid=n) for n in range(300) for name in [TableName("it's", f't"{n}')]}
    store.save_tables("shop", "pipe", [replace(state, trouble="older") for state in states.values()])
    store.save_tables("shop", "pipe", list(states.values()))
    assert store.tables("shop", "pipe") == states
    copies = [CopyState(name, STATE.generation, copy_lsn=5) for name in states]
    store.save_copies("shop", "pipe", copies)
    assert store.copies("shop", "pipe") == {copy.table: copy for copy in copies}
    store.save_tables("shop", "pipe", [])
    assert len(store.tables("shop", "pipe")) == len(states)


def test_states_that_are_gathered_are_written_at_the_end_or_when_somebody_needs_them(store: StateStore) -> None:
    stored = StoredTables(store, "shop", [PIPELINE])
    table = Table(STATE.table, STATE.oid, ())
    with stored.gathered():
        stored.save(PIPELINE, STATE)
        assert stored.find(PIPELINE, table) == STATE
        assert store.tables("shop", "p") == {}
        stored.flush()
        assert store.tables("shop", "p") == {STATE.table: STATE}
        later = STATE.to(Phase.DATASYNC)
        stored.save(PIPELINE, later)
    assert store.tables("shop", "p") == {STATE.table: later}
    with contextlib.suppress(KeyError), stored.gathered():
        stored.save(PIPELINE, STATE)
        raise KeyError
    assert store.tables("shop", "p") == {STATE.table: STATE}, "what was decided before the error holds"
    renamed = replace(STATE, table=TableName("public", "renamed"))
    with stored.gathered():
        stored.save(PIPELINE, renamed)
        stored.drop(PIPELINE, STATE.table)
    assert store.tables("shop", "p") == {renamed.table: renamed}
    assert stored.find(PIPELINE, table) == renamed, "the table itself, whatever its name"


def test_copies_are_kept_beside_their_tables_and_forgotten_with_them(store: StateStore) -> None:
    ranges = (CopiedRange(16_384, 16_390, 0, 128, 2**33, 1_000), CopiedRange(16_384, 16_390, 256, 300, 2**33, 7))
    state = CopyState(STATE.table, STATE.generation, form="f", ranges=ranges, pages_total=300, began=1.5)
    other = CopyState(TableName("public", "other"), STATE.generation, copy_lsn=5)
    assert store.copy("shop", "pipe", state.table) is None
    store.save_table("shop", "pipe", STATE)
    for copy in (state, other):
        store.save_copy("shop", "pipe", copy)
    assert store.copy("shop", "pipe", state.table) == state
    assert store.copies("shop", "pipe") == {state.table: state, other.table: other}
    store.drop_table("shop", "pipe", state.table)
    assert store.copies("shop", "pipe") == {other.table: other}
    store.forget("shop")
    assert store.copies("shop", "pipe") == {}


def test_epochs_rise_and_an_older_one_is_refused(store: StateStore) -> None:
    first, second = store.next_epoch("shop"), store.next_epoch("shop")
    assert second > first >= int(time.time()) - 60  # also when the store is lost
    store.save_progress("shop", PROGRESS, second)
    with pytest.raises(EtlError, match="another reader has taken the source over") as caught:
        store.save_progress("shop", replace(PROGRESS, confirmed=1), first)
    assert not caught.value.transient
    assert store.progress("shop") == PROGRESS


def test_sources_and_pipelines_whose_names_look_alike_do_not_meet(store: StateStore) -> None:
    for source, pipeline in (("a", "b:c"), ("a:b", "c"), ("a", "b")):
        store.save_table(source, pipeline, replace(STATE, trouble=f"{source}|{pipeline}"))
    for source, pipeline in (("a", "b:c"), ("a:b", "c"), ("a", "b")):
        (state,) = store.tables(source, pipeline).values()
        assert state.trouble == f"{source}|{pipeline}"


def test_forgetting_a_source_leaves_its_epoch_and_the_others(store: StateStore) -> None:
    epochs = {source: store.next_epoch(source) for source in ("shop", "shop2")}
    for source, epoch in epochs.items():
        store.save_progress(source, PROGRESS, epoch)
        store.save_table(source, "pipe", STATE)
    store.forget("shop")
    assert store.progress("shop") is None
    assert store.tables("shop", "pipe") == {}
    assert store.next_epoch("shop") > epochs["shop"]
    assert store.progress("shop2") == PROGRESS


def test_a_server_that_is_not_there_is_one_transient_line() -> None:
    for gone in (RedisStore("redis://:geheim@127.0.0.1:1/0"), PostgresStore("postgresql://u:geheim@127.0.0.1:1/d")):
        with pytest.raises(EtlError) as caught:
            gone.progress("shop")
        assert (caught.value.kind, caught.value.transient) == (Kind.STATE_STORE, True)
        assert "geheim" not in caught.value.line


def test_a_wrong_redis_password_needs_a_person(redis_url: str) -> None:
    wrong = RedisStore(redis_url.replace("redis://:", "redis://:x"))
    with pytest.raises(EtlError, match=r"^config at Redis: the server refuses the password"):
        wrong.progress("shop")


def test_a_table_that_is_dropped_is_forgotten_and_the_others_stay(store: StateStore) -> None:
    other = replace(STATE, table=TableName("public", "other"), shape='["x"]', shape_at="0-1", began="0-0", storage="{}")
    for state in (STATE, other):
        store.save_table("shop", "pipe", state)
    store.drop_table("shop", "pipe", STATE.table)
    store.drop_table("shop", "pipe", STATE.table)
    assert store.tables("shop", "pipe") == {other.table: other}


def test_requests_to_copy_again_are_kept_until_they_end(store: StateStore) -> None:
    assert store.resyncs("shop", "pipe") == []
    for table in (STATE.table, None, STATE.table):
        store.ask_resync("shop", "pipe", table)
    assert set(store.resyncs("shop", "pipe")) == {STATE.table, None}
    assert store.resyncs("shop", "other") == []
    store.end_resync("shop", "pipe", None)
    store.end_resync("shop", "pipe", None)
    assert store.resyncs("shop", "pipe") == [STATE.table]
    store.forget("shop")
    assert store.resyncs("shop", "pipe") == []


def test_what_was_verified_is_kept_until_its_table_goes(store: StateStore):
    assert store.verified("shop", "pipe") == {}
    for at in (2**40, 2**41):
        found = Verified(STATE.table, at, 1_700_000_000.5, 12)
        store.save_verified("shop", "pipe", found)
        assert store.verified("shop", "pipe") == {STATE.table: found}
    store.drop_table("shop", "pipe", STATE.table)
    assert store.verified("shop", "pipe") == {}
