"""What a copy worker says when it can't begin."""

from __future__ import annotations

from pathlib import Path

import pytest

from etl_supervisor.config.settings import load
from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.exits import Exit, code_of
from etl_supervisor.ipc import mailbox
from etl_supervisor.ipc.heartbeat import HeartbeatPage
from etl_supervisor.ipc.messages import CopyWanted
from etl_supervisor.model.pipeline import Pipeline, PipelineStatus, SourceSpec
from etl_supervisor.supervision.spawn import ChildContext
from tests.support import least
from tests.support.fix_deployment import SECRET_KEY
from tests.support.fix_postgres import Database
from tests.support.streaming import source_of
from tests.unit.test_follower import DESTINATION
from workers.reader import copy

PIPELINE = Pipeline(1, "shop", 1, DESTINATION, PipelineStatus.START, 1, 1, 1, 1, 1)


def test_a_copy_that_begins_when_the_state_store_has_just_lost_everything_is_tried_again(
    database: Database, redis_url: str, tmp_path: Path
) -> None:
    database.execute("create table items (id int primary key)")
    settings = load(
        tmp_path, {"DATABASE_URL": least.config_role(database), "REDIS_URL": redis_url, "SECRET_KEY": SECRET_KEY}
    )
    source, _ = source_of(database)
    wanted = CopyWanted(source.stream, PIPELINE.id, "public", "items", 1, epoch=1)
    ours, theirs = mailbox.pair()
    page = HeartbeatPage()
    spec = SourceSpec(source, (PIPELINE,))
    context = ChildContext("copy", 0, 1, theirs, page.allot(), page.parent, settings, None, -1, (), spec, (wanted,))
    try:
        with pytest.raises(EtlError) as told:
            copy.main(context)
    finally:
        ours.close()
        theirs.close()
    assert told.value.line == (
        f"state_store at source {source.stream}: the state store was emptied while a copy began"
        " (the reader writes it again, then the copy begins again by itself)"
    )
    assert told.value.kind is Kind.STATE_STORE
    assert told.value.transient
    assert code_of(told.value.kind) is Exit.UNREACHABLE
