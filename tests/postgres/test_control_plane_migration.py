"""The REST API's tables go and come back, and what was there before them stays."""

from importlib import resources
from pathlib import Path

import alembic.command
import sqlalchemy
from alembic.config import Config

from etl_supervisor.config.settings import load
from etl_supervisor.repository.migrations import migrate
from migrations.app.versions.control_plane import down_revision
from tests.support import least
from tests.support.fix_postgres import Database


def test_the_control_plane_is_taken_back_and_made_again_with_data(database: Database, tmp_path: Path) -> None:
    settings = load(tmp_path, {"DATABASE_URL": least.config_role(database), "SECRET_KEY": "0123456789" * 4})
    migrate(settings)
    database.execute(
        "insert into app.sources (name, pg_host, pg_database, pg_username, publication_name, tenant) values ('s', 'h', 'd', 'u', 'p', 'acme');"
        "insert into app.destinations (name, snowflake_account, snowflake_user, snowflake_database, snowflake_schema,"
        " snowflake_private_key_path) values ('d', 'a', 'u', 'd', 's', 'k');"
        "insert into app.pipelines (name, source_id, destination_id, retries) values ('p', 1, 1, 3);"
        "insert into app.api_keys (name, prefix, hash, role) values ('k', 'x', 'x', 'admin');"
        "insert into app.audit_log (who, tenant, action, entity, entity_id) values ('w', '', 'a', 'e', '1')"
    )
    engine = sqlalchemy.create_engine("postgresql+psycopg://", creator=database.connect, poolclass=sqlalchemy.NullPool)
    chain = Config()
    chain.set_main_option("script_location", str(resources.files("migrations") / "app"))
    chain.set_main_option("path_separator", "os")
    with engine.connect() as connection:
        chain.attributes["connection"] = connection
        alembic.command.downgrade(chain, down_revision)
        connection.commit()
    assert database.execute("select to_regclass('app.api_keys'), to_regclass('app.audit_log')") == [(None, None)]
    assert database.execute("select name from app.pipelines") == [("p",)]
    assert migrate(settings, "app")[0].startswith(f"app: {down_revision} -> ")
    assert database.execute("select tenant from app.sources") == [("default",)]
    assert database.execute("select retries from app.pipelines") == [(0,)]
    assert database.execute("select count(*) from app.api_keys") == [(0,)]
