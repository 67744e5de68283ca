"""What pipelines bring and spend, counted by the supervisors' monitors: see `etl_supervisor.monitor.meter`."""

from alembic import op

revision = "metering"
down_revision = "verify_runs"

TABLES = {
    "metered": """
        holder    text PRIMARY KEY,
        began_at  timestamptz NOT NULL DEFAULT now(),
        at        timestamptz NOT NULL DEFAULT now(),
        counted   jsonb NOT NULL DEFAULT '{}'""",
    "usage": """
        pipeline_id     bigint NOT NULL REFERENCES app.pipelines ON DELETE CASCADE,
        hour            timestamptz NOT NULL,
        table_name      text NOT NULL,
        rows            bigint NOT NULL,
        billed_bytes    bigint NOT NULL,
        snowpipe_bytes  bigint NOT NULL,
        snowpipe_files  bigint NOT NULL,
        copy_bytes      bigint NOT NULL,
        copy_files      bigint NOT NULL,
        applied_rows    bigint NOT NULL,
        applies         bigint NOT NULL,
        apply_seconds   double precision NOT NULL,
        PRIMARY KEY (pipeline_id, hour, table_name)""",
    "flow": """
        pipeline_id    bigint NOT NULL REFERENCES app.pipelines ON DELETE CASCADE,
        at             timestamptz NOT NULL DEFAULT now(),
        rows           bigint NOT NULL,
        bytes          bigint NOT NULL,
        applied_rows   bigint NOT NULL,
        applies        bigint NOT NULL,
        apply_seconds  double precision NOT NULL,
        latencies      jsonb NOT NULL,
        PRIMARY KEY (pipeline_id, at)""",
}
COMMENTS = {
    "metered": "what each supervisor had counted when it was last written down",
    "usage": "what was brought of each table by the hour (UTC), later by the day; applies are counted in a row without a table",
    "flow": "what was brought since the look before, of the last hour",
    "usage.billed_bytes": "values by streaming, as Snowflake bills them",
    "usage.snowpipe_bytes": "Parquet by Snowpipe, as Snowflake bills it",
    "usage.copy_bytes": "Parquet by COPY, which costs the seconds of its warehouse",
    "flow.latencies": "accepted, durable, applied: how many batches took at most so many seconds",
}


def upgrade() -> None:
    """Add the tables."""
    for table, columns in TABLES.items():
        op.execute(f"CREATE TABLE app.{table} ({columns})")
    op.execute("CREATE INDEX ON app.flow (at)")
    op.execute("CREATE INDEX ON app.usage (hour)")
    for place, comment in COMMENTS.items():
        op.execute(f"COMMENT ON {'COLUMN' if '.' in place else 'TABLE'} app.{place} IS '{comment}'")


def downgrade() -> None:
    """Drop them."""
    for table in reversed(TABLES):
        op.execute(f"DROP TABLE app.{table}")
