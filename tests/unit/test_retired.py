"""Handles that get no more rows, over real mailboxes: whatever their actor answers, and in whichever order."""

from __future__ import annotations

import selectors
import time
from dataclasses import replace

import pytest

from etl_supervisor.errors import Kind
from etl_supervisor.ipc import mailbox
from etl_supervisor.ipc.messages import Failed, TableClosed, ToPublisher
from etl_supervisor.model.pipeline import Destination
from tests.support.histories import opening
from workers.reader.frontier import Frontier
from workers.reader.publisher import Publisher
from workers.reader.retired import Retired

SECONDS_MAX = 5.0
FAILED = Failed(1, "append", Kind.CHANNEL, "a table", "broken", "", True)
CLOSED = TableClosed(1)
TABLE = (1, 16384)
NOWHERE = Destination(
    1, "none", "snowflake", "A", "U", "D", "S", None, None, "", None, None, landing_schema="L", apply_interval_seconds=1
)


def answers_taken(answers: list[ToPublisher], *, keep: bool) -> tuple[Publisher, Frontier, Retired]:
    """A handle with a segment under way is retired, and its actor answers all this at once."""
    listener, selector = mailbox.listen(), selectors.DefaultSelector()
    publisher, frontier = Publisher("reader-test", 1, [mailbox.address(listener)], 4 << 20, selector), Frontier(100)
    publisher.connect()
    publisher.open(opening(NOWHERE))
    frontier.sealed(200, [(1, 1)])
    retired = Retired(publisher, frontier)
    retired.add(1, TABLE, keep=keep)
    actor = mailbox.accept(listener)
    assert actor is not None
    for answer in answers:
        actor.send(answer)
    taken, deadline = 0, time.monotonic() + SECONDS_MAX
    while 1 in retired:
        assert time.monotonic() < deadline
        for key, _ in selector.select(1):
            for message in publisher.ready(key.fileobj):
                taken += 1
                retired.received(1, message)
    assert taken
    publisher.stop()
    actor.close()
    listener.close()
    selector.close()
    return publisher, frontier, retired


@pytest.mark.parametrize("answers", [[FAILED, CLOSED], [CLOSED, FAILED], [FAILED], [CLOSED]])
def test_a_handle_that_is_dropped_is_forgotten_whatever_its_actor_answers_at_once(answers: list[ToPublisher]) -> None:
    _, frontier, retired = answers_taken(answers, keep=False)
    assert 1 not in retired
    assert frontier.durable == 200, "its rows need not become durable"


def test_a_handle_that_fails_while_its_rows_must_be_kept_holds_the_source() -> None:
    _, frontier, _ = answers_taken([FAILED, CLOSED], keep=True)
    assert frontier.durable == 100


def test_what_is_kept_of_a_table_is_let_go_when_the_table_begins_anew() -> None:
    publisher, frontier, retired = answers_taken([FAILED], keep=True)
    publisher.open(replace(opening(NOWHERE), handle=2), held=True)
    frontier.hold(2)
    retired.add(2, TABLE, keep=True)  # held, and held again with another shape
    assert frontier.durable == 100
    publisher.open(replace(opening(NOWHERE), handle=3), held=True)
    retired.add(3, (1, TABLE[1] + 1), keep=False)
    assert frontier.durable == 100, "another table's new beginning is no reason"
    publisher.open(replace(opening(NOWHERE), handle=4), held=True)
    retired.add(4, TABLE, keep=False)
    assert frontier.durable == 200
