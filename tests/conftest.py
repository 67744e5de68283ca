"""Loads the fixtures of every `tests/support/fix_*.py`."""

from pathlib import Path

import pytest

pytest.register_assert_rewrite("tests.support")  # before they import each other

pytest_plugins = [f"tests.support.{path.stem}" for path in sorted(Path(__file__).parent.glob("support/fix_*.py"))]
