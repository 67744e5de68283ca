"""The corpus of types through the whole pipeline, copied and streamed: nothing is lost on the way to the target."""

from __future__ import annotations

import pytest

from tests.support import corpus
from tests.support.fix_deployment import Deployment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

ONCE_MORE = """
create temp table again as table {0};
update again set id = id + 1000000;
insert into {0} table again;
drop table again
"""


@pytest.mark.parametrize("path", ["streaming", "snowpipe", "copy"])
def test_the_corpus_arrives_copied_and_streamed(deploy: Deployment, path: str) -> None:
    families = [
        name for name in corpus.families(180_000) if name not in ("xml", "keys")
    ]  # the embedded server has no libxml
    for family in families:
        tables = corpus.load(deploy.source, family)
    deploy.source.execute("create publication p for all tables")
    deploy.add("types", load_path=path, copy_load_path=path, file_max_age_seconds=0.3)
    deploy.start()
    deploy.ready("types", len(tables))
    for table in tables:
        deploy.source.execute(ONCE_MORE.format(table))
    deploy.caught_up("types")
    deploy.same("types", **dict.fromkeys(tables, ("id",)))
    assert deploy.stop() == 0


def test_keys_that_a_column_can_not_hold_stay_apart(deploy: Deployment) -> None:
    tables = corpus.load(deploy.source, "keys")
    deploy.source.execute("create publication p for all tables")
    deploy.add("types")
    deploy.start()
    deploy.ready("types", len(tables))
    for table in tables:
        deploy.source.execute(f"update {table} set note = note || '!'")
    deploy.caught_up("types")
    deploy.same("types", **dict.fromkeys(tables, ("id",)))
    deploy.source.execute("alter table until alter note set storage external")
    deploy.source.execute("update until set note = repeat('long', 2000)")
    deploy.source.execute("update until set until = '2030-01-01' where until = 'infinity'")
    deploy.source.execute("update until set until = 'infinity' where until = '2024-01-01'")
    deploy.source.execute("delete from until where until = '-infinity'")
    deploy.source.execute("delete from price where price = 'NaN'; update price set price = 'NaN' where price = 1.5")
    deploy.source.execute("delete from document where doc = 'null'; update document set doc = 'null' where doc = '0'")
    deploy.source.execute(
        "delete from keys where note like 'g%'; update keys set until = '-infinity' where note like 'h%'"
    )
    deploy.caught_up("types")
    deploy.same("types", **dict.fromkeys(tables, ("id",)))
    assert deploy.stop() == 0
