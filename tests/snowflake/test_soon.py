"""Rows that are wanted soon: a flush is waited for, and statuses are asked of Snowflake itself."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pyarrow as pa
import pytest

from etl_supervisor.embedded.snowflake.launch import LocalSnowflake
from etl_supervisor.model.pipeline import Destination
from tests.support.fix_deployment import Deployment, wait_for
from tests.support.fix_local_snowflake import sql_session
from workers.snowflake.identifiers import Objects
from workers.snowflake.inquiry import Inquiries, InquiryError, Pipe
from workers.snowflake.streaming import StreamingChannel, StreamingClient

STATUS = "bulk-channel-status"


@pytest.fixture
def channel(destination: Destination, local_snowflake: LocalSnowflake) -> Iterator[StreamingChannel]:
    with sql_session(destination) as session, session.cursor() as cursor:
        cursor.execute(
            f'CREATE TABLE "{destination.database}"."{destination.landing_schema}"."LANDING_T" ("ID" NUMBER(19,0))'
        )
    objects = Objects(destination.database, destination.schema, destination.landing_schema, "T", "LANDING_T")
    local_snowflake.set(counting=True)
    opened = StreamingChannel(
        StreamingClient(destination, objects, f"one-{time.time_ns()}", lambda secret: "", Path()), "c"
    )
    yield opened
    opened.close(flush=False)


def asking(server: LocalSnowflake) -> int:
    return int(server.state()["requests"].get(f"POST {STATUS}", 0))


def append(channel: StreamingChannel, number: int) -> str:
    channel.append(pa.py_buffer(b'{"ID":%d}\n' % number), 1, f"T{number:08d}", f"T{number:08d}")
    return f"T{number:08d}"


def test_a_flush_that_is_waited_for_is_accepted(channel: StreamingChannel, local_snowflake: LocalSnowflake) -> None:
    append(channel, 1)
    assert channel.flush()
    assert local_snowflake.state()["requests"]["POST rows"] >= 1
    local_snowflake.set(faults=[{"path": "/rows$", "count": 1, "delay_s": 3}])
    append(channel, 2)
    assert not channel.flush(), "not yet: it goes on by itself"
    wait_for("the rows", lambda: (channel.status().committed or "") == "T00000002", 20)


def test_a_status_is_as_new_as_snowflakes(channel: StreamingChannel, local_snowflake: LocalSnowflake) -> None:
    inquiries = Inquiries(lambda secret: "", Path())
    took = []
    for number in range(1, 6):
        token = append(channel, number)
        assert channel.flush()
        started = time.monotonic()
        wait_for("the token", lambda t=token: channel.status(inquiries).committed == t, 20)  # type: ignore[misc]
        took.append(time.monotonic() - started)
    assert median(took) < 0.8, "the SDK's cache is a second old"
    before = asking(local_snowflake)
    assert channel.status(inquiries) == channel.status(inquiries)
    assert asking(local_snowflake) == before + 2, "a question is one request"


def test_without_an_answer_the_sdk_is_asked(
    channel: StreamingChannel, destination: Destination, local_snowflake: LocalSnowflake
) -> None:
    inquiries = Inquiries(lambda secret: "", Path())
    local_snowflake.set(faults=[{"path": "oauth/token", "count": 1, "status": 401}])
    token = append(channel, 1)
    wait_for("the row", lambda: channel.status(inquiries).committed == token, 20)
    pipe = Pipe(destination.database, destination.landing_schema, "LANDING_T-STREAMING")
    with pytest.raises(InquiryError, match=r"^not asked: it failed a moment ago$"):
        inquiries.ask(destination, pipe, ["c"])


@pytest.mark.slow
def test_a_pipeline_that_fills_shortly_has_its_rows_soon(deploy: Deployment) -> None:
    deploy.source.execute("create table t (id int primary key); create publication p for table t")
    deploy.add("soon", batch_max_fill_ms=20)
    deploy.server.set(counting=True)
    deploy.start()
    deploy.ready("soon")
    deploy.source.execute("insert into t values (0)")
    deploy.caught_up("soon")
    rows, flushed = 5, deploy.server.state()["requests"]["POST rows"]
    for number in range(1, rows + 1):
        deploy.source.execute("insert into t values (%s)", number)
        wait_for(f"row {number}", lambda n=number: deploy.server.state()["requests"]["POST rows"] >= flushed + n, 5)  # type: ignore[misc]
    deploy.caught_up("soon")
    assert deploy.server.state()["violations"] == []
