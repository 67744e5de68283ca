"""Whom the supervisor kills: who is silent, who was asked to end and has not, and who works at a source that is not ours any more."""

from __future__ import annotations

import signal
from collections.abc import Iterable

import structlog

from etl_supervisor.model.tenure import Tenure, clock
from etl_supervisor.supervision.births import Child
from etl_supervisor.supervision.post import Posts
from etl_supervisor.supervision.spec import ChildKind

ABORT_GRACE_SECONDS = 2.0  # between SIGABRT (a traceback, if somebody wants one) and SIGKILL

log = structlog.get_logger()


def fence(posts: Posts, tenure: Tenure) -> None:
    """Whoever works at a source that is not ours any more is killed; with the last source the actors, too: they may have orders left."""
    now = clock()
    working = [child for child in posts.children() if child.spec.source is not None]
    lost = [child for child in working if not tenure.holds(child.spec.source.source.id, now)]  # type: ignore[union-attr]
    told = [child for child in lost if not child.fenced]
    if told and len(lost) == len(working):  # once: an actor that starts while they end has no orders of theirs
        told += posts.children(ChildKind.ACTOR)
    for child in told:
        log.error("child_fenced", child=child.spec.name, pid=child.pid)
        child.fenced = child.stopping = True
        child.signal(signal.SIGKILL)


def kill_silent(children: Iterable[Child], now: float, awake_since: float, seconds_max: float) -> None:
    """Who has not beaten for `seconds_max`, in which all were awake."""
    for child in children:
        silent = now - max(child.heartbeat.last, awake_since)
        if silent > seconds_max and child.kill_at == float("inf"):
            log.error("child_silent", child=child.spec.name, pid=child.pid, seconds=round(silent, 1))
            child.signal(signal.SIGABRT)
            child.kill_at = now + ABORT_GRACE_SECONDS


def kill_overdue(children: Iterable[Child], now: float) -> None:
    """Who was asked to end and has not."""
    for child in children:
        if now >= child.kill_at:
            log.warning("child_killed", child=child.spec.name, pid=child.pid)
            child.signal(signal.SIGKILL)
            child.kill_at = now + ABORT_GRACE_SECONDS
