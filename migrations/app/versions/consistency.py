"""Whether the tables of a pipeline become visible one by one or together."""

from alembic import op

revision = "consistency"
down_revision = "slot_lost"


def upgrade() -> None:
    """Add the column; pipelines that are there go on as before."""
    op.execute(
        """ALTER TABLE app.pipelines ADD COLUMN consistency text NOT NULL DEFAULT 'table'
        CONSTRAINT "consistency is table or transaction" CHECK (consistency IN ('table', 'transaction'))"""
    )
    op.execute(
        "COMMENT ON COLUMN app.pipelines.consistency IS"
        " 'table: each table is applied by itself; transaction: all tables become visible together, at the end of a transaction'"
    )


def downgrade() -> None:
    """Drop it."""
    op.execute("ALTER TABLE app.pipelines DROP COLUMN consistency")
