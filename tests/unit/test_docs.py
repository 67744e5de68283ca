"""What is written is what there is."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from etl_supervisor.config.describe import describe
from etl_supervisor.errors import Kind
from etl_supervisor.exits import Exit, code_of
from etl_supervisor.policy import directive
from etl_supervisor.repository.alerting import AT_RUN_TIME

ROOT = Path(__file__).parents[2]


def doc(name):
    return (ROOT / "docs" / name).read_text()


def test_every_setting_is_in_the_configuration_page_with_default_and_limits():
    text = doc("configuration.md")
    for setting in describe():
        default = f"`{setting.default}`" if setting.default else "-"
        assert f"| `{setting.name}` | {default} | {setting.allowed} | {setting.reason} |" in text
    assert text.count("\n| `") == len(describe())


def test_the_configuration_page_says_what_is_changed_while_everything_runs():
    told = re.search(r"^Changed while everything runs.*?: (.*?)\. What", doc("configuration.md"), re.MULTILINE)
    assert told is not None
    assert told[1] == ", ".join(f"`{name.upper()}`" for name in AT_RUN_TIME)


def test_the_page_of_types_is_what_the_code_does():
    assert doc("types.md") == runpy.run_path(str(ROOT / "scripts" / "write_types.py"))["page"](), "run `make docs`"


def test_every_kind_of_error_is_listed_with_what_happens():
    text = doc("errors.md")
    for kind in Kind:
        assert re.search(
            rf"^\| `{kind}` \| .+ \| {directive(kind).name.lower()} \| {code_of(kind).value} \|$", text, re.MULTILINE
        )


def test_every_exit_code_is_listed():
    for code in Exit:
        assert f"| {code.value} | {code.name} |" in doc("operations.md")


def test_the_page_of_metrics_is_what_the_code_counts():
    assert doc("metrics.md") == runpy.run_path(str(ROOT / "scripts" / "write_metrics.py"))["page"](), "run `make docs`"


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))])
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)", (ROOT / page).read_text()):
        assert target.startswith("http") or (ROOT / page).parent.joinpath(target).exists(), target


def test_every_requirement_has_its_reason():
    text = doc("dependencies.md")
    setup = (ROOT / "setup.cfg").read_text()
    for section in re.findall(r"install_requires =\n((?:    .*\n)+)", setup):
        for line in section.splitlines():
            assert re.split(r"[\[>=<]", line.strip())[0] in text, line


def test_both_snowflake_packages_work_together_in_either_order():
    one, other = "snowflake.ingest.simple_ingest_manager", "snowflake.ingest.streaming"
    for first, second in ((one, other), (other, one)):
        subprocess.run([sys.executable, "-W", "ignore", "-c", f"import {first}; import {second}"], check=True)
