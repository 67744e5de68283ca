"""The API as a child of the supervisor. Its heartbeat is the turning of its event loop; routes that wait for a database run in threads beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from etl_supervisor.api.serve import ADDRESS_ALONE, serve
from etl_supervisor.exits import Exit
from etl_supervisor.ipc.messages import Ready

if TYPE_CHECKING:
    from etl_supervisor.supervision.spawn import ChildContext


def main(context: ChildContext) -> int:
    """Entry point of the API process; returns the exit code."""
    address = context.settings.api_addr or ADDRESS_ALONE
    serve(context.settings, address, lambda: context.parent.send(Ready()), context.heartbeat.beat)
    return Exit.OK
