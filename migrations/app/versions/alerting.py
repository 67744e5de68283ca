"""Alerting that is changed while it runs: see `etl_supervisor.repository.alerting`."""

from alembic import op

revision = "alerting"
down_revision = "wal_pages"

COMMENTS = {
    "warning_wal": "MB",
    "danger_wal": "MB; not below warning_wal",
    "time_check_notification": "minutes that trouble must last before it is told",
    "alert_wal_url": "encrypted",
    "alert_slack_url": "encrypted",
    "alert_smtp_url": "encrypted",
}


def upgrade() -> None:
    """Add the table; without a row the environment's settings are in force."""
    op.execute(
        """CREATE TABLE app.settings (
        id                       bigint PRIMARY KEY DEFAULT 1 CONSTRAINT "there is one row" CHECK (id = 1),
        name                     text NOT NULL DEFAULT 'alerting' CONSTRAINT "its name is alerting" CHECK (name = 'alerting'),
        warning_wal              integer CONSTRAINT "warning_wal is at least 1" CHECK (warning_wal >= 1),
        danger_wal               integer CONSTRAINT "danger_wal is at least 1" CHECK (danger_wal >= 1),
        time_check_notification  integer CONSTRAINT "time_check_notification is 0 to 10080" CHECK (time_check_notification BETWEEN 0 AND 10080),
        alert_wal_url            text,
        alert_slack_url          text,
        alert_email_to           text,
        alert_email_from         text,
        alert_smtp_url           text,
        created_at               timestamptz NOT NULL DEFAULT now(),
        updated_at               timestamptz NOT NULL DEFAULT now())"""
    )
    op.execute("CREATE TRIGGER touch BEFORE UPDATE ON app.settings FOR EACH ROW EXECUTE FUNCTION app.touch()")
    op.execute(
        "COMMENT ON TABLE app.settings IS 'settings that are changed while it runs; NULL: as the environment says'"
    )
    for name, comment in COMMENTS.items():
        op.execute(f"COMMENT ON COLUMN app.settings.{name} IS '{comment}'")


def downgrade() -> None:
    """Drop it: the environment's settings are in force again."""
    op.execute("DROP TABLE app.settings")
