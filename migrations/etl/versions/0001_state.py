"""The PostgreSQL state store."""

from alembic import op

revision = "0001"
down_revision = None

TABLES = """
CREATE TABLE etl.progress (source text PRIMARY KEY, value text NOT NULL, updated_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE etl.epoch (source text PRIMARY KEY, epoch bigint NOT NULL);
CREATE TABLE etl.report (source text PRIMARY KEY, value text NOT NULL, updated_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE etl.table_state (
    source        text NOT NULL,
    pipeline      text NOT NULL,
    table_schema  text NOT NULL,
    table_name    text NOT NULL,
    value         text NOT NULL,
    updated_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (source, pipeline, table_schema, table_name)
)
"""


def upgrade() -> None:
    """From nothing."""
    op.execute(TABLES)


def downgrade() -> None:
    """Back to nothing."""
    op.execute("DROP TABLE etl.table_state, etl.report, etl.epoch, etl.progress")
