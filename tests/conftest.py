"""Loads the fixtures of every `tests/support/fix_*.py`."""

from pathlib import Path

pytest_plugins = [f"tests.support.{path.stem}" for path in sorted(Path(__file__).parent.glob("support/fix_*.py"))]
