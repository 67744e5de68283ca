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


def test_the_corpus_arrives_copied_and_streamed(deploy: Deployment) -> None:
    families = [name for name in corpus.families(180_000) if name != "xml"]  # the embedded server has no libxml
    for family in families:
        tables = corpus.load(deploy.source, family)
    deploy.source.execute("create publication p for all tables")
    deploy.add("types")
    deploy.start()
    deploy.ready("types", len(tables))
    for table in tables:
        deploy.source.execute(ONCE_MORE.format(table))
    deploy.caught_up("types")
    deploy.same("types", **dict.fromkeys(tables, ("id",)))
    assert deploy.stop() == 0
