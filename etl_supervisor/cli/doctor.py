"""`doctor`: what `monitor.doctor` finds, for a terminal or for a program."""

from __future__ import annotations

import orjson
from rich.console import Console

from etl_supervisor.config.settings import Settings
from etl_supervisor.model.finding import Weight
from etl_supervisor.monitor.doctor import examine

STYLES = {Weight.WRONG: "red", Weight.RISK: "yellow", Weight.ADVICE: "dim"}


def show(settings: Settings, console: Console, *, as_json: bool) -> bool:
    """Print what is found; True when nothing is wrong (risks and advice may be left)."""
    found = examine(settings)
    if as_json:
        console.print(orjson.dumps(found).decode(), markup=False, highlight=False, soft_wrap=True)
    else:
        for item in found:
            console.print(item.line, style=STYLES[item.weight], markup=False, soft_wrap=True)
        if not found:
            console.print("nothing to say")
    return not any(item.weight is Weight.WRONG for item in found)
