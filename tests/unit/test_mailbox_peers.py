"""A mailbox has no file that could be closed to others: each end asks the kernel who is at the other."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

import pytest

from etl_supervisor.ipc import mailbox

NOBODY_UID = 65534

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


def as_nobody(act: Callable[[], bool]) -> Callable[[], bool]:
    """Start `act` as another user in a process of its own; what it answers, when asked for."""
    pid = os.fork()
    if pid == 0:
        os.setuid(NOBODY_UID)
        os._exit(int(act()))
    return lambda: bool(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def test_another_user_who_connects_is_hung_up_on() -> None:
    listener = mailbox.listen()
    address = mailbox.address(listener)

    def act() -> bool:
        try:
            mailbox.connect(address)
        except ConnectionError as error:
            return str(error) == "this mailbox belongs to another user"
        return False

    refused = as_nobody(act)
    assert refused()
    assert mailbox.accept(listener) is None
    listener.close()


def test_a_connection_that_another_user_made_is_not_taken() -> None:
    listener = mailbox.listen()
    address = mailbox.address(listener)

    def act() -> bool:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(address)
            return sock.recv(1) == b""  # hung up, nothing was said

    refused = as_nobody(act)
    listener.setblocking(True)
    assert mailbox.accept(listener) is None
    assert refused()
    listener.close()


def test_our_own_user_is_let_in() -> None:
    listener = mailbox.listen()
    ours = mailbox.connect(mailbox.address(listener))
    accepted = mailbox.accept(listener)
    assert accepted is not None
    accepted.close()
    ours.close()
    listener.close()
