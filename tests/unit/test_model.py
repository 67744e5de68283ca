"""Positions, tokens, LSNs, names, table states."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl_supervisor.model import lsn, names
from etl_supervisor.model.position import TOKEN_LENGTH, Position
from etl_supervisor.model.table import TableName
from etl_supervisor.model.table_state import TRANSITIONS, Phase, TableState

U32, U64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
POSITIONS = st.builds(Position, U32, U64, U64, U32)


@given(POSITIONS, POSITIONS)
def test_the_order_of_tokens_is_the_order_of_positions(one, other):
    assert (one.token < other.token) == (one < other)


@given(POSITIONS)
def test_a_token_reads_back(position):
    assert len(position.token) == TOKEN_LENGTH
    assert Position.parse(position.token) == position


@pytest.mark.parametrize("text", ["", "1-2-3-4", "x" * TOKEN_LENGTH])
def test_other_text_is_no_token(text):
    with pytest.raises(ValueError):
        Position.parse(text)


@given(U64)
def test_an_lsn_reads_back(value):
    assert lsn.parse(lsn.text(value)) == value


@pytest.mark.parametrize("text", ["", "0", "/", "0/", "123456789/0", "g/0"])
def test_other_text_is_no_lsn(text):
    with pytest.raises(ValueError):
        lsn.parse(text)


def test_tables_of_one_name_in_two_schemas_do_not_meet():
    assert names.landing_table(TableName("public", "orders")) == "LANDING_ORDERS"
    assert names.landing_table(TableName("sales", "orders")) == "LANDING_SALES__ORDERS"
    assert names.target_table(TableName("sales", "orders")) == "SALES__ORDERS"


def test_a_transition_that_is_not_in_the_table_is_a_fault():
    state = TableState(TableName("public", "t"), 1, 1)
    assert state.to(Phase.DATASYNC).to(Phase.FINISHEDCOPY).to(Phase.CATCHUP).to(Phase.READY).phase is Phase.READY
    with pytest.raises(AssertionError):
        state.to(Phase.READY)
    assert set(TRANSITIONS) == set(Phase)
