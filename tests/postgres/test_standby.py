"""Reading from a standby, and through a promotion, at the level of the reader's parts."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace

import pytest

from etl_supervisor.errors import EtlError
from tests.support import least
from tests.support.fix_deployment import wait_for
from tests.support.fix_postgres import Database
from tests.support.fix_standby import Pair
from tests.support.streaming import source_of
from workers.reader import source as sources
from workers.reader.heartbeat import Access, connect_primary, nudging
from workers.reader.stream import ReplicationStream

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


def access_of(pair: Pair) -> Access:
    """The standby as a source, with its primary."""
    source, password = source_of(pair.standby)
    ((system,),) = pair.primary.execute("select system_identifier::text from pg_control_system()")
    pair.primary.execute(least.FOR_STANDBYS.format(source.pg_username))
    return Access(source, password, least.url_of(pair.primary, source.pg_username), system)


def test_a_slot_on_a_standby_is_made_with_the_primarys_help(pair: Callable[..., Pair]) -> None:
    servers = pair()
    servers.primary.execute("create publication p for all tables")
    wait_for("the publication", lambda: servers.standby.execute("select * from pg_publication"))
    access = access_of(servers)
    with (
        contextlib.closing(ReplicationStream(access.source, access.password)) as stream,
        least.connect(servers.standby) as c,
    ):
        assert sources.check(c, access.source)
        with nudging(access, lambda: None, standby=True) as tick:
            made = sources.starting_point(c, stream, access.source, None, tick)
        assert made.confirmed > 0
        assert sources.wal_end(c) >= made.confirmed
        assert sources.starting_point(c, stream, access.source, made, lambda: None) == made


def test_a_slot_on_a_standby_that_waits_names_what_for(pair: Callable[..., Pair], monkeypatch) -> None:
    servers = pair()
    monkeypatch.setattr(sources, "SLOT_SECONDS_MAX", 1.0)
    source, password = source_of(servers.standby)
    with (
        contextlib.closing(ReplicationStream(source, password)) as stream,
        least.connect(servers.standby) as connection,
        pytest.raises(EtlError) as caught,
    ):
        sources.starting_point(connection, stream, source, None, lambda: None)
    assert "waits for the primary to log its running transactions" in caught.value.reason
    assert "set primary_url of the source" in caught.value.remedy


def test_a_primary_that_is_none_is_refused(pair: Callable[..., Pair], database: Database) -> None:
    servers = pair()
    access = access_of(servers)
    for url, reason in (
        (servers.standby.url, "it is a standby itself"),
        (database.url, "it is another database cluster"),
    ):
        with pytest.raises(EtlError, match=reason):
            connect_primary(access.source, url, access.system)
    with pytest.raises(EtlError, match="primary_url can't be read") as caught:
        connect_primary(access.source, "postgresql://u:geheim@[::1", access.system)
    assert "geheim" not in caught.value.line
    with pytest.raises(EtlError, match=r"source .*, primary: 127.0.0.1:1 does not answer"):
        connect_primary(access.source, "postgresql://u:geheim@127.0.0.1:1/d", access.system)


def test_a_failover_slot_goes_on_after_a_promotion_from_a_position_that_the_new_history_has(
    pair: Callable[..., Pair],
) -> None:
    servers = pair(sync_slots=True)
    servers.primary.execute("create publication p for all tables")
    source, password = source_of(servers.primary)
    source = replace(source, slot_failover=True)
    with (
        contextlib.closing(ReplicationStream(source, password)) as stream,
        least.connect(servers.primary) as connection,
    ):
        sources.check(connection, source)
        made = sources.starting_point(connection, stream, source, None, lambda: None)
    synced = "select failover and synced and not temporary from pg_replication_slots where slot_name = 'etl_stream_1'"

    def confirm() -> bool:
        """What a reader does; the copy becomes lasting when the slot has passed what the standby can still decode."""
        servers.primary.execute("select pg_log_standby_snapshot()")
        stream.read()
        stream.status(stream.wal_end, stream.wal_end)
        return servers.standby.execute(synced) == [(True,)]

    with contextlib.closing(ReplicationStream(source, password)) as stream:
        stream.start(made.slot, made.confirmed, ["p"])
        wait_for("the slot on the standby", confirm)
        made = made.advanced(max(made.confirmed, stream.wal_end))
    there, password = source_of(servers.standby)
    with (
        contextlib.closing(ReplicationStream(there, password)) as stream,
        least.connect(servers.standby) as connection,
        pytest.raises(EtlError, match="on this standby is a copy of the primary's"),
    ):
        sources.starting_point(connection, stream, there, made, lambda: None)
    servers.promote()
    with contextlib.closing(ReplicationStream(there, password)) as stream, least.connect(servers.standby) as connection:
        going_on = sources.starting_point(connection, stream, there, made, lambda: None)
        assert (going_on.timeline, going_on.confirmed) == (2, made.confirmed)
        assert sources.starting_point(connection, stream, there, going_on, lambda: None) == going_on
        (fork,) = stream.history(2).values()
        with pytest.raises(EtlError, match=r"timeline 2 forked at .*, before our") as caught:
            sources.starting_point(connection, stream, there, replace(made, confirmed=fork + 8), lambda: None)
        assert caught.value.kind == "slot_lost"
        with pytest.raises(EtlError, match="timeline 2 of the server does not come from our timeline 3"):
            sources.starting_point(connection, stream, there, replace(made, timeline=3), lambda: None)
