"""What a machine lacks, brought along: PostgreSQL, Valkey and a local Snowflake, each gone when its starter is.

launch       the few lines between us and a server: drop root, tie its life to ours
process      a server that lives as long as we do: lock, log, readiness, orderly end
ports        loopback ports that stay the same from one start to the next
pg_programs  where PostgreSQL's programs are
postgres     the embedded PostgreSQL
valkey       the embedded Valkey (Redis)
snowflake    the local Snowflake
stack        all of them together, and a pipeline between them
shop         the demo's sources: a shop with live changes, and an inventory that joins later
"""
