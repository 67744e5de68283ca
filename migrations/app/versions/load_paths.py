"""Which way rows take into the landing tables, and how large and old files may become.

The constraints are named by what they allow, so that PostgreSQL's own message says it.
"""

from alembic import op

revision = "load_paths"
down_revision = "0002"

PATHS = "streaming, snowpipe or copy"
COLUMNS = {
    "load_path": f"""text NOT NULL DEFAULT 'streaming'
        CONSTRAINT "load_path is {PATHS}" CHECK (load_path IN ('streaming', 'snowpipe', 'copy'))""",
    "copy_load_path": f"""text NOT NULL DEFAULT 'streaming'
        CONSTRAINT "copy_load_path is {PATHS}" CHECK (copy_load_path IN ('streaming', 'snowpipe', 'copy'))""",
    "file_max_size_mb": """integer NOT NULL DEFAULT 1024
        CONSTRAINT "file_max_size_mb is 1 to 16384" CHECK (file_max_size_mb BETWEEN 1 AND 16384)""",
    "file_max_age_seconds": """double precision NOT NULL DEFAULT 60
        CONSTRAINT "file_max_age_seconds is 0.1 to 3600" CHECK (file_max_age_seconds BETWEEN 0.1 AND 3600)""",
}
COMMENTS = {
    "load_path": "how changes come into landing tables: Snowpipe Streaming, Parquet files by Snowpipe, or by COPY INTO",
    "copy_load_path": "the same for the rows of first copies",
    "file_max_size_mb": "a file is made of so many MiB of rows in memory; Parquet is a fifth to a tenth of it",
    "file_max_age_seconds": "a file is made when its first row has waited so long",
}


def upgrade() -> None:
    """Add the columns; rows that are there get the defaults."""
    for name, definition in COLUMNS.items():
        op.execute(f"ALTER TABLE app.pipelines ADD COLUMN {name} {definition}")
        op.execute(f"COMMENT ON COLUMN app.pipelines.{name} IS '{COMMENTS[name]}'")


def downgrade() -> None:
    """Drop them."""
    for name in reversed(COLUMNS):
        op.execute(f"ALTER TABLE app.pipelines DROP COLUMN {name}")
