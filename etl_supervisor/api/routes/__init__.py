"""The routes of /api/v1, by what they are about.

resources     what sources, destinations and pipelines have alike: list, create, read, change, replace, delete
configured    these three, and starting and pausing a pipeline
administration  keys, audit log, settings, connection pool
health        /health and /ready
"""
