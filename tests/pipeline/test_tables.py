"""Every kind of table through the whole pipeline: copied and streamed, then compared row by row."""

from __future__ import annotations

import pytest

from tests.support.fix_deployment import Deployment
from tests.support.fix_local_snowflake import sql_session

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def columns_in_snowflake(deploy: Deployment, table: str) -> dict[str, list[str]]:
    """The columns of target and landing table that are not the system's own."""
    there, found = deploy.destination, {}
    with sql_session(there) as session, session.cursor() as cursor:
        for schema, name in ((there.schema, table), (there.landing_schema, f"LANDING_{table}")):
            cursor.execute(f'SELECT * FROM "{there.database}"."{schema}"."{name}"')
            found[name] = [item.name for item in cursor.description if not item.name.startswith("_ETL_")]
    return found


def test_a_column_that_is_not_published_never_reaches_snowflake(deploy: Deployment) -> None:
    deploy.source.execute("create table items (id int primary key, note text, secret text)")
    deploy.source.execute("insert into items select g, 'n', 'not to be seen' from generate_series(1, 5) g")
    deploy.source.execute("create publication p for table items (id, note)")
    deploy.add("shop")
    deploy.start()
    deploy.ready("shop")
    deploy.source.execute("insert into items values (100, 'later', 'not to be seen')")
    deploy.caught_up("shop")
    assert columns_in_snowflake(deploy, "ITEMS") == {"ITEMS": ["ID", "NOTE"], "LANDING_ITEMS": ["ID", "NOTE"]}
    deploy.source.execute("alter table items drop column secret")
    deploy.same("shop", items=("id",))
    assert deploy.stop() == 0
