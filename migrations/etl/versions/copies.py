"""How far copies have come."""

from alembic import op

revision = "copies"
down_revision = "resync"

TABLE = """
CREATE TABLE etl.copy_state (
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
    """Without it: copies that were under way begin again."""
    op.execute("DROP TABLE etl.copy_state")
