"""A publisher at this actor: its connection, its slab, and a desk for each of its tables."""

from __future__ import annotations

import contextlib
import selectors

from etl_supervisor.ipc import mailbox
from etl_supervisor.ipc.messages import ToPublisher
from etl_supervisor.ipc.segment import SlabReader
from workers.snowflake.desk import Desk


class Guest:
    """A connection in the loop's selector, with itself as data. Its name and slab come with Hello."""

    def __init__(self, connection: mailbox.Connection, selector: selectors.BaseSelector) -> None:
        self.connection = connection
        self.name, self.incarnation = "", 0
        self.slab: SlabReader | None = None
        self.desks: dict[int, Desk] = {}
        self._selector: selectors.BaseSelector | None = selector
        selector.register(connection, selectors.EVENT_READ, self)

    def send(self, message: ToPublisher) -> None:
        """Queue a message; nothing happens when the publisher is gone."""
        if self._selector is not None:
            with contextlib.suppress(ConnectionError):  # the selector tells, and the guest is parted with there
                self.connection.send(message)
                self.watch()

    def watch(self) -> None:
        """Be woken when the socket can take what is queued."""
        if self._selector is not None:
            write = selectors.EVENT_WRITE if self.connection.wants_write else 0
            self._selector.modify(self.connection, selectors.EVENT_READ | write, self)

    def close(self) -> None:
        """The publisher is gone."""
        if self._selector is not None:
            self._selector.unregister(self.connection)
            self._selector = None
            self.connection.close()
