"""Tests: real PostgreSQL, real Valkey, the real Snowflake SDKs against the local Snowflake; none of our own code is mocked.

unit          pure functions and values
property      the same, with generated inputs
postgres      against PostgreSQL servers that the tests start
snowflake     the SDKs and the actors against the local Snowflake
pipeline      several processes together, from a change to the target table
chaos         crashes, each in its window
architecture  the borders between packages and what the documents promise
support       fixtures (`fix_*.py`, loaded by conftest.py) and what tests share
"""
