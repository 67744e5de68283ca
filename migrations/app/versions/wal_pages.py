"""Measurements of all sources page by page, the newest first: without it each page sorts them all."""

from alembic import op

revision = "wal_pages"
down_revision = "metering"


def upgrade() -> None:
    """Add the index."""
    op.execute("CREATE INDEX wal_metrics_newest ON app.wal_metrics (recorded_at DESC, id DESC)")


def downgrade() -> None:
    """Drop it."""
    op.execute("DROP INDEX app.wal_metrics_newest")
