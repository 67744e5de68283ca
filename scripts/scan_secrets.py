#!/usr/bin/env python3
"""Looks for secrets in what git has: private keys, keys of cloud services, passwords in URLs and settings. Part of `make check`.

A line that is an example says so by its value: a placeholder, a value that the tests or the documentation use (EXAMPLES), nothing at all.
Exit code 1 and one line per find, without the value.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FILE_BYTES_MAX = 2 << 20
FORBIDDEN_NAMES = re.compile(r"(^|/)(\.env|id_(rsa|ed25519|ecdsa)|.*\.(p8|pem|key|pfx|p12|jks))$")
FORMS = {
    "a private key": re.compile(r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----\s*\n\s*[A-Za-z0-9+/=]{40}"),
    "a key of AWS": re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    "a token of GitHub": re.compile(r"\bgh[pousr]_[A-Za-z0-9]{36}\b|\bgithub_pat_[A-Za-z0-9_]{50,}\b"),
    "a token of Slack": re.compile(r"\bxox[abprs]-[0-9A-Za-z-]{10,}\b|hooks\.slack\.com/services/T\w+/B\w+/\w+"),
    "a key of Google": re.compile(r"\bAIza[0-9A-Za-z_-]{35}\b"),
    "a token (JWT)": re.compile(r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\b"),
    "an API key of ours": re.compile(r"\betl_[A-Za-z0-9]{8}_[A-Za-z0-9_-]{20,}\b"),
    "a stored secret": re.compile(r"\bv1:[0-9a-f]{8}:[A-Za-z0-9+/]{38,}={0,2}"),
    "a password in a URL": re.compile(r"\b[a-z][a-z0-9+]*://[^\s:/@'\"<>{}]+:(?P<value>[^\s:/@'\"<>{}]+)@(?P<host>[\w.-]+)"),
    "a value of a secret setting": re.compile(
        r"^(?!\s*#)\s*(?:export )?(?:\w*_)?(?:PASSWORD|SECRET|SECRET_KEY|TOKEN|PASSPHRASE)=[\"']?(?P<value>[^\s\"'$]{8,})", re.MULTILINE
    ),
}  # fmt: skip
EXAMPLES = re.compile(r"pass(word|phrase)?|geheim\w*|secret|another|example|wrong|p|pw|x+|\.\.\.", re.IGNORECASE)

NOWHERE = re.compile(r"[a-z]|(.*\.)?example(\.\w+)?")  # hosts that can't be


def tracked() -> list[Path]:
    """What git has or would add."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode()
    return [ROOT / name for name in listed.split("\0") if name]


def finds(path: str, text: str) -> list[str]:
    """What is in a file: `path:line: what it is`."""
    found = [f"{path}: a file of this name holds keys"] if FORBIDDEN_NAMES.search(path) else []
    for what, form in FORMS.items():
        for match in form.finditer(text):
            parts = match.groupdict()
            if EXAMPLES.fullmatch(parts.get("value") or "-") or NOWHERE.fullmatch(parts.get("host") or "-"):
                continue
            found.append(f"{path}:{text.count(chr(10), 0, match.start()) + 1}: {what}")
    return found


def main() -> int:
    """Look at everything."""
    found = []
    for path in tracked():
        if path.is_file() and not path.is_symlink() and path.stat().st_size <= FILE_BYTES_MAX:
            found += finds(str(path.relative_to(ROOT)), path.read_text(errors="replace"))
    for line in found:
        sys.stderr.write(f"{line}\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
