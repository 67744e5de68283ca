"""`doctor`: looks at everything that is configured, changes nothing, and says what a person may want to act on."""

from __future__ import annotations

import contextlib
import importlib

import orjson
from rich.console import Console

from etl_supervisor.config.settings import Settings
from etl_supervisor.errors import EtlError
from etl_supervisor.model.finding import Finding, Weight
from etl_supervisor.repository import desired, removed
from etl_supervisor.state.choose import open_store

STYLES = {Weight.WRONG: "red", Weight.RISK: "yellow", Weight.ADVICE: "dim"}


def examine(settings: Settings) -> list[Finding]:
    """All findings: configuration, state store, sources. EtlError(CONFIG_DATABASE) when the config database can't be read."""
    loaded = desired.load(settings)
    found = [Finding(Weight.WRONG, str(e.kind), e.place, e.reason, e.remedy) for e in loaded.troubles]
    found += _store(settings)
    ours = desired.slots(settings) | {
        slot for item in removed.waiting(settings) for slot in (item.source.slot, item.parked.slot)
    }
    # The one who knows a source is named: this package does not import workers.
    doctor = importlib.import_module("workers.reader.doctor")
    for spec in loaded.specs:
        found += doctor.examine(settings, spec, ours)
    return found


def _store(settings: Settings) -> list[Finding]:
    try:
        with contextlib.closing(open_store(settings)) as store:
            risk = store.risk()
    except EtlError as error:
        return [Finding(Weight.WRONG, str(error.kind), error.place, error.reason, error.remedy)]
    remedy = "set appendonly yes and appendfsync always, or STATE_STORE=postgres; what is lost is rebuilt from Snowflake, at a cost"
    return [Finding(Weight.RISK, "state_store", "state store", risk, remedy)] if risk else []


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
