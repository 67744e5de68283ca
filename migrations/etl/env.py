"""Alembic's entry for schema `etl`: runs on the connection it is given, remembers its version in that schema."""

from alembic import context

connection = context.config.attributes["connection"]
context.configure(connection=connection, version_table_schema="etl", transaction_per_migration=True)
with context.begin_transaction():
    context.run_migrations()
