"""How many channels the stream of a table has.

The constraint is named by what it allows, so that PostgreSQL's own message says it.
"""

from alembic import op

revision = "channels"
down_revision = "consistency"


def upgrade() -> None:
    """Add the column; pipelines that are there keep one."""
    op.execute(
        """ALTER TABLE app.pipelines ADD COLUMN channels_per_table integer NOT NULL DEFAULT 1
        CONSTRAINT "channels_per_table is 1 to 8" CHECK (channels_per_table BETWEEN 1 AND 8)"""
    )
    op.execute(
        "COMMENT ON COLUMN app.pipelines.channels_per_table IS"
        " 'streaming channels of each table with a key; a table takes a new number when it is copied again'"
    )


def downgrade() -> None:
    """Drop it."""
    op.execute("ALTER TABLE app.pipelines DROP COLUMN channels_per_table")
