"""What to do when a source's slot is lost.

The constraint is named by what it allows, so that PostgreSQL's own message says it.
"""

from alembic import op

revision = "slot_lost"
down_revision = "apply_modes"


def upgrade() -> None:
    """Add the column; sources that are there ask."""
    op.execute(
        """ALTER TABLE app.sources ADD COLUMN on_slot_lost text NOT NULL DEFAULT 'ask'
        CONSTRAINT "on_slot_lost is ask or resync" CHECK (on_slot_lost IN ('ask', 'resync'))"""
    )
    op.execute(
        "COMMENT ON COLUMN app.sources.on_slot_lost IS"
        " 'ask: the source stops and says so; resync: a new slot is made and every table is copied again'"
    )


def downgrade() -> None:
    """Drop it."""
    op.execute("ALTER TABLE app.sources DROP COLUMN on_slot_lost")
