"""Positions, tokens, LSNs, names, table states."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl_supervisor.model import lsn, names
from etl_supervisor.model.naming import IdentifierCase, Naming, SchemaMapping
from etl_supervisor.model.position import TOKEN_LENGTH, Position
from etl_supervisor.model.table import Column, Table, TableName
from etl_supervisor.model.table_state import TRANSITIONS, Phase, TableState
from etl_supervisor.model.types import ValueKind, ValueType

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
    here, there = TableName("public", "Orders"), TableName("Sales", "Orders")
    for case, mapping, expected in [
        ("upper", "prefix", ["LANDING_ORDERS", "LANDING_SALES__ORDERS", "RAW.ORDERS", "RAW.SALES__ORDERS"]),
        ("upper", "schema", ["LANDING_ORDERS", "LANDING_SALES__ORDERS", "RAW.ORDERS", "SALES.ORDERS"]),
        ("keep", "prefix", ["LANDING_Orders", "LANDING_Sales__Orders", "RAW.Orders", "RAW.Sales__Orders"]),
        ("keep", "schema", ["LANDING_Orders", "LANDING_Sales__Orders", "RAW.Orders", "Sales.Orders"]),
    ]:
        naming = Naming(IdentifierCase(case), SchemaMapping(mapping))
        landed = [naming.landing_table(name) for name in (here, there)]
        targets = [f"{naming.target_schema(name, 'raw')}.{naming.target_table(name)}" for name in (here, there)]
        assert landed + targets == expected


def test_a_column_knows_what_it_is_called_at_the_destination():
    table = Table(TableName("public", "t"), 1, (Column("placedAt", ValueType(ValueKind.TEXT)),))
    assert [table.columns[0].landed, table.landed("placedAt"), table.landed("_etl_op")] == [
        "PLACEDAT",
        "PLACEDAT",
        "_ETL_OP",
    ]
    kept = Naming(IdentifierCase.KEEP).shown(table)
    assert [kept.columns[0].landed, kept.landed("placedAt"), kept.landed("_etl_op")] == [
        "placedAt",
        "placedAt",
        "_ETL_OP",
    ]
    assert kept == table, "its shape is the same"


def test_a_transition_that_is_not_in_the_table_is_a_fault():
    state = TableState(TableName("public", "t"), 1, 1)
    assert state.to(Phase.DATASYNC).to(Phase.FINISHEDCOPY).to(Phase.CATCHUP).to(Phase.READY).phase is Phase.READY
    with pytest.raises(AssertionError):
        state.to(Phase.READY)
    assert set(TRANSITIONS) == set(Phase)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("p", ["p"]),
        (" p , Q,p ", ["p", "Q"]),
        ("two words, other,", ["two words", "other"]),
        ('"a, b" , c', ["a, b", "c"]),
        ('"say ""it"""', ['say "it"']),
        ("it's", ["it's"]),
    ],
)
def test_a_list_of_publications_is_read_as_it_is_written(text, expected):
    assert names.publications(text) == expected


@pytest.mark.parametrize("text", ['"a', 'a"b', '"a" b', ",", "a,,b", '""'])
def test_a_list_of_publications_with_a_quote_or_comma_out_of_place_is_refused(text):
    with pytest.raises(ValueError, match="publication_name can't be read at character"):
        names.publications(text)


def test_no_name_of_ours_is_longer_than_snowflake_takes():
    plane = (chr(code) for code in (*range(1, 0xD800), *range(0xE000, 0x10000)))
    longest = max(plane, key=lambda char: len(char.upper()) / len(char.encode()))
    name = longest * (63 // len(longest.encode()))
    assert len(Naming().landing_table(TableName(name, name))) <= 255
    assert len(Column(name, ValueType(ValueKind.TEXT)).landed) <= 255
