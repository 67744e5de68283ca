"""docs/limits.md says what the code has."""

import importlib
import re
from pathlib import Path

import pytest

from etl_supervisor.config.settings import Settings

PAGE = (Path(__file__).parents[2] / "docs" / "limits.md").read_text()
ROWS = re.findall(r"^\| [^|]+ \| `([^`]+)`([^|]*) \| ([^|]+) \| [^|]+ \|$", PAGE, re.MULTILINE)


@pytest.mark.parametrize(("name", "more", "value"), ROWS, ids=[name for name, _, _ in ROWS])
def test_a_limit_is_as_it_is_written(name: str, more: str, value: str) -> None:
    if more:  # a column of app.pipelines
        columns = "".join(path.read_text() for path in Path("migrations/app/versions").glob("*.py"))
        assert re.search(rf"{name}\s+integer NOT NULL DEFAULT {value}\b", columns), name
    elif name.isupper():
        assert float(Settings.model_fields[name.lower()].default) == float(value)
    else:
        module, _, constant = name.rpartition(".")
        assert getattr(importlib.import_module(module), constant) == float(value)


def test_every_line_of_the_tables_was_looked_at() -> None:
    assert len(ROWS) == sum(line.startswith("| ") and "`" in line for line in PAGE.splitlines())
