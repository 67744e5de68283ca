"""The Makefile: one door that explains itself, an installation that says what it lacks, a Ctrl-C that arrives once."""

from __future__ import annotations

import os
import pty
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DEADLINE_S = 20.0
PROGRAM = """#!/usr/bin/env python3
import signal, sys, time
interrupts = []
signal.signal(signal.SIGINT, lambda *_: interrupts.append(1))
print("up", flush=True)
while not interrupts:
    time.sleep(0.01)
time.sleep(0.3)  # a second signal for the same key would arrive now
print("interrupts:", len(interrupts), flush=True)
"""


def make(*arguments: str, folder: Path = ROOT, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", *arguments],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", **variables},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The Makefile and the scripts in a place of their own, with nothing installed."""
    for name in ("Makefile", "setup.cfg", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    return tmp_path


def pretend_installed(checkout: Path, program: str, text: str) -> None:
    """Leave a program where an installation would have put it, and an installer that has nothing to do."""
    path = checkout / ".venv" / "bin" / program
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    (checkout / "scripts" / "bootstrap.sh").write_text("#!/bin/sh\n")


def test_make_alone_lists_every_target() -> None:
    listed = re.findall(r"^  make (\S+)", make().stdout, re.MULTILINE)
    targets = re.findall(r"^\.PHONY: (\w[\w-]*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert listed == targets
    assert {"install", "run", "demo", "test", "check", "format", "hooks", "clean"} <= set(listed)


def test_a_python_that_is_too_old_is_refused_in_one_line(checkout: Path, tmp_path: Path) -> None:
    old = tmp_path / "python3.10"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    done = make("install", folder=checkout, PYTHON=str(old))
    assert done.returncode != 0
    assert done.stderr.splitlines()[0] == (
        f"install: no Python >= 3.11 among: {old}. Install one (Debian: apt-get install python3 python3-venv), "
        "or name it: make PYTHON=/path/to/python3.12 ..."
    )


def test_uv_that_is_asked_for_and_missing_is_an_error(checkout: Path) -> None:
    if shutil.which("uv", path="/usr/bin:/bin"):
        pytest.skip("uv is a system program here")
    done = make("install", folder=checkout, USE_UV="1", PATH="/usr/bin:/bin")
    assert done.returncode != 0
    assert done.stderr.startswith("install: USE_UV=1, but there is no uv on PATH\n")


def test_the_programs_exit_code_fails_the_target(checkout: Path) -> None:
    pretend_installed(checkout, "etl-supervisor", "#!/bin/sh\nexit 78\n")
    done = make("run", folder=checkout)
    assert done.returncode == 2
    assert "Error 78" in done.stderr


def test_arguments_reach_the_program(checkout: Path) -> None:
    pretend_installed(checkout, "etl-supervisor", '#!/bin/sh\necho "$@"\n')
    assert make("demo", "ARGS=--rows 500", folder=checkout).stdout == "demo --rows 500\n"


def test_ctrl_c_reaches_the_program_once_and_make_adds_nothing(checkout: Path) -> None:
    pretend_installed(checkout, "etl-supervisor", PROGRAM)
    screen, terminal = pty.openpty()
    with subprocess.Popen(
        ["setsid", "--ctty", "make", "run"], cwd=checkout, stdin=terminal, stdout=terminal, stderr=terminal
    ) as process:
        os.close(terminal)
        text = read_until(screen, "up")
        os.write(screen, b"\x03")
        text += read_until(screen, None)
        process.wait(DEADLINE_S)
    os.close(screen)
    assert text.replace("\r\n", "\n").replace("^C", "").strip() == "up\ninterrupts: 1"


def read_until(screen: int, word: str | None) -> str:
    """What a terminal shows until the word comes (None: until nobody writes to it any more)."""
    text = ""
    end = time.monotonic() + DEADLINE_S
    while word is None or word not in text:
        assert time.monotonic() < end, text
        try:
            text += os.read(screen, 1024).decode()
        except OSError:  # the terminal's other side is closed
            break
    return text


def test_clean_leaves_the_data(checkout: Path) -> None:
    for name in (".venv", ".local", "etl_supervisor.egg-info"):
        (checkout / name).mkdir()
    assert make("clean", folder=checkout).returncode == 0
    assert (checkout / ".local").exists()
    assert not (checkout / ".venv").exists()
    assert make("clean-data", folder=checkout).stdout == "removed .local\n"
    assert not (checkout / ".local").exists()


def test_constraints_are_exact_versions_in_order() -> None:
    header, *lines = (ROOT / "scripts" / "constraints.txt").read_text().splitlines()
    assert "make constraints" in header
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
    assert lines == sorted(lines, key=str.upper)


def test_every_script_is_executable_and_its_shell_can_read_it() -> None:
    named = [path for path in ROOT.glob("scripts/*_migration*") if path.read_text().startswith("#!/bin/sh")]
    scripts = [*ROOT.glob("scripts/*.sh"), *named, ROOT / ".ci" / "run"]
    for script in scripts:
        assert os.access(script, os.X_OK), script
        shell = "bash" if "bash" in script.read_text().splitlines()[0] else "sh"
        subprocess.run([shell, "-n", str(script)], check=True)


def test_the_example_of_env_sets_nothing_by_itself() -> None:
    lines = (ROOT / ".env.example").read_text().splitlines()
    assert all(not line or line.startswith("# ") for line in lines)
