"""The soak: rows change under a seeded stream of faults, and afterwards every target equals its source (docs/soak.md).

    make soak MINUTES=15 SEED=4711          a seed of its own where none is given; the same seed makes the same decisions

The report goes to .local/results/soak.json; the supervisor's log lies beside it.
"""

from __future__ import annotations

import argparse
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import orjson

from tests.support.soak.markers import HangError
from tests.support.soak.run import Soak
from tests.support.soak.verdict import Verdict
from tests.support.soak.world import fresh_world

RESULTS = Path(".local/results")
SEEDS = 1_000_000


def main() -> int:
    """Exit code 1 when anything is not as it should be."""
    parser = argparse.ArgumentParser(description="Change rows under faults and compare.")
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--seed", type=int, default=None)
    wanted = parser.parse_args()
    seed = random.SystemRandom().randrange(SEEDS) if wanted.seed is None else wanted.seed
    say(f"seed {seed}, {wanted.minutes:g} minutes")
    RESULTS.mkdir(parents=True, exist_ok=True)
    with fresh_world(seed) as world:
        soak = Soak(world, say)
        try:
            verdict = soak.run(wanted.minutes)
        except (HangError, AssertionError, subprocess.TimeoutExpired) as error:
            verdict = Verdict(differences=[f"{type(error).__name__}: {error}"])
        finally:
            shutil.copy(world.folder / "supervisor.log", RESULTS / "soak.log")
        report = soak.report(wanted.minutes, verdict)
        (RESULTS / "soak.json").write_bytes(orjson.dumps(report, option=orjson.OPT_INDENT_2) + b"\n")
    sys.stdout.buffer.write(orjson.dumps(report, option=orjson.OPT_INDENT_2) + b"\n")
    if not verdict.good:
        say(f"failed: make soak MINUTES={wanted.minutes:g} SEED={seed} makes the same decisions again")
    return 0 if verdict.good else 1


def say(line: str) -> None:
    """With the time of day."""
    print(time.strftime("%H:%M:%S"), line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
