"""The reader process: one life of a `Reader` after the other, until one ends by itself.

A pipeline that is to join the shared stream comes there first, in lives of its own, in which the others wait; one that does not get there in time, or
fails, stays parked (`etl_supervisor.model.parking`). SIGTERM ends all of that: no life begins after it.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace

import psycopg
import structlog

from etl_supervisor.errors import EtlError
from etl_supervisor.exits import Exit
from etl_supervisor.monitor import logs
from etl_supervisor.state.choose import leave_word, open_store
from etl_supervisor.supervision.spawn import ChildContext
from workers.reader import source as sources
from workers.reader.ending import Ending, EndsEarly
from workers.reader.parking import near, stay_parked
from workers.reader.process import Reader
from workers.reader.stream import broken_off
from workers.reader.transfer import Manner, TextNeededError

log = structlog.get_logger()


def main(context: ChildContext) -> int:
    """Entry point of the reader process; returns the exit code."""
    assert context.spec is not None
    with contextlib.closing(Ending(context.heartbeat)) as ending:
        try:
            _come_near(context, ending)
            return _read(context, ending)
        except EndsEarly:
            log.info("reader_ended_early", source=context.spec.source.stream)
            return Exit.OK
        except EtlError as error:
            leave_word(context.settings, context.spec.source.stream, error)
            raise


def _come_near(context: ChildContext, ending: Ending) -> None:
    assert context.spec is not None
    with contextlib.closing(open_store(context.settings)) as store:
        for own, until in near(store, context.spec):
            try:
                _read(replace(context, spec=own), ending, until)
            except EtlError as error:
                logs.error_line(log, "pipeline_not_joined", error)
            ending.beat()  # one that was told to end has had no chance to come near
            stay_parked(store, own.source.stream, until)


def _read(context: ChildContext, ending: Ending, until: int | None = None) -> int:
    """Read until drained, until an error that no other manner of reading helps, or until a position."""
    assert context.spec is not None
    manner, lost = Manner(), False
    while True:
        ending.beat()
        try:
            with Reader(context, ending, manner, lost=lost, until=until) as reader:
                return reader.run()
        except (TextNeededError, EtlError) as error:
            lost = not lost and sources.begins_anew(error, context.spec.source)
            manner = manner if lost else manner.after(error, context.spec.source)
            log.warning("stream_starts_again", reason=str(error), binary=manner.binary, in_progress=manner.in_progress)
        except psycopg.Error as error:
            raise broken_off(error, context.spec.source) from None
