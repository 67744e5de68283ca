"""The chain of schema `app`; env.py is Alembic's entry, versions/ the steps."""
