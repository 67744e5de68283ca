#!/usr/bin/env python3
"""Asks PyPI for known vulnerabilities of what scripts/constraints.txt pins, by pip-audit. Part of `make check`.

Exit code 1 and one line for each vulnerability, for a pin that PyPI does not know, and when pip-audit itself fails. Where the service can't be
reached there is one line that says so, and exit code 0. A mirror of packages counts as that: it answers 404 for every version, and pip-audit alone
would call this "No known vulnerabilities found".
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CONSTRAINTS = ROOT / "scripts" / "constraints.txt"
PIP_AUDIT = Path(sys.executable).with_name("pip-audit")
TIMEOUT_SECONDS = 300
# How pip-audit ends when nobody answers: its own words, or the last line of a traceback. A certificate that is not good (SSLError) is none of them.
NOT_REACHED = re.compile(
    r"^requests\.exceptions\.(?:Connection|Proxy|Chunked\w+)Error:|^requests\.exceptions\.\w*Timeout:"
    r"|^ERROR:pip_audit\.\w+:Could not connect to ",
    re.MULTILINE,
)


def command(pip_audit: Path) -> list[str]:
    """What is run: it reads the pins and resolves nothing, so no index is asked and nothing is installed."""
    how = ["--no-deps", "--disable-pip", "--progress-spinner", "off", "--format", "json"]
    return [str(pip_audit), "--requirement", str(CONSTRAINTS), *how]


def finds(packages: list[dict[str, Any]]) -> list[str]:
    """What is wrong with the packages of pip-audit's answer, a line for each."""
    found = [package["skip_reason"] for package in packages if "skip_reason" in package]
    for package in packages:
        for known in package.get("vulns", []):
            names = ", ".join([known["id"], *known.get("aliases", [])])
            fix = f"fixed in {', '.join(known['fix_versions'])}" if known["fix_versions"] else "no fix yet"
            found.append(f"{package['name']} {package['version']}: {names} ({fix})")
    return found


def main(pip_audit: Path = PIP_AUDIT) -> int:
    """Ask, and say what was found."""
    try:
        done = subprocess.run(command(pip_audit), capture_output=True, text=True, check=False, timeout=TIMEOUT_SECONDS)
        packages = json.loads(done.stdout)["dependencies"] if done.stdout else []
    except (OSError, subprocess.TimeoutExpired, ValueError, KeyError) as error:
        return _say(1, f"audit of dependencies: pip-audit failed: {type(error).__name__}")
    if packages and all("skip_reason" in package for package in packages):
        return _say(0, "audit of dependencies: NOT DONE, what answers as PyPI knows no version that we pin (a mirror?)")
    if packages:
        found = finds(packages)
        return _say(1 if found or done.returncode else 0, *found)
    if done.returncode and NOT_REACHED.search(done.stderr):
        return _say(0, "audit of dependencies: NOT DONE, PyPI can't be reached from here")
    return _say(1, f"audit of dependencies: pip-audit failed with exit code {done.returncode}", done.stderr.strip())


def _say(code: int, *lines: str) -> int:
    for line in lines:
        sys.stderr.write(f"{line}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
