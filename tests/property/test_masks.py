"""Masked columns: what the stream sends, what a copy sends, and what PostgreSQL's own text gives, are the same."""

from __future__ import annotations

import hashlib
import hmac
import json

import pyarrow as pa
import pytest

from etl_supervisor.errors import EtlError
from etl_supervisor.ipc.arrow import change_log_schema
from etl_supervisor.model.pipeline import Destination, Pipeline, PipelineStatus
from etl_supervisor.model.selection import ColumnMask, MaskKind, Selection
from etl_supervisor.model.table import Column, Table, TableName
from etl_supervisor.model.types import ValueKind, ValueType
from tests.support import corpus
from tests.support.copying import copied
from tests.support.fix_postgres import Database
from tests.support.streaming import rows_of, streaming
from workers.reader.batch import TableBatch
from workers.reader.masks import Masks, resolve, same

SECRET = "a masking secret of a test, long enough"
NAME = TableName("public", "t")
THERE = Destination(1, "d", "snowflake", "A", "U", "DB", "S", None, None, "k", None, None, "ETL_SCHEMA", 1.0)


def pipeline(*masks: ColumnMask, **selection: tuple[str, ...]) -> Pipeline:
    chosen = Selection(masks=masks, **selection)
    return Pipeline(1, "p", 1, THERE, PipelineStatus.START, 1, 1, 1, 1, 1, selection=chosen)


def masked(*masks: tuple[str, MaskKind], constant: str = "") -> Pipeline:
    return pipeline(*(ColumnMask(NAME, column, kind, constant) for column, kind in masks))


def reference(text: str | None) -> str | None:
    return None if text is None else hmac.new(SECRET.encode(), text.encode(), hashlib.sha256).hexdigest()


def table(*columns: str, key: str = "id") -> Table:
    kind = ValueType(ValueKind.TEXT)
    return Table(NAME, 1, tuple(Column(name, kind, name == key, attnum=at) for at, name in enumerate(columns, 1)))


def shown(masks: Masks, batches: list[TableBatch], name: str) -> list[TableBatch]:
    found = [item for item in batches if item.table.name.name == name]
    return [TableBatch(masks.shown(item.table), masks.batch(item.table, item.batch)) for item in found]


@pytest.mark.parametrize("family", corpus.families(180_000))
def test_a_hash_is_that_of_postgresqls_text_in_stream_and_copy(database: Database, family: str) -> None:
    database.execute("create publication p for all tables")
    with streaming(database) as decoding:
        tables = corpus.load(database, family)
        batches = decoding.batches()
    for name in tables:
        shape, copy = copied(database, name)
        rules = [ColumnMask(TableName("public", name), c.name, MaskKind.HASH) for c in shape.columns if c.name != "id"]
        masks = resolve(pipeline(*rules), shape, "", SECRET)
        sent = {row["id"]: row for row in rows_of(shown(masks, batches, name), name)}
        landed = {row["id"]: row for part in copy.to_batches() for row in masks.batch(shape, part).to_pylist()}
        columns, cells = corpus.psql_rows(database, name)
        assert len(sent) == len(landed) == len(cells) > 0
        for number, row in cells.items():
            for column, text in zip(columns, row, strict=True):
                if column != "id":
                    assert sent[number][column] == landed[number][column] == reference(text), (name, column, text)
        assert not any(row["_etl_special"] for row in landed.values())


def test_every_field_of_a_change_is_masked(database: Database) -> None:
    database.execute(
        "create table t (id int, mail text, born date, n int, big text, plain text, primary key (id, mail))"
    )
    database.execute("alter table t alter big set storage external; create publication p for table t")
    hidden = [("mail", MaskKind.HASH), ("born", MaskKind.EXCLUDE), ("n", MaskKind.NULL), ("big", MaskKind.CONSTANT)]
    with streaming(database) as decoding:
        database.execute("insert into t select 1, 'a@b', 'infinity', 7, repeat('x', 9000), 'p'")
        database.execute("update t set plain = 'q'")
        database.execute("update t set mail = 'c@d'")
        database.execute("delete from t")
        database.execute("truncate t")
        batches = decoding.batches()
    masks = resolve(masked(*hidden, constant="gone"), batches[0].table, "", SECRET)
    rows = rows_of(shown(masks, batches, "t"), "t")
    assert [row["_etl_op"] for row in rows] == ["I", "U", "D", "I", "D", "T"]
    first, second = reference("a@b"), reference("c@d")
    assert [row["mail"] for row in rows] == [first, first, first, second, second, None]
    assert [row["big"] for row in rows] == ["gone"] * 5 + [None]
    assert not any(row["n"] or row["_etl_special"] or row["_etl_unchanged"] for row in rows)
    assert json.loads(rows[3]["_etl_old_key"]) == {"id": "1", "mail": first}
    assert "born" not in rows[0]
    assert "a@b" not in repr(rows)


def test_an_unchanged_value_that_is_hashed_stays_unchanged(database: Database) -> None:
    database.execute("create table t (id int primary key, big text, other text)")
    database.execute("alter table t alter big set storage external, alter other set storage external")
    database.execute("create publication p for table t")
    database.execute("insert into t values (1, repeat('x', 9000), repeat('y', 9000))")
    with streaming(database) as decoding:
        database.execute("update t set id = id")
        batches = decoding.batches()
    masks = resolve(masked(("big", MaskKind.HASH), ("other", MaskKind.NULL)), batches[0].table, "", SECRET)
    (row,) = rows_of(shown(masks, batches, "t"), "t")
    assert (row["big"], json.loads(row["_etl_unchanged"])) == (None, ["big"])


@pytest.mark.parametrize("kind", [MaskKind.EXCLUDE, MaskKind.NULL, MaskKind.CONSTANT])
def test_a_key_may_be_hashed_and_nothing_else(kind: MaskKind) -> None:
    resolve(masked(("id", MaskKind.HASH)), table("id", "a"), "", SECRET)
    with pytest.raises(EtlError, match=rf"column id is of the key: it can't be masked by {kind} \(hash it"):
        resolve(masked(("id", kind)), table("id", "a"), "", SECRET)


def test_a_column_that_was_never_there_refuses_the_table() -> None:
    with pytest.raises(
        EtlError, match=r"^schema at pipeline p, table public.t: it has no column emial, which is to be"
    ):
        resolve(masked(("emial", MaskKind.HASH)), table("id", "email"), "", SECRET)


def test_a_column_and_a_table_that_are_renamed_stay_masked() -> None:
    wanted = masked(("email", MaskKind.HASH))
    before = resolve(wanted, table("id", "email"), "", SECRET)
    after = resolve(wanted, table("id", "mail"), before.text, SECRET)
    assert same(after, before.text)
    assert [after.of(column) is not None for column in table("id", "mail").columns] == [False, True]
    elsewhere = Table(TableName("public", "u"), 1, table("id", "mail").columns)
    assert resolve(wanted, elsewhere, after.text, SECRET).of(elsewhere.columns[1]) is not None


def test_another_mask_or_another_secret_is_another_look() -> None:
    hashed = resolve(masked(("a", MaskKind.HASH)), table("id", "a"), "", SECRET)
    assert same(hashed, hashed.text)
    assert not same(resolve(masked(("a", MaskKind.HASH)), table("id", "a"), hashed.text, SECRET + "2"), hashed.text)
    assert not same(resolve(masked(("a", MaskKind.NULL)), table("id", "a"), hashed.text, SECRET), hashed.text)
    assert not same(resolve(masked(), table("id", "a"), hashed.text, SECRET), hashed.text)
    assert SECRET not in repr(hashed) + hashed.text


@pytest.mark.parametrize(
    ("include", "exclude", "taken"),
    [
        ((), (), ["public.orders", "public.Orders", "audit.log"]),
        (("public.*",), (), ["public.orders", "public.Orders"]),
        ((), ("*.[oO]rders",), ["audit.log"]),
        (("public.*",), ("public.o?ders",), ["public.Orders"]),
    ],
)
def test_patterns_choose_tables(include: tuple[str, ...], exclude: tuple[str, ...], taken: list[str]) -> None:
    tables = [TableName("public", "orders"), TableName("public", "Orders"), TableName("audit", "log")]
    assert [str(name) for name in tables if Selection(include, exclude).takes(name)] == taken


def test_a_batch_without_masked_columns_is_the_same_one() -> None:
    shape = table("id", "a")
    batch = pa.RecordBatch.from_pylist([], schema=change_log_schema(shape))
    assert resolve(masked(), shape, "", SECRET).batch(shape, batch) is batch
