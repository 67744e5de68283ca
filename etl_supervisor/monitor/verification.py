"""A verification that somebody asked for: `etl-supervisor verify` and the API do the same, and see each other.

    begin   which tables, of which stream; the run is written down, one of a pipeline at a time (`repository.verify_runs`)
    work    the tables are compared (`workers.verify.check`); with `repair` ranges that differ are put right and compared again, and a table for which
            that will not do is asked to be copied again, as `resync` does
    end     how many were equal, and counts of the others, in app.verify_runs

Until it ends a thread says that it goes on. When its process dies, snapshot and clones end with their connections, nothing is repaired that was not
yet asked for, and the run is told as lost after LOST_SECONDS; another one may begin then. Keys are given to who asked, and kept nowhere here.
"""

from __future__ import annotations

import contextlib
import importlib
import threading
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.model import lsn
from etl_supervisor.model.table import TableName
from etl_supervisor.model.verified import Verdict
from etl_supervisor.repository import verify_runs
from etl_supervisor.repository.desired import load
from etl_supervisor.repository.selecting import find_table
from etl_supervisor.repository.verify_runs import Outcome
from etl_supervisor.state.choose import open_store
from etl_supervisor.state.streams import arrange

if TYPE_CHECKING:
    from etl_supervisor.config.settings import Settings
    from etl_supervisor.model.pipeline import SourceSpec
    from etl_supervisor.state.store import StateStore

FINDINGS_MAX = 1000  # tables whose counts are kept of one run
_KEYS = ("missing_keys", "extra_keys", "different_keys")


class VerifiedNowError(EtlError):
    """Another verification of the pipeline runs."""

    def __init__(self, pipeline: str) -> None:
        remedy = "wait for its end; when its process died it is given up by itself"
        super().__init__(Kind.CONFIG, f"pipeline {pipeline}", "it is being verified already", remedy)


@dataclass(frozen=True, slots=True)
class Wish:
    """What to verify (no `tables`: every one), for whom, and whether what differs is put right."""

    pipeline: str
    who: str
    tables: tuple[str, ...] = ()
    repair: bool = False


class Run:
    """A verification that has begun. Leave it (`with run:`), and it has ended."""

    def __init__(self, settings: Settings, wish: Wish, spec: SourceSpec, tables: list[TableName], key: int) -> None:
        self.key = key
        self._settings, self._wish, self._spec, self._tables = settings, wish, spec, tables
        self._equal = 0
        self._findings: list[dict[str, Any]] = []
        self._over = threading.Event()
        self._beating = threading.Thread(target=self._beat, name="verification-beat", daemon=True)
        self._beating.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> None:
        self.end(error)

    def end(self, error: BaseException | None = None) -> None:
        """Write down what was found, and why it broke off, if it did. EtlError(CONFIG_DATABASE)."""
        self._over.set()
        self._beating.join()
        why = "" if error is None else error.line if isinstance(error, EtlError) else "it broke off"
        outcome = Outcome(self._equal, self._findings[:FINDINGS_MAX], why)
        # The first error is the one to tell.
        with contextlib.nullcontext() if error is None else contextlib.suppress(EtlError):
            verify_runs.finish(self._settings, self.key, outcome)

    def work(self, tell: Callable[[Verdict], None]) -> bool:
        """Compare, and `tell` each verdict as it is known; True when every table was compared and is equal."""
        with contextlib.closing(open_store(self._settings)) as store:

            def note(verdict: Verdict) -> None:
                self._note(verdict, store)
                tell(verdict)

            # The one who knows both sides is named: this package does not import workers.
            check = importlib.import_module("workers.verify.check")
            wish = self._wish
            check.verify(self._settings, store, self._spec, wish.pipeline, self._tables, note, repair=wish.repair)
        return self._equal == len(self._tables)

    def _note(self, verdict: Verdict, store: StateStore) -> None:
        if verdict.equal:
            self._equal += 1
            return
        told = facts(verdict, 0)
        self._findings.append({name: value for name, value in told.items() if name not in _KEYS})
        if asks_for_copy(verdict) and self._wish.repair:
            store.ask_resync(self._spec.source.name, self._wish.pipeline, verdict.table)

    def _beat(self) -> None:
        while not self._over.wait(verify_runs.BEAT_SECONDS):
            with contextlib.suppress(EtlError):  # it is told again at the next beat
                verify_runs.beat(self._settings, self.key)


def begin(settings: Settings, wish: Wish) -> Run:
    """EtlError(CONFIG) for a pipeline that is not started or a table that it has not; VerifiedNowError."""
    with contextlib.closing(open_store(settings)) as store:
        spec = _spec(arrange(load(settings).specs, store), wish.pipeline)
        known = sorted(store.tables(spec.source.name, wish.pipeline))
    chosen = list(dict.fromkeys(find_table(known, text, wish.pipeline) for text in wish.tables)) or known
    pipeline = next(found for found in spec.pipelines if found.name == wish.pipeline)
    key = verify_runs.claim(settings, pipeline.id, wish.who, wish.repair, len(chosen))
    if key is None:
        raise VerifiedNowError(wish.pipeline)
    return Run(settings, wish, spec, chosen, key)


def asks_for_copy(verdict: Verdict) -> bool:
    """Whether a repair has to copy the whole table again."""
    return verdict.differs and verdict.repaired is None


def facts(verdict: Verdict, keys_max: int | None = None) -> dict[str, Any]:
    """A verdict for programs, with so many keys of each sort (None: all that it has)."""
    cut = {name: getattr(verdict, name)[:keys_max] for name in _KEYS}
    return asdict(verdict) | cut | {"table": str(verdict.table), "lsn": lsn.text(verdict.lsn), "equal": verdict.equal}


def _spec(streams: Iterable[SourceSpec], pipeline: str) -> SourceSpec:
    for spec in streams:
        if any(found.name == pipeline for found in spec.pipelines):
            return spec
    raise EtlError(Kind.CONFIG, f"pipeline {pipeline}", "no pipeline of this name is started", "see `status`")
