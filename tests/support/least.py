"""Roles with exactly the rights of scripts/sql: in a source, in the config database, in Snowflake."""

from __future__ import annotations

import re
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
from psycopg import conninfo

from etl_supervisor.model.pipeline import Destination
from tests.support.fix_local_snowflake import sql_session
from tests.support.fix_postgres import Database
from tests.support.keys import write_key

SCRIPTS = Path(__file__).parents[2] / "scripts" / "sql"
PASSWORD = "the least, 5d07c1"  # no log line has it by chance: tests look for it
FOR_TASKS = (
    "GRANT CREATE STREAM, CREATE TASK ON SCHEMA ANALYTICS.ETL_SCHEMA TO ROLE ETL_ROLE",
    "GRANT EXECUTE TASK ON ACCOUNT TO ROLE ETL_ROLE",
)
FOR_STANDBYS = "GRANT EXECUTE ON FUNCTION pg_log_standby_snapshot() TO {}"  # on the primary
FOR_SCHEMAS = ("GRANT CREATE SCHEMA ON DATABASE ANALYTICS TO ROLE ETL_ROLE",)
FOR_DYNAMIC_TABLES = ("GRANT CREATE DYNAMIC TABLE ON SCHEMA ANALYTICS.RAW_DATA TO ROLE ETL_ROLE",)


def statements(script: str) -> list[str]:
    """The statements of a script, without its comments."""
    lines = [line for line in (SCRIPTS / script).read_text().splitlines() if not line.startswith("--")]
    return [text.strip() for text in "\n".join(lines).split(";") if text.strip()]


def renamed(text: str, names: dict[str, str]) -> str:
    """A statement with other names."""
    return re.sub("|".join(names), lambda found: names[found[0]], text)


def source_role(database: Database) -> dict[str, str]:
    """`postgres_role.sql` run in a source, its part of a schema for every schema; columns of the source. A standby has what its primary has."""
    role = f"reader_{database.name}"
    if database.execute("select pg_is_in_recovery()") == [(True,)]:
        return {"pg_username": role, "pg_password": PASSWORD}
    found = database.execute(
        "select quote_ident(nspname) from pg_namespace where nspname !~ '^pg_' and nspname <> 'information_schema'"
    )
    names = {"ETL_READER": role, "'choose one'": f"'{PASSWORD}'", "SHOP": database.name}
    for text in _without_known(database, role, "postgres_role.sql"):
        for schema in [name for (name,) in found] if "SCHEMA PUBLIC" in text else ["public"]:
            database.execute(renamed(text, {**names, "PUBLIC": schema}))
    return {"pg_username": role, "pg_password": PASSWORD}


def may_publish(database: Database, tables: tuple[str, ...], publications: tuple[str, ...]) -> None:
    """What the script lists for publications by the API, for these tables and publications (as SQL has their names)."""
    role = source_role(database)["pg_username"]
    database.execute(f"GRANT CREATE ON DATABASE {database.name} TO {role}")
    for owned in (*(f"TABLE {name}" for name in tables), *(f"PUBLICATION {name}" for name in publications)):
        database.execute(f"ALTER {owned} OWNER TO {role}")


def source(database: Database) -> dict[str, Any]:
    """The columns of a source that is this database, asked by its `source_role`."""
    return database.as_source | source_role(database)


def connect(database: Database) -> psycopg.Connection:
    """A connection of the `source_role`, in autocommit mode. The caller closes it."""
    return psycopg.connect(url_of(database, source_role(database)["pg_username"]), autocommit=True)


def _without_known(database: Database, role: str, script: str) -> list[str]:
    known = database.execute("select 1 from pg_roles where rolname = %s", role)
    return [text for text in statements(script) if not (known and "CREATE ROLE" in text)]


def drop_role(database: Database, role: str) -> None:
    """With what it was granted in this database."""
    if database.execute("select 1 from pg_roles where rolname = %s", role):
        database.execute(f"drop owned by {role} cascade; drop role {role}")


def config_role(database: Database) -> str:
    """`config_role.sql` run in a config database; its URL."""
    role = f"owner_{database.name}"
    names = {"ETL_OWNER": role, "'choose one'": f"'{PASSWORD}'", "ETL_CONFIG": database.name}
    for text in _without_known(database, role, "config_role.sql"):
        database.execute(renamed(text, names))
    return url_of(database, role)


def url_of(database: Database, role: str) -> str:
    """The URL of a database for one of these roles."""
    parts = conninfo.conninfo_to_dict(database.dsn)
    return f"postgresql://{role}:{quote(PASSWORD)}@{parts['host']}:{parts['port']}/{database.name}"


def administer(there: Destination, user: str, *texts: str) -> None:
    """Run statements of `snowflake_role.sql`, by somebody who may do everything, with the names of this destination."""
    ours = {
        "ANALYTICS": there.database,
        "RAW_DATA": there.schema,
        "ETL_SCHEMA": there.landing_schema,
        "ETL_ROLE": f"ROLE_{user}",
        "ETL_USER": user,
    }
    with sql_session(there) as session, session.cursor() as cursor:
        for text in texts:
            cursor.execute(renamed(text, ours))


def snowflake_user(there: Destination, folder: Path) -> str:
    """A user with a key of his own (`key.p8` in the folder), who has no role yet; his name."""
    user = f"U{uuid.uuid4().hex[:8].upper()}"
    public = write_key(folder / "key.p8", "")
    administer(there, user, f"ALTER USER {user} SET RSA_PUBLIC_KEY = '{public}'")
    return user


def snowflake_role(there: Destination, folder: Path) -> Destination:
    """`snowflake_role.sql` run at a destination, and nothing more; the destination of its user and role, whose key is in a new folder."""
    folder.mkdir()
    user = snowflake_user(there, folder)
    administer(there, user, *statements("snowflake_role.sql"))
    limited = {"user": user, "role": f"ROLE_{user}", "warehouse": "ETL_WH"}
    return replace(there, private_key_path=str(folder / "key.p8"), **limited)
