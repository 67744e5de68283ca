"""Looks at everything that is configured, changes nothing, and says what a person may want to act on: for `doctor` and for the API.

configuration   rows that are wrong, secrets that stand in clear or do not open, files that others can read
state store     what it would lose
sources         `workers.reader.doctor`          (named, not imported: this side does not know what a source is like)
destinations    `workers.<type>.doctor`

Sources and destinations are looked at as far as started pipelines use them.
"""

from __future__ import annotations

import contextlib
import importlib
import stat
from collections.abc import Iterator
from typing import TYPE_CHECKING

from etl_supervisor.errors import EtlError
from etl_supervisor.model.finding import Finding, Weight
from etl_supervisor.model.pipeline import Destination, Pipeline, SourceSpec
from etl_supervisor.repository import desired, removed, secrets
from etl_supervisor.state.choose import open_store

if TYPE_CHECKING:
    from etl_supervisor.config.settings import Settings

SECRET_FILES = (".env",)
OTHERS = stat.S_IRWXO


def examine(settings: Settings) -> list[Finding]:
    """All findings. EtlError(CONFIG_DATABASE) when the config database can't be read."""
    loaded = desired.load(settings)
    found = [Finding.of(error) for error in loaded.troubles]
    found += [*_secrets(settings), *_files(settings), *_store(settings)]
    ours = slots(settings)
    for spec in loaded.specs:
        found += of_source(settings, spec, ours)
    users: dict[int, list[Pipeline]] = {}
    for pipeline in (pipeline for spec in loaded.specs for pipeline in spec.pipelines):
        users.setdefault(pipeline.destination.id, []).append(pipeline)
    for pipelines in users.values():
        found += of_destination(settings, pipelines[0].destination, pipelines)
    return found


def slots(settings: Settings) -> set[str]:
    """The slots that somebody configured has or may have, those included that wait for their clean-up."""
    waiting = (slot for item in removed.waiting(settings) for slot in (item.source.slot, item.parked.slot))
    return {*desired.slots(settings), *waiting}


def of_source(settings: Settings, spec: SourceSpec, ours: set[str]) -> list[Finding]:
    """What is found in a source, as these pipelines use it."""
    found: list[Finding] = importlib.import_module("workers.reader.doctor").examine(settings, spec, ours)
    return found


def of_destination(settings: Settings, destination: Destination, pipelines: list[Pipeline]) -> list[Finding]:
    """What is found at a destination, as these pipelines use it."""
    doctor = importlib.import_module(f"workers.{destination.type}.doctor")
    found: list[Finding] = doctor.examine(settings, destination, pipelines)
    return found


def _secrets(settings: Settings) -> Iterator[Finding]:
    standing = secrets.standing(settings)
    yield from (Finding.of(error) for error in standing.closed)
    if standing.previous:
        reason = f"{len(standing.previous)} secrets are still under SECRET_KEY_PREVIOUS"
        remedy = "run `etl-supervisor rotate-secrets`, then remove it"
        yield Finding(Weight.RISK, "secret_key", "config database", reason, remedy)


def _files(settings: Settings) -> Iterator[Finding]:
    for name in SECRET_FILES:
        path = settings.directory / name
        if path.exists() and path.stat().st_mode & OTHERS:
            reason = "it can be read by every user of this machine, and may hold passwords"
            yield Finding(Weight.RISK, "secret_file", str(path), reason, f"chmod 600 {path}")


def _store(settings: Settings) -> Iterator[Finding]:
    try:
        with contextlib.closing(open_store(settings)) as store:
            risk = store.risk()
    except EtlError as error:
        yield Finding.of(error)
        return
    if risk:
        remedy = (
            "set appendonly yes, appendfsync always and maxmemory-policy noeviction, or STATE_STORE=postgres; what is lost is rebuilt"
            " from Snowflake, at a cost"
        )
        yield Finding(Weight.RISK, "state_store", "state store", risk, remedy)
