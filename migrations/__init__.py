"""Two independent chains of Alembic migrations, run by `etl_supervisor.repository.migrations` (or `scripts/run_migrations`).

`scripts/add_migration` begins a new one, `scripts/show_migrations` and `scripts/revert_migration` show and take back.

app  schema app: sources, destinations, pipelines, WAL metrics (the config database)
etl  schema etl: replication state, for installations that keep it in PostgreSQL
"""
