"""Requests to copy a table, or a whole pipeline, again."""

from alembic import op

revision = "resync"
down_revision = "0001"

TABLE = """
CREATE TABLE etl.resync (
    source        text NOT NULL,
    pipeline      text NOT NULL,
    table_schema  text NOT NULL,
    table_name    text NOT NULL,
    asked_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (source, pipeline, table_schema, table_name)
);
COMMENT ON TABLE etl.resync IS 'an empty table_name is the whole pipeline; the reader deletes what it has begun'
"""


def upgrade() -> None:
    """Add the table."""
    op.execute(TABLE)


def downgrade() -> None:
    """Drop it."""
    op.execute("DROP TABLE etl.resync")
