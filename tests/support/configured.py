"""What a source and a destination need at least, where nothing connects to them."""

from __future__ import annotations

SOURCE = {"pg_host": "h", "pg_database": "d", "pg_username": "u", "publication_name": "p"}
DESTINATION = {
    "snowflake_account": "A",
    "snowflake_user": "U",
    "snowflake_database": "DB",
    "snowflake_schema": "S",
    "snowflake_private_key_path": "k.p8",
}
