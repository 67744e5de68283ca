"""Which tables a pipeline takes, and what becomes of single columns."""

from alembic import op

revision = "selection"
down_revision = "control_plane"

COLUMNS = {
    "tables_include": "text[] NOT NULL DEFAULT '{}'",
    "tables_exclude": "text[] NOT NULL DEFAULT '{}'",
    "columns": """jsonb NOT NULL DEFAULT '{}'
        CONSTRAINT "columns is an object" CHECK (jsonb_typeof(columns) = 'object')""",
}
COMMENTS = {
    "tables_include": "patterns of schema.table; every published table when there is none",
    "tables_exclude": "patterns of schema.table that are left out whatever tables_include says",
    "columns": 'columns that are not shown as they are: {schema.table: {column: exclude, hash, null or {"constant": text}}}',
}


def upgrade() -> None:
    """Add the columns; pipelines that are there take everything, as before."""
    for name, definition in COLUMNS.items():
        op.execute(f"ALTER TABLE app.pipelines ADD COLUMN {name} {definition}".replace(":", "\\:"))
        op.execute(f"COMMENT ON COLUMN app.pipelines.{name} IS '{COMMENTS[name]}'".replace(":", "\\:"))


def downgrade() -> None:
    """Drop them."""
    for name in reversed(COLUMNS):
        op.execute(f"ALTER TABLE app.pipelines DROP COLUMN {name}")
