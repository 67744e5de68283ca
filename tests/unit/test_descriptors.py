"""A limit of descriptors that is too low is told at the start."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from etl_supervisor.cli.start import descriptors_needed
from etl_supervisor.config.settings import load
from etl_supervisor.exits import Exit

ENVIRONMENT = {"SECRET_KEY": "x" * 32, "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"}
PAGE = (Path(__file__).parents[2] / "docs" / "limits.md").read_text()


def test_too_few_are_one_line_with_its_remedy(tmp_path: Path) -> None:
    needed = descriptors_needed(load(tmp_path, ENVIRONMENT))

    def lower() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed - 1, needed - 1))

    done = subprocess.run(
        [sys.executable, "-m", "etl_supervisor.cli.main", "run"],
        cwd=tmp_path,
        env={**ENVIRONMENT, "PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        preexec_fn=lower,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == Exit.CONFIG
    assert done.stdout == ""
    assert done.stderr == (
        f"etl-supervisor: config at limit of open files: {needed - 1} are allowed to a process, {needed} may be needed"
        f" (set it to {needed} or more (LimitNOFILE of systemd, --ulimit nofile of a container, ulimit -Hn),"
        " or lower SNOWFLAKE_CHANNELS_MAX or SNOWFLAKE_ACTOR_POOL_SIZE)\n"
    )


PROGRAM = """
import resource, sys
from pathlib import Path
from etl_supervisor.cli.start import allow_descriptors, descriptors_needed
from etl_supervisor.config.settings import load
settings = load(Path("."), {"SECRET_KEY": "x" * 32})
needed = descriptors_needed(settings)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, needed))
allow_descriptors(settings)
print(resource.getrlimit(resource.RLIMIT_NOFILE) == (needed, needed))
"""


def test_as_many_as_are_needed_are_enough_and_all_that_may_be_are_taken() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


@pytest.mark.parametrize(("actors", "channels", "needed"), [(4, 200, 512), (64, 1, 294)])
def test_the_page_says_how_many(tmp_path: Path, actors: int, channels: int, needed: int) -> None:
    chosen = {"SNOWFLAKE_ACTOR_POOL_SIZE": str(actors), "SNOWFLAKE_CHANNELS_MAX": str(channels)}
    assert descriptors_needed(load(tmp_path, {**ENVIRONMENT, **chosen})) == needed
    assert "100 + 2 × `SNOWFLAKE_CHANNELS_MAX` + 3 × `SNOWFLAKE_ACTOR_POOL_SIZE`: 512 by default" in PAGE
