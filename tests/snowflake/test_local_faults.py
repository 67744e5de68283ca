"""The local Snowflake's counting mode and its faults, by the real SDK."""

from __future__ import annotations

import contextlib
import http.client
import ssl
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from etl_supervisor.embedded.snowflake.channels import Piece
from etl_supervisor.embedded.snowflake.counting import rows_in, violation
from etl_supervisor.embedded.snowflake.launch import LocalSnowflake
from etl_supervisor.model.pipeline import Destination
from tests.support.fix_deployment import wait_for
from tests.support.fix_local_snowflake import sql_session
from workers.snowflake.failure import Directive, Saturated, explain
from workers.snowflake.held import HELD_BYTES_MAX
from workers.snowflake.identifiers import Objects
from workers.snowflake.streaming import StreamingChannel, StreamingClient

ROWS = ".*/rows$"


@pytest.fixture
def destination(all_powerful: Destination) -> Destination:
    return all_powerful  # the server is asked, not the product


@pytest.fixture
def objects(destination: Destination) -> Objects:
    with sql_session(destination) as session, session.cursor() as cursor:
        cursor.execute(f'CREATE TABLE "{destination.database}"."PUBLIC"."LANDING_T" ("ID" NUMBER(19,0), "S" VARCHAR)')
    return Objects(destination.database, "PUBLIC", "PUBLIC", "T", "LANDING_T")


@contextlib.contextmanager
def channel_in(destination: Destination, objects: Objects) -> Iterator[StreamingChannel]:
    channel = StreamingChannel(
        StreamingClient(destination, objects, f"one-{time.time_ns()}", lambda secret: "", Path()), "c"
    )
    try:
        yield channel
    finally:
        with contextlib.suppress(Exception):  # a channel that a fault has killed
            channel.close(flush=False)


def append(channel: StreamingChannel, first: int, count: int, note: str = "x") -> str:
    data = "".join(f'{{"ID":{number},"S":"{note}"}}\n' for number in range(first, first + count)).encode()
    channel.append(pa.py_buffer(data), count, f"T{first:08d}", f"T{first + count - 1:08d}")
    return f"T{first + count - 1:08d}"


def committed(channel: StreamingChannel, token: str) -> None:
    wait_for(f"token {token}", lambda: (channel.status().committed or "") >= token, 20)


def rows(destination: Destination, objects: Objects) -> int:
    with sql_session(destination) as session, session.cursor() as cursor:
        return int(cursor.execute(f"SELECT COUNT(*) FROM {objects.landing_sql}").fetchone()[0])


def counted(server: LocalSnowflake, objects: Objects) -> int:
    return sum(c["rows_inserted"] for key, c in server.state()["channels"].items() if objects.database in key)


def test_the_counting_mode_counts_small_flushes_and_files_and_stores_nothing(
    destination: Destination, objects: Objects, local_snowflake: LocalSnowflake
) -> None:
    local_snowflake.set(counting=True)
    with channel_in(destination, objects) as channel:
        committed(channel, append(channel, 0, 10))
        committed(channel, append(channel, 10, 20_000, "y" * 300))
        assert counted(local_snowflake, objects) == 20_010
    assert local_snowflake.state()["violations"] == []
    assert rows(destination, objects) == 0


def test_the_counting_mode_refuses_what_was_there_before(
    destination: Destination, objects: Objects, local_snowflake: LocalSnowflake
) -> None:
    local_snowflake.set(counting=True)
    with channel_in(destination, objects) as channel:
        committed(channel, append(channel, 0, 10))
        append(channel, 5, 5)
        wait_for("the violation", lambda: local_snowflake.state()["violations"], 20)
    assert local_snowflake.state()["violations"] == ["c: ends at T00000009, the channel had come to T00000009"]


def piece(first: int, last: int, rows: int | None = None) -> Piece:
    return Piece(b'{"a":"{"}\n\n{"a":1}', f"T{first}", f"T{last}", rows)


@pytest.mark.parametrize(
    ("pieces", "reached", "wrong"),
    [
        ([piece(1, 2), piece(3, 4, 2)], "", None),
        ([piece(1, 2)], "T1", None),
        ([piece(1, 2, 3)], "", "2 rows came, 3 were announced"),
        ([piece(3, 4), piece(1, 2)], "", "ends at T2, the channel had come to T4"),
        ([piece(2, 1)], "", "ends at T1, before its begin T2"),
        ([Piece(b"\n", None, None)], "", "no rows"),
    ],
)
def test_what_the_counting_mode_finds_wrong(pieces: list[Piece], reached: str, wrong: str | None) -> None:
    assert violation(pieces, reached) == wrong
    assert rows_in(b'{"a":"{"}\n\n{"a":1}') == 2


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 429, "headers": {"retry-after": "1"}},
        {"status": 503},
        {"status": 503, "apply": True},
        {"drop": True},
        {"drop": True, "apply": True},
        {"delay_s": 0.5},
    ],
    ids=lambda fault: "-".join(fault),
)
def test_rows_arrive_once_whatever_answer_is_lost(
    destination: Destination, objects: Objects, local_snowflake: LocalSnowflake, fault: dict[str, Any]
) -> None:
    local_snowflake.set(counting=True)
    with channel_in(destination, objects) as channel:
        local_snowflake.set(faults=[{"path": ROWS, "count": 1, **fault}])
        committed(channel, append(channel, 0, 10))
        assert counted(local_snowflake, objects) == 10
    assert local_snowflake.state()["violations"] == []


def test_an_open_waits_for_rows_that_are_not_committed_yet(
    destination: Destination, objects: Objects, local_snowflake: LocalSnowflake
) -> None:
    local_snowflake.set(commit_delay_s=1.5)
    with channel_in(destination, objects) as first:
        token = append(first, 0, 3)
        wait_for("rows to be pending", lambda: any(c["pending"] for c in local_snowflake.state()["channels"].values()))
    with channel_in(destination, objects) as second:
        assert second.opened.committed == token, "409 ERR_CHANNEL_HAS_UNCOMMITTED_DATA until then"


def test_a_dropped_connection_has_no_answer(local_snowflake: LocalSnowflake) -> None:
    local_snowflake.set(faults=[{"path": "hostname", "count": 1, "drop": True}])
    context = ssl.create_default_context(cafile=str(local_snowflake.bundle_file))
    url = f"https://{local_snowflake.host}/v2/streaming/hostname"
    with pytest.raises(http.client.IncompleteRead), urllib.request.urlopen(url, context=context, timeout=10) as answer:
        answer.read()


def test_a_channel_takes_only_so_much_while_nothing_is_sent_and_then_goes_on(
    destination: Destination, objects: Objects, local_snowflake: LocalSnowflake
) -> None:
    note, half = "y" * 4096, HELD_BYTES_MAX // 2 // 4096
    with channel_in(destination, objects) as channel:
        local_snowflake.set(blackhole=True)
        append(channel, 0, half, note)
        with pytest.raises(Saturated) as refused:
            append(channel, half, half, note)
        assert explain(refused.value, "").directive is Directive.AGAIN
        local_snowflake.set(blackhole=False)
        wait_for("what was held to be sent", channel.flush, 20)
        committed(channel, append(channel, half, half, note))
    assert rows(destination, objects) == 2 * half
