"""The soak: rows change under a seeded stream of faults, and afterwards every target equals its source (docs/soak.md).

    make soak MINUTES=15 SEED=4711          a seed of its own where none is given; the same seed makes the same decisions

The report goes to .local/results/soak.json, whatever happens; the supervisor's log lies beside it.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import shutil
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from tests.support.soak.run import Soak
from tests.support.soak.verdict import Verdict
from tests.support.soak.world import fresh_world

RESULTS = Path(".local/results")
SEEDS = 1_000_000


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 1 when anything is not as it should be. Goals that were missed are told, and change nothing."""
    parser = argparse.ArgumentParser(description="Change rows under faults and compare.")
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--seed", type=int, default=None)
    wanted = parser.parse_args(arguments)
    seed = random.SystemRandom().randrange(SEEDS) if wanted.seed is None else wanted.seed
    say(f"seed {seed}, {wanted.minutes:g} minutes")
    RESULTS.mkdir(parents=True, exist_ok=True)
    good, report = soak(seed, wanted.minutes)
    text = orjson.dumps(report, option=orjson.OPT_INDENT_2) + b"\n"
    (RESULTS / "soak.json").write_bytes(text)
    sys.stdout.buffer.write(text)
    for line in report.get("goals_missed", []):
        say(f"goal missed: {line}")
    if not good:
        say(f"failed: make soak MINUTES={wanted.minutes:g} SEED={seed} makes the same decisions again")
    return 0 if good else 1


def soak(seed: int, minutes: float) -> tuple[bool, dict[str, Any]]:
    """Whether all was well, and the report; `error` is what has ended the soak before its verdict, and the traceback goes to stderr."""
    verdict = Verdict()
    report: dict[str, Any] = {"seed": seed, "minutes": minutes}
    error = None
    try:
        with fresh_world(seed) as world:
            running = Soak(world, say)
            try:
                verdict = running.run(minutes)
            finally:
                with contextlib.suppress(FileNotFoundError):  # no supervisor was started
                    shutil.copy(world.folder / "supervisor.log", RESULTS / "soak.log")
                report = running.report(minutes, verdict)
    except Exception as problem:  # whatever it is, the report says so and the seed is told
        traceback.print_exc()
        error = f"{type(problem).__name__}: {problem}"
    return verdict.good and error is None, {**report, "error": error}


def say(line: str) -> None:
    """With the time of day."""
    print(time.strftime("%H:%M:%S"), line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
