"""Which supervisor runs a source, for so long: see `etl_supervisor.repository.leases`."""

from alembic import op

revision = "leases"
down_revision = "tls"

COMMENTS = {
    "holder": "machine, process and host name of the supervisor that runs the source",
    "epoch": "rises when another supervisor takes the source",
    "expires_at": "by the clock of this database; the holder has stopped its readers before",
}


def upgrade() -> None:
    """Add the table. Its rows are written every second: there is room in a page for their next versions."""
    op.execute(
        """CREATE TABLE app.leases (
        source_id    bigint PRIMARY KEY REFERENCES app.sources ON DELETE CASCADE,
        holder       text NOT NULL,
        epoch        bigint NOT NULL,
        taken_at     timestamptz NOT NULL,
        expires_at   timestamptz NOT NULL) WITH (fillfactor = 50)"""
    )
    op.execute("COMMENT ON TABLE app.leases IS 'which supervisor runs a source; written by its monitor'")
    for name, comment in COMMENTS.items():
        op.execute(f"COMMENT ON COLUMN app.leases.{name} IS '{comment}'")


def downgrade() -> None:
    """Drop it."""
    op.execute("DROP TABLE app.leases")
