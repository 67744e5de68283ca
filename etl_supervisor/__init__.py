"""ETL Stream's control side: keeps the processes alive and owns the words they exchange.

cli          the command line: run, migrate, status, demo, sql, local-snowflake
config       settings: environment, .env, YAML files
errors       one line an operator can act on: kind, place, reason, remedy
policy       kind of failure -> what the system does about it
exits        the named exit codes of every process
failpoints   named places where a crash matters; the chaos tests visit each
model        pure values: LSN, position, relation, progress, table state
ipc          messages, their wire form, mailboxes, shared-memory slabs, heartbeats
supervision  forks, waits, restarts
state        the state store's promise, kept by Redis and by PostgreSQL
api          the REST API: sources, destinations, pipelines, health
repository   sources, destinations and pipelines in the config database; secrets at rest
monitor      the monitor child: config poll, migrations, metrics endpoint, logs
embedded     PostgreSQL, Valkey and a local Snowflake for a machine that has none
"""
