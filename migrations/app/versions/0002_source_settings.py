"""How a source is read: in-progress transactions, transfer format, heartbeat, primary of a standby, failover slot.

The constraints are named by what they allow, so that PostgreSQL's own message says it.
"""

from alembic import op

revision = "0002"
down_revision = "0001"

COLUMNS = {
    "stream_in_progress": "boolean NOT NULL DEFAULT true",
    "transfer": """text NOT NULL DEFAULT 'auto'
        CONSTRAINT "transfer is auto, text or binary" CHECK (transfer IN ('auto', 'text', 'binary'))""",
    "heartbeat_seconds": """double precision NOT NULL DEFAULT 60
        CONSTRAINT "heartbeat_seconds is 0 (off) or 0.1 to 86400"
        CHECK (heartbeat_seconds = 0 OR heartbeat_seconds BETWEEN 0.1 AND 86400)""",
    "primary_url": "text",
    "slot_failover": "boolean NOT NULL DEFAULT false",
}
COMMENTS = {
    "stream_in_progress": "large transactions arrive before they commit (protocol 2), not in one piece afterwards",
    "transfer": "how values travel: as text, in their binary form where that is safe (binary), or as the reader decides (auto)",
    "heartbeat_seconds": "a quiet source gets a small WAL message this often, so that its slot moves on; 0 is off",
    "primary_url": "for a source that is a standby: its primary; encrypted at rest, a clear one is encrypted at the next poll",
    "slot_failover": "PostgreSQL 17 and newer: standbys keep a copy of the slot, so that it outlives a promotion",
}


def upgrade() -> None:
    """Add the columns; rows that are there get the defaults."""
    for name, definition in COLUMNS.items():
        op.execute(f"ALTER TABLE app.sources ADD COLUMN {name} {definition}")
        op.execute(f"COMMENT ON COLUMN app.sources.{name} IS '{COMMENTS[name]}'")


def downgrade() -> None:
    """Drop them."""
    for name in reversed(COLUMNS):
        op.execute(f"ALTER TABLE app.sources DROP COLUMN {name}")
