"""How connections to a source are encrypted: verified as soon as there is an authority, and channel binding."""

from alembic import op

revision = "tls"
down_revision = "naming"

LIBPQ = "'disable', 'allow', 'prefer', 'require', 'verify-ca', 'verify-full'"
RULE = '"pg_tls_mode is auto or an sslmode of libpq"'
UP = f"""
ALTER TABLE app.sources DROP CONSTRAINT sources_pg_tls_mode_check,
    ADD CONSTRAINT {RULE} CHECK (pg_tls_mode IN ('auto', {LIBPQ})),
    ALTER COLUMN pg_tls_mode SET DEFAULT 'auto',
    ADD COLUMN pg_channel_binding text NOT NULL DEFAULT 'prefer'
        CONSTRAINT "pg_channel_binding is prefer, require or disable" CHECK (pg_channel_binding IN ('prefer', 'require', 'disable'));
UPDATE app.sources SET pg_tls_mode = 'auto' WHERE pg_tls_mode = 'prefer';
COMMENT ON COLUMN app.sources.pg_tls_mode IS 'auto is verify-full where there is a pg_tls_ca, and prefer where there is none'
"""
DOWN = f"""
UPDATE app.sources SET pg_tls_mode = CASE WHEN pg_tls_ca IS NULL THEN 'prefer' ELSE 'verify-full' END WHERE pg_tls_mode = 'auto';
ALTER TABLE app.sources DROP COLUMN pg_channel_binding,
    DROP CONSTRAINT {RULE},
    ALTER COLUMN pg_tls_mode SET DEFAULT 'prefer',
    ADD CONSTRAINT sources_pg_tls_mode_check CHECK (pg_tls_mode IN ({LIBPQ}));
COMMENT ON COLUMN app.sources.pg_tls_mode IS NULL
"""


def upgrade() -> None:
    """Sources with the former default get the new one: where they have an authority, the server is verified from now on."""
    op.execute(UP)


def downgrade() -> None:
    """What `auto` means now is written out."""
    op.execute(DOWN)
