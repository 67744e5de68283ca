"""Up to where targets were seen to be equal to their sources."""

from alembic import op

revision = "verified"
down_revision = "copies"

TABLE = """
CREATE TABLE etl.verified (
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
    """One more table."""
    op.execute(TABLE)


def downgrade() -> None:
    """Without it: what was verified is not known any more."""
    op.execute("DROP TABLE etl.verified")
