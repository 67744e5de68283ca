"""The config database (schema app): what should run.

connection    a connection, and why there is none
migrations    both chains of migrations, under a lock
desired       sources with their started pipelines, in one snapshot; secrets written in clear are encrypted on the way
selecting     which tables a pipeline takes, and what becomes of columns
removed       pipelines that were deleted and are not cleaned up yet
report        how the supervisor's children are, for the API
write         creating and changing sources, destinations and pipelines
"""
