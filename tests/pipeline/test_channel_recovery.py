"""What the streaming SDK can't recover from by itself: the channel is opened again, and rows after the committed token are sent again."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.fix_deployment import Deployment, wait_for

ROWS = "/(rows|filebuffer)$"


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "fault",
    [
        {"status": 400, "body": {"code": "STALE_CONTINUATION_TOKEN_SEQUENCER", "message": ""}},
        {"status": 404, "body": {"code": "ERR_CHANNEL_MUST_BE_REOPENED", "message": ""}},
        {"status": 410, "body": {"code": "ERR_PIPE_FAILED_OVER", "message": ""}},
        {"status": 410, "apply": True, "body": {"code": "ERR_PIPE_FAILED_OVER", "message": ""}},
    ],
    ids=["channel of another", "channel is gone", "pipe failed over", "failed over, rows taken"],
)
def test_rows_arrive_once_when_channel_or_client_dies(deploy: Deployment, fault: dict[str, Any]) -> None:
    deploy.source.execute("create table t (k serial primary key, v text); create publication p for table t")
    deploy.add("one")
    deploy.start()
    deploy.ready("one")
    deploy.source.execute("insert into t (v) select 'before' from generate_series(1, 50)")
    deploy.caught_up("one")
    opened = deploy.server.state()["requests"]["PUT channels"]
    deploy.server.set(faults=[{"path": ROWS, "count": 1, **fault}])
    deploy.source.execute("insert into t (v) select 'after' from generate_series(1, 50); delete from t where k % 7 = 0")
    wait_for("another channel", lambda: deploy.server.state()["requests"]["PUT channels"] > opened)
    deploy.caught_up("one")
    deploy.same("one", t=("k",))
    assert all(not state.trouble and state.dead == 0 for state in deploy.states("one").values())
