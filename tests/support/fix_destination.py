"""A destination as a user has one.

destination               the one of `all_powerful`, by a role that has exactly the rights of scripts/sql
may_make_tasks            its role has what the script lists for tasks, too
may_make_dynamic_tables   … for dynamic tables
may_make_schemas          … for schemas
"""

from __future__ import annotations

from pathlib import Path

import pytest

from etl_supervisor.model.pipeline import Destination
from tests.support import least


@pytest.fixture
def destination(all_powerful: Destination, tmp_path: Path) -> Destination:
    return least.snowflake_role(all_powerful, tmp_path / "keys of the destination")


@pytest.fixture
def may_make_tasks(all_powerful: Destination, destination: Destination) -> None:
    least.administer(all_powerful, destination.user, *least.FOR_TASKS)


@pytest.fixture
def may_make_dynamic_tables(all_powerful: Destination, destination: Destination) -> None:
    least.administer(all_powerful, destination.user, *least.FOR_DYNAMIC_TABLES)


@pytest.fixture
def may_make_schemas(all_powerful: Destination, destination: Destination) -> None:
    least.administer(all_powerful, destination.user, *least.FOR_SCHEMAS)
