"""Moves the rows: the processes that the supervisor forks and names by entry points.

reader     one per source: replication stream -> Arrow -> actors; and the copy workers
snowflake  the actors: Arrow -> landing tables -> targets
verify     no process of its own: compares source and target at one LSN, for the command line
"""
