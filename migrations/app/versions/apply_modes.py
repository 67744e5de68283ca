"""How the tables of a pipeline are applied."""

from alembic import op

revision = "apply_modes"
down_revision = "load_paths"

COLUMNS = {
    "apply": """text NOT NULL DEFAULT 'merge'
        CONSTRAINT "apply is merge, view, task, dynamic_table or append"
        CHECK (apply IN ('merge', 'view', 'task', 'dynamic_table', 'append'))""",
    "apply_delete": """text NOT NULL DEFAULT 'hard'
        CONSTRAINT "apply_delete is hard or soft" CHECK (apply_delete IN ('hard', 'soft'))""",
    "apply_history": "boolean NOT NULL DEFAULT false",
    "apply_interval_seconds_max": """double precision NOT NULL DEFAULT 3600
        CONSTRAINT "apply_interval_seconds_max is 1 to 86400" CHECK (apply_interval_seconds_max BETWEEN 1 AND 86400)""",
    "landing_retention_hours": """double precision
        CONSTRAINT "landing_retention_hours is 0 to 87600" CHECK (landing_retention_hours BETWEEN 0 AND 87600)""",
    "apply_tables": """jsonb NOT NULL DEFAULT '{}'
        CONSTRAINT "apply_tables is an object" CHECK (jsonb_typeof(apply_tables) = 'object')""",
}
COMMENTS = {
    "apply": "who keeps the current tables: merge, view (merge, seldom), task, dynamic_table, append (nobody)",
    "apply_delete": "what a delete leaves in the target: hard (nothing), soft (the row, marked)",
    "apply_history": "keep every version of every row in <TABLE>_HISTORY",
    "apply_interval_seconds_max": "longest pause between two applies of a table; the pause of apply view",
    "landing_retention_hours": "applied rows leave the change log after so long; never, when NULL",
    "apply_tables": "tables with settings of their own: {schema.table: {column of these: value}}",
}


def upgrade() -> None:
    """Add the columns; pipelines that are there go on as before."""
    for name, definition in COLUMNS.items():
        op.execute(f"ALTER TABLE app.pipelines ADD COLUMN {name} {definition}".replace(":", "\\:"))
        op.execute(f"COMMENT ON COLUMN app.pipelines.{name} IS '{COMMENTS[name]}'".replace(":", "\\:"))


def downgrade() -> None:
    """Drop them."""
    for name in reversed(COLUMNS):
        op.execute(f"ALTER TABLE app.pipelines DROP COLUMN {name}")
