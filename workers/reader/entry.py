"""The reader process: one life of a `Reader` after the other, until one ends by itself.

A pipeline that is to join the shared stream comes there first, in lives of its own, in which the others wait; one that does not get there in time, or
fails, stays parked (`etl_supervisor.model.parking`).
"""

from __future__ import annotations

import contextlib
from dataclasses import replace

import psycopg
import structlog

from etl_supervisor.errors import EtlError
from etl_supervisor.monitor import logs
from etl_supervisor.state.choose import leave_word, open_store
from etl_supervisor.supervision.spawn import ChildContext
from workers.reader import source as sources
from workers.reader.parking import near, stay_parked
from workers.reader.process import Reader
from workers.reader.stream import broken_off
from workers.reader.transfer import Manner, TextNeededError

log = structlog.get_logger()


def main(context: ChildContext) -> int:
    """Entry point of the reader process; returns the exit code."""
    assert context.spec is not None
    try:
        _come_near(context)
        return _read(context)
    except EtlError as error:
        leave_word(context.settings, context.spec.source.stream, error)
        raise


def _come_near(context: ChildContext) -> None:
    assert context.spec is not None
    with contextlib.closing(open_store(context.settings)) as store:
        for own, until in near(store, context.spec):
            try:
                _read(replace(context, spec=own), until)
            except EtlError as error:
                logs.error_line(log, "pipeline_not_joined", error)
            stay_parked(store, own.source.stream, until)


def _read(context: ChildContext, until: int | None = None) -> int:
    """Read until drained, until an error that no other manner of reading helps, or until a position."""
    assert context.spec is not None
    manner, lost = Manner(), False
    while True:
        try:
            with Reader(context, manner, lost=lost, until=until) as reader:
                return reader.run()
        except (TextNeededError, EtlError) as error:
            lost = not lost and sources.begins_anew(error, context.spec.source)
            manner = manner if lost else manner.after(error, context.spec.source)
            log.warning("stream_starts_again", reason=str(error), binary=manner.binary, in_progress=manner.in_progress)
        except psycopg.Error as error:
            raise broken_off(error, context.spec.source) from None
