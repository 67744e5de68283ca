"""The config database (schema app): what should run.

connection    a connection, and why there is none
migrations    both chains of migrations, under a lock
newest        whether they are needed, without Alembic
desired       sources with their started pipelines, in one snapshot; secrets written in clear are encrypted on the way
secrets       where secrets stand, encrypting them in place, and again under another key
leases        which supervisor runs which source
report        how the supervisor's children are, for the API
selecting     which tables a pipeline takes, and what becomes of columns
removed       pipelines that were deleted and are not cleaned up yet
metering      what supervisors have counted of pipelines: rates, latencies, what is billed
verify_runs   verifications: at most one of a pipeline runs, and what the others found
alerting      what of alerting is in force: settings, and what was changed while it runs
wal           what the WAL monitor has measured and told, and alerts that are on their way
write         creating and changing sources, destinations and pipelines
"""
