"""Which states of tables Snowflake is asked to keep by one statement."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from etl_supervisor.ipc.messages import Keep
from etl_supervisor.model.pipeline import Destination
from etl_supervisor.model.table import TableName
from workers.snowflake.memory import CHARACTERS_PER_STATEMENT, TABLES_PER_MESSAGE, Asked, together

DESTINATION = Destination(1, "d", "snowflake", "A", "U", "DB", "S", None, None, "k", None, None, "L", 5.0)


def asked(number: int, state: str = "{}", destination: Destination = DESTINATION) -> Asked:
    return Keep(number, "pipe", 1, destination, TableName("public", f"t{number}"), state), _nobody


def _nobody(_: Any) -> None:
    return


def test_states_go_together_up_to_a_number() -> None:
    waiting = [asked(number) for number in range(TABLES_PER_MESSAGE + 5)]
    assert together(waiting) == (waiting[:TABLES_PER_MESSAGE], waiting[TABLES_PER_MESSAGE:])


def test_a_statement_is_not_longer_than_snowflake_takes() -> None:
    large = "x" * (CHARACTERS_PER_STATEMENT // 2)
    first, second, third = (asked(number, large) for number in range(3))
    assert together([first, second, third]) == ([first, second], [third])
    alone = asked(9, "x" * 2 * CHARACTERS_PER_STATEMENT)
    assert together([alone, first]) == ([alone], [first])


def test_a_table_is_written_once_and_another_destination_waits() -> None:
    first, again = asked(1), asked(1, "later")
    elsewhere = asked(2, destination=replace(DESTINATION, database="OTHER"))
    assert together([first, elsewhere, again, asked(3)])[1] == [elsewhere, again]
