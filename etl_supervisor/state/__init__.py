"""The state store: what must outlive the processes.

store     the promise
redis     kept by Redis or Valkey
postgres  kept by PostgreSQL, schema etl
choose    which of them
streams   which readers a source needs, by what the store knows of parked pipelines
"""
