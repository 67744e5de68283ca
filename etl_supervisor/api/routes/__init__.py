"""The routes of /api/v1, by what they are about.

resources     what sources, destinations and pipelines have alike: list, create, read, change, replace, delete
configured    these three, and starting and pausing a pipeline
inspection    a source's connection, schemas and tables
publications  its publications
slots         its slots
live          pipelines at work: lag, tables, errors, dead rows; copying again, trying again
copying       first copies: how far they are, or were
examination   the doctor: everything, or one pipeline
metering      what pipelines bring and spend
verification  comparing source and target, and what was found before
wal           what the WAL monitor has measured, and where slots go
watching      operations, the stream of events
administration  keys, audit log, connection pool
alerting      settings in force, those that are changed while it runs, a test of the alerts
health        /health and /ready
"""
