"""Fixtures, a file for each thing they fix (`fix_*.py`), and what several tests share."""
