"""The borders between packages, and the map at each door."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = sorted(
    path.parent.relative_to(ROOT) for top in ("etl_supervisor", "workers") for path in (ROOT / top).rglob("__init__.py")
)
MODULES = sorted(path.relative_to(ROOT) for top in ("etl_supervisor", "workers") for path in (ROOT / top).rglob("*.py"))
LINES_MAX = 420  # no module grows into a hall
VAGUE = {"utils", "util", "common", "helpers", "helper", "manager", "handler", "base", "misc", "core"}
HEAVY = ("pyarrow", "numpy", "psycopg", "snowflake", "prometheus_client", "redis", "sqlalchemy", "duckdb", "fakesnow")


def test_imports_keep_to_their_borders():
    program = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run([program, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_supervisor_imports_nothing_heavy():
    program = "import sys, etl_supervisor.cli.start, etl_supervisor.config.settings; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    tops = {name.split(".")[0] for name in done.stdout.splitlines()}
    assert not tops & set(HEAVY)


@pytest.mark.parametrize("package", PACKAGES, ids=str)
def test_every_packages_docstring_lists_its_modules(package):
    text = importlib.import_module(str(package).replace("/", ".")).__doc__ or ""
    listed = {line.split()[0] for line in text.splitlines() if line.strip()}
    for item in (ROOT / package).iterdir():
        name = item.stem
        if (
            name.startswith("__")
            or (item.is_dir() and not (item / "__init__.py").exists())
            or item.suffix not in ("", ".py")
        ):
            continue
        assert name in listed, f"{package} does not tell what {name} is"


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_every_module_tells_its_theory_and_stays_a_room(module):
    text = (ROOT / module).read_text()
    assert text.startswith(('"""', 'r"""')), "a module begins with what it is"
    assert len(text.splitlines()) <= LINES_MAX
    assert module.stem not in VAGUE
