"""The scan finds what must not be in git, and nothing is there. (Samples are put together here, or the scan would find them.)"""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

SCAN = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "scan_secrets.py"))
SAMPLES = {
    "a private key": "-----BEGIN " + "PRIVATE KEY-----\n" + "M" * 64,
    "a key of AWS": "AK" + "IA" + "ABCDEFGHIJKLMNOP",
    "a token of GitHub": "gh" + "p_" + "a" * 36,
    "a token of Slack": "xox" + "b-1234567890-abcdef",
    "a key of Google": "AI" + "za" + "b" * 35,
    "a token (JWT)": "ey" + "J" + "hbGciOiJIUzI1NiJ9" + ".ey" + "J" + "zdWIiOiIxMjM0NTYifQ" + "." + "c" * 20,
    "an API key of ours": "et" + "l_" + "abcdefgh" + "_" + "d" * 32,
    "a stored secret": "v" + "1:00000000:" + "A" * 60,
    "a password in a URL": "postgresql://etl:" + "Tr0ub4dor" + "@db.internal/etl",
    "a value of a secret setting": "SECRET_" + "KEY=" + "0123456789abcdef",
}


@pytest.mark.parametrize("what", SAMPLES)
def test_every_form_is_found_and_its_value_is_not_repeated(what: str) -> None:
    text = f"one\ntwo\n{SAMPLES[what]}\n"
    assert SCAN["finds"]("some/file.txt", text) == [f"some/file.txt:3: {what}"]


@pytest.mark.parametrize("name", [".env", "keys/snowflake.p8", "a/id_rsa", "server.key"])
def test_files_of_keys_are_found_by_their_names(name: str) -> None:
    assert SCAN["finds"](name, "") == [f"{name}: a file of this name holds keys"]


@pytest.mark.parametrize(
    "text",
    [
        "DATABASE_URL=postgresql://etl:password@localhost:5432/etl",
        "# SECRET_KEY=0123456789abcdef0123",
        "SECRET_KEY=$(openssl rand -hex 32)",
        "redis://127.0.0.1:6379",
        "-----BEGIN " + "PRIVATE KEY-----",
    ],
)
def test_examples_are_let_pass(text: str) -> None:
    assert SCAN["finds"]("docs/page.md", text) == []


def test_nothing_is_in_the_repository(capsys: pytest.CaptureFixture[str]) -> None:
    assert SCAN["main"]() == 0, capsys.readouterr().err
