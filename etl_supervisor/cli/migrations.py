"""`migrate`: the schemas of the config database and of the state tables, forward, back, or just shown."""

from __future__ import annotations

from typing import Literal

from rich.console import Console

from etl_supervisor.config.settings import Settings
from etl_supervisor.repository.migrations import migrate, revert, steps_of
from etl_supervisor.repository.newest import Chain

Which = Literal["app", "etl", "all"]


def forward(settings: Settings, which: Which, console: Console) -> None:
    """To the newest step, and say what was done."""
    for line in migrate(settings, which) or ["nothing to do"]:
        console.print(line)


def back(settings: Settings, chain: Chain, steps: int, console: Console) -> None:
    """Take steps back."""
    console.print(revert(settings, chain, steps))


def show(settings: Settings, which: Which, console: Console) -> None:
    """Every step, `+` for those that the database has."""
    chains: tuple[Chain, ...] = ("app", "etl") if which == "all" else (which,)
    for chain in chains:
        for step in steps_of(settings, chain):
            sign = "+" if step.applied else "-"
            console.print(f"{sign} {chain} {step.revision}: {step.does}", markup=False, highlight=False, soft_wrap=True)
