"""The chain of schema `etl`; env.py is Alembic's entry, versions/ the steps."""
