"""What a destination calls tables and columns, and whether it says of them what PostgreSQL says."""

from alembic import op

revision = "naming"
down_revision = "wal_monitor"

COLUMNS = {"identifier_case": ("upper", "keep"), "schema_mapping": ("prefix", "schema")}
COMMENTS = {
    "identifier_case": "upper: names as unquoted SQL finds them; keep: as PostgreSQL has them",
    "schema_mapping": "prefix: sales.orders is SALES__ORDERS in the schema of the destination; schema: ORDERS in a schema SALES",
}


def upgrade() -> None:
    """Add the columns; destinations that are there keep their names."""
    for name, (default, other) in COLUMNS.items():
        op.execute(
            f"""ALTER TABLE app.destinations ADD COLUMN {name} text NOT NULL DEFAULT '{default}'
            CONSTRAINT "{name} is {default} or {other}" CHECK ({name} IN ('{default}', '{other}'))"""
        )
        op.execute(f"COMMENT ON COLUMN app.destinations.{name} IS '{COMMENTS[name]}'".replace(":", "\\:"))
    op.execute("ALTER TABLE app.destinations ADD COLUMN copy_comments boolean NOT NULL DEFAULT false")
    op.execute("COMMENT ON COLUMN app.destinations.copy_comments IS 'copy the comments of tables and columns'")


def downgrade() -> None:
    """Drop them."""
    for name in ("copy_comments", *reversed(COLUMNS)):
        op.execute(f"ALTER TABLE app.destinations DROP COLUMN {name}")
