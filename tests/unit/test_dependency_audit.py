"""The audit of dependencies fails for what is found and for what goes wrong; it passes, and says so, only where nobody can be asked."""

from __future__ import annotations

import json
import runpy
import shlex
from pathlib import Path
from typing import Any

import pytest

AUDIT = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "audit_dependencies.py"))
GOOD = {"name": "orjson", "version": "3.11.0", "vulns": []}
BAD = {
    "name": "urllib3",
    "version": "1.26.0",
    "vulns": [
        {"id": "PYSEC-2023-212", "aliases": ["CVE-2023-45803"], "fix_versions": ["1.26.18", "2.0.7"]},
        {"id": "PYSEC-2099-1", "fix_versions": []},
    ],
}
UNKNOWN = {"name": "gone", "skip_reason": "Dependency not found on PyPI and could not be audited: gone (1.0)"}
NO_HOST = "Traceback (most recent call last):\n  ...\nrequests.exceptions.ConnectionError: HTTPSConnectionPool(host='pypi.org', port=443)"
TIMED_OUT = "ERROR:pip_audit._cli:Could not connect to PyPI's vulnerability feed\nERROR:pip_audit._cli:Tip: …"


def audited(tmp_path: Path, code: int, packages: list[dict[str, Any]] | str = "", said: str = "") -> int:
    """The exit code where pip-audit ends with `code`, with this answer and these words."""
    answer = packages if isinstance(packages, str) else json.dumps({"dependencies": packages, "fixes": []})
    program = tmp_path / "pip-audit"
    program.write_text(f"#!/bin/sh\nprintf %s {shlex.quote(answer)}\nprintf %s {shlex.quote(said)} >&2\nexit {code}\n")
    program.chmod(0o755)
    ended: int = AUDIT["main"](program)
    return ended


def test_nothing_is_said_where_nothing_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert audited(tmp_path, 0, [GOOD], "No known vulnerabilities found") == 0
    assert capsys.readouterr().err == ""


def test_a_vulnerability_fails_and_names_package_and_version(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", "true")
    assert audited(tmp_path, 1, [GOOD, BAD], "Found 2 known vulnerabilities in 1 package") == 1
    assert capsys.readouterr().err.splitlines() == [
        "urllib3 1.26.0: PYSEC-2023-212, CVE-2023-45803 (fixed in 1.26.18, 2.0.7)",
        "urllib3 1.26.0: PYSEC-2099-1 (no fix yet)",
    ]


@pytest.mark.parametrize("said", [NO_HOST, TIMED_OUT, "requests.exceptions.ReadTimeout: pypi.org"])
@pytest.mark.parametrize("ci", ["", "true"])
def test_a_service_that_can_not_be_reached_passes_with_one_line(
    said: str, ci: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", ci)
    assert audited(tmp_path, 1, said=said) == 0
    assert capsys.readouterr().err == "audit of dependencies: NOT DONE, PyPI can't be reached from here\n"


def test_pip_audit_itself_is_understood_where_there_is_no_way_out(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in {
        "HTTPS_PROXY": "http://127.0.0.1:9",
        "NO_PROXY": "",
        "no_proxy": "",
        "PIP_CACHE_DIR": str(tmp_path),
    }.items():
        monkeypatch.setenv(name, value)  # no answer of an earlier audit, either
    assert AUDIT["main"]() == 0
    assert capsys.readouterr().err == "audit of dependencies: NOT DONE, PyPI can't be reached from here\n"


def test_a_mirror_that_knows_no_version_passes_with_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audited(tmp_path, 0, [UNKNOWN, UNKNOWN], "No known vulnerabilities found") == 0
    assert capsys.readouterr().err == (
        "audit of dependencies: NOT DONE, what answers as PyPI knows no version that we pin (a mirror?)\n"
    )


def test_a_single_pin_that_pypi_does_not_know_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert audited(tmp_path, 0, [GOOD, UNKNOWN]) == 1
    assert capsys.readouterr().err == "Dependency not found on PyPI and could not be audited: gone (1.0)\n"


@pytest.mark.parametrize(
    ("code", "answer", "said"),
    [
        (1, "", "ERROR:pip_audit._cli:invalid requirements input: constraints.txt"),
        (1, "", "requests.exceptions.SSLError: HTTPSConnectionPool(host='pypi.org', port=443)"),
        (2, "", "usage: pip-audit [-h]"),
        (0, "", "nothing was audited"),
        (0, "{}", ""),
        (0, "no JSON", ""),
        (3, [GOOD], "and a word"),
    ],
)
def test_every_other_failure_of_the_tool_fails(code: int, answer: Any, said: str, tmp_path: Path) -> None:
    assert audited(tmp_path, code, answer, said) == 1


def test_a_missing_tool_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert AUDIT["main"](tmp_path / "pip-audit") == 1
    assert capsys.readouterr().err == "audit of dependencies: pip-audit failed: FileNotFoundError\n"
