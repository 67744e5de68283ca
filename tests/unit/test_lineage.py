"""After a promotion: no row is read until every channel is known to be of the present history."""

from __future__ import annotations

import pytest

from etl_supervisor.errors import Kind
from etl_supervisor.ipc.messages import Failed, TableOpened
from etl_supervisor.model.position import Position
from workers.reader.lineage import Lineage

FORK = 0x2000


def opened(handle: int, commit_lsn: int | None) -> TableOpened:
    token = None if commit_lsn is None else Position(7, commit_lsn, commit_lsn, 0).token
    return TableOpened(handle, 1, None, token, 0, 0)


def test_without_a_promotion_nothing_is_waited_for() -> None:
    assert Lineage(0, [1, 2]).proven


def test_every_channel_is_looked_at_once() -> None:
    lineage = Lineage(FORK, [1, 2])
    assert lineage.received(opened(1, FORK - 1)) is None
    assert not lineage.proven
    assert lineage.received(opened(1, FORK + 1)) is None  # its rows of the new history, opened again
    assert lineage.received(opened(2, None)) is None
    assert lineage.proven


def test_a_row_landed_beyond_the_fork_is_of_the_history_that_was_lost() -> None:
    expected = "rows up to 0/2000 were landed, but the server's history forked at 0/2000"
    assert Lineage(FORK, [1]).received(opened(1, FORK)) == expected


@pytest.mark.parametrize(("kind", "proven"), [(Kind.SCHEMA, True), (Kind.DESTINATION_UNREACHABLE, False)])
def test_a_table_with_trouble_of_its_own_is_not_waited_for_an_outage_is(kind: Kind, proven: bool) -> None:
    lineage = Lineage(FORK, [1])
    assert lineage.received(Failed(1, "open", kind, "", "", "", True)) is None
    assert lineage.proven is proven
