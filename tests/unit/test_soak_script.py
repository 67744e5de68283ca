"""What `make soak` leaves, however the soak ends: a report, an exit code, and the seed."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import orjson
import pytest

from scripts import soak as script
from tests.support.soak.run import Recovery, Soak
from tests.support.soak.verdict import Verdict

MINUTES, SEED = 15.0, 4711
ARGUMENTS = ["--minutes", "15", "--seed", str(SEED)]
KEYS = {
    "seed",
    "minutes",
    "faults",
    "faults_by_kind",
    "rows_lost",
    "rows_doubled",
    "usual_s",
    "recovery_p50_s",
    "recovery_p95_s",
    "recovery_max_s",
    "recoveries_after_cool_down",
    "recovery_after_cool_down_p95_s",
    "goals_missed",
    "tables",
    "rows",
    "transactions",
    "workload",
    "supervisors_ended",
    "differences",
    "leftovers",
    "crashes",
    "absent",
    "recoveries",
    "error",
}


@pytest.fixture
def end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Verdict | BaseException], int]:
    """`main` with a run that strikes twice and ends so; it stands for servers, a supervisor and a quarter of an hour."""

    @contextlib.contextmanager
    def world(seed: int) -> Iterator[SimpleNamespace]:
        (tmp_path / "supervisor.log").write_text("a line\n")
        yield SimpleNamespace(seed=seed, folder=tmp_path, landed=Counter, ends=Counter({-9: 1}))

    def main(ends: Verdict | BaseException) -> int:
        class Run(Soak):
            def run(self, minutes: float) -> Verdict:
                assert minutes == MINUTES
                self.struck.update(["kill actor", "cut store"])
                self.recoveries.append(Recovery(("kill actor", "cut store"), 6.0, cooled=False))
                if isinstance(ends, BaseException):
                    raise ends
                return ends

        monkeypatch.setattr(script, "Soak", Run)
        return script.main(ARGUMENTS)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(script, "fresh_world", world)
    return main


def report() -> dict[str, object]:
    found = orjson.loads(Path(".local/results/soak.json").read_bytes())
    assert isinstance(found, dict)
    return found


def test_a_soak_that_went_well_leaves_its_figures(
    end: Callable[[Verdict], int], capfd: pytest.CaptureFixture[str]
) -> None:
    assert end(Verdict(tables=12, rows=100)) == 0
    found = report()
    assert found.keys() == KEYS
    assert (found["seed"], found["faults"], found["rows_lost"], found["error"]) == (SEED, 2, 0, None)
    assert found["recoveries"] == [{"faults": ["kill actor", "cut store"], "seconds": 6.0, "cooled": False}]
    assert Path(".local/results/soak.log").read_text() == "a line\n"
    said = capfd.readouterr().out
    assert "goal missed: 95 % of the recoveries took up to 6 s; the goal is 5 s" in said
    assert "goal missed: 2 faults in 15 minutes; the goal is 200" in said
    assert "failed" not in said


def test_a_verdict_that_is_not_good_fails_it_and_tells_the_seed(
    end: Callable[[Verdict], int], capfd: pytest.CaptureFixture[str]
) -> None:
    assert end(Verdict(tables=12, rows_lost=1)) == 1
    assert report()["rows_lost"] == 1
    assert f"make soak MINUTES=15 SEED={SEED} makes" in capfd.readouterr().out


@pytest.mark.parametrize("error", [AssertionError("no"), RuntimeError("no"), OSError("no"), KeyError("no")])
def test_whatever_ends_a_soak_the_report_is_written_and_the_seed_told(
    end: Callable[[BaseException], int], capfd: pytest.CaptureFixture[str], error: Exception
) -> None:
    assert end(error) == 1
    found = report()
    assert found.keys() == KEYS
    assert found["error"] == f"{type(error).__name__}: {error}"
    assert (found["faults"], found["rows_lost"], found["rows_doubled"]) == (2, None, None)
    said = capfd.readouterr()
    assert f"make soak MINUTES=15 SEED={SEED} makes" in said.out
    assert "Traceback" in said.err
    assert Path(".local/results/soak.log").exists()


def test_a_world_that_does_not_come_up_is_reported(
    end: Callable[[Verdict], int], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def nothing(seed: int) -> contextlib.AbstractContextManager[None]:
        raise OSError(f"no world for {seed}")

    monkeypatch.setattr(script, "fresh_world", nothing)
    assert end(Verdict()) == 1
    assert report() == {"seed": SEED, "minutes": MINUTES, "error": f"OSError: no world for {SEED}"}
    assert f"SEED={SEED}" in capfd.readouterr().out
