"""`verify`: tables of a pipeline against their source, row by row at one LSN, while the pipeline runs; once, or again and again.

Keys are printed here and nowhere else. `--repair` puts ranges that differ right at once and compares the table again; where that will not do
it asks for what `resync` does: the table is copied again, and its target is replaced in one step.
"""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass

import orjson
from rich.console import Console

from etl_supervisor.config.settings import Settings
from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.model import lsn
from etl_supervisor.model.verified import Keys, Verdict
from etl_supervisor.monitor import verification

KEYS_SHOWN_MAX = 20  # of each sort; the JSON form has up to a thousand


@dataclass(frozen=True, slots=True)
class Wish:
    """What to verify, and what to do about it."""

    pipeline: str
    table: str | None = None
    repair: bool = False
    as_json: bool = False


def run(settings: Settings, wish: Wish, console: Console) -> bool:
    """Verify once; True when every table was compared and is equal."""

    def tell(verdict: Verdict) -> None:
        _print(verdict, wish, console)
        if verdict.differs and wish.repair and not wish.as_json:
            done = f"{verdict.repaired or 0:,} rows of its ranges were copied again, it is compared once more"
            then = "it is copied again now" if verification.asks_for_copy(verdict) else done
            console.print(f"table {verdict.table}: {then}", markup=False, soft_wrap=True)

    tables = () if wish.table is None else (wish.table,)
    who = f"etl-supervisor verify on {socket.gethostname()}"
    with verification.begin(settings, verification.Wish(wish.pipeline, who, tables, wish.repair)) as begun:
        return begun.work(tell)


def run_forever(settings: Settings, wish: Wish, console: Console, seconds: float) -> None:
    """Verify at this interval until somebody ends it. What fails is said, and tried again at the next time."""
    while True:
        begun = time.monotonic()
        try:
            run(settings, wish, console)
        except EtlError as error:
            if error.kind is Kind.CONFIG and not isinstance(error, verification.VerifiedNowError):
                raise
            console.print(error.line, style="yellow", markup=False, soft_wrap=True)
        time.sleep(max(0.0, begun + seconds - time.monotonic()))


def _print(verdict: Verdict, wish: Wish, console: Console) -> None:
    if wish.as_json:
        print(orjson.dumps(verification.facts(verdict)).decode(), flush=True)  # noqa: T201 - for a program: not a character may be added
        return
    console.print(line(verdict), markup=False, soft_wrap=True, style="red" if verdict.differs else None)
    for word, keys in _keys(verdict):
        for key in keys[:KEYS_SHOWN_MAX]:
            cells = ", ".join("NULL" if cell is None else cell for cell in key)
            console.print(f"  {word} {cells}", markup=False, highlight=False, soft_wrap=True)
        if len(keys) > KEYS_SHOWN_MAX:
            console.print(f"  {word} … more (see --json)", markup=False, soft_wrap=True)


def _keys(verdict: Verdict) -> list[tuple[str, Keys]]:
    kept = (verdict.missing_keys, verdict.extra_keys, verdict.different_keys)
    return list(zip(("missing", "extra", "different"), kept, strict=True))


def line(verdict: Verdict) -> str:
    """A verdict in one line, without keys."""
    if verdict.trouble:
        return f"{verdict.table}: {verdict.trouble}"
    where = f"{verdict.table} at {lsn.text(verdict.lsn)}"
    text = f"{where}: equal, {verdict.source_rows:,} rows"
    if verdict.differs:
        least = "" if verdict.whole else "at least "
        text = (
            f"{where}: {least}{verdict.missing:,} missing, {verdict.extra:,} extra, {verdict.different:,} different"
            f" of {verdict.source_rows:,} rows ({verdict.target_rows:,} in the target)"
        )
    if verdict.dead:
        text += f"; {verdict.dead:,} in the dead letter"
    return text + (f"; not compared: columns {', '.join(verdict.not_compared)}" if verdict.not_compared else "")
