"""One source with two pipelines, shop and other, whose tables are compared with it."""

from __future__ import annotations

from dataclasses import replace

from etl_supervisor.embedded.snowflake.launch import LocalSnowflake
from etl_supervisor.model.pipeline import Destination
from tests.support import least
from tests.support.fix_deployment import Deployment, wait_for
from tests.support.fix_local_snowflake import destination_in


def elsewhere(deploy: Deployment, server: LocalSnowflake | None = None, name: str = "elsewhere") -> Destination:
    """Another destination, in the same local Snowflake or another, with a role of its own that has the least rights."""
    there = replace(destination_in(server or deploy.server), name=name)
    return least.snowflake_role(there, deploy.folder / f"keys of {name}")


def two(deploy: Deployment, there: Destination | None = None, **environment: str) -> None:
    """One source, the pipelines shop and other."""
    deploy.source.execute("create table items (id int primary key, n int, note text)")
    deploy.source.execute("insert into items select g, g, 'n' || g from generate_series(1, 500) g")
    deploy.source.execute("create publication p for all tables")
    deploy.add("shop")
    deploy.share("other", "shop", there or elsewhere(deploy))
    deploy.start(**environment)
    deploy.ready("shop")
    deploy.ready("other")


def slots(deploy: Deployment) -> list[str]:
    rows = deploy.source.execute(
        "select slot_name from pg_replication_slots where database = current_database() and not temporary order by 1"
    )
    return [str(name) for (name,) in rows]


def status(deploy: Deployment, pipeline: str, wanted: str) -> None:
    deploy.config.execute("update app.pipelines set status = %s where name = %s", wanted, pipeline)


def change(deploy: Deployment, number: int) -> None:
    deploy.source.execute(f"insert into items select {number * 1000} + g, g, 'r{number}' from generate_series(1, 50) g")
    deploy.source.execute(f"update items set n = n + 1 where id % 10 = {number % 10}")
    deploy.source.execute(f"delete from items where id % 100 = {number}")
    deploy.source.execute(f"update items set id = -id where id % 50 = {number % 50} and id > 0")


def joined(deploy: Deployment, times: int = 1) -> None:
    wait_for("the pipeline to join", lambda: deploy.log.count('"pipeline_joined"') >= times)
    wait_for("its slot to go", lambda: len(slots(deploy)) == 1)
    wait_for("its reader to go", lambda: sum(name.startswith("etl-reader") for name in deploy.children()) == 1)


def both_same(deploy: Deployment) -> None:
    for name in ("shop", "other"):
        deploy.caught_up(name)
        deploy.same(name, items=("id",))
