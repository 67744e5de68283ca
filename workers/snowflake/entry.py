"""The actor process: what it works with, and where it keeps files.

Parquet files on their way to a stage, and what the connector makes for an upload, lie in a directory of the process's own, which the next actor
removes if this one is killed.
"""

from __future__ import annotations

import signal
import tempfile
import time

import structlog

from etl_supervisor.exits import Exit
from etl_supervisor.ipc.messages import Ready
from etl_supervisor.ipc.scratch import FILES, scratch
from etl_supervisor.supervision.spawn import ChildContext
from workers.snowflake.attendance import Keeping
from workers.snowflake.heap import Heap, held_bytes
from workers.snowflake.inquiry import Inquiries
from workers.snowflake.loading import Tools
from workers.snowflake.process import Actor
from workers.snowflake.sessions import Sessions

log = structlog.get_logger()


def main(context: ChildContext) -> int:
    """Entry point of an actor process; returns the exit code."""
    assert context.listener is not None
    decrypt, directory = context.settings.keyring().decrypt, context.settings.directory
    sessions = Sessions(decrypt, directory, context.name)
    tools = Tools(sessions, Inquiries(decrypt, directory), decrypt, directory, context.incarnation)
    keeping = Keeping(
        context.settings.snowflake_channel_idle_seconds,
        context.settings.snowflake_channels_max,
        context.settings.snowflake_commit_seconds_max,
    )
    actor, heap = Actor(context.actor, context.listener, tools, context.heartbeat.beat, keeping), Heap(time.monotonic())

    def each_turn() -> None:
        context.parent.receive()  # it says nothing, so far
        if heap.give_back(time.monotonic()):
            log.info("actor_renewed", held_bytes=held_bytes())
            signal.raise_signal(signal.SIGTERM)

    with scratch(FILES) as folder:
        tempfile.tempdir = folder
        context.parent.send(Ready())
        actor.run(each_turn)
    return Exit.OK
