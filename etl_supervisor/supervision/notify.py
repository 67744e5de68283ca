"""systemd's notification protocol (sd_notify(3)): one datagram per message; nothing happens without NOTIFY_SOCKET."""

from __future__ import annotations

import os
import socket


def notify(message: str) -> None:
    """`READY=1`, `STOPPING=1`, `WATCHDOG=1` or `STATUS=…`; a lost datagram is systemd's loss."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        try:
            sock.sendto(message.encode(), address)
        except OSError:
            return


def watchdog_seconds() -> float:
    """Half of systemd's watchdog interval, or infinity when there is none."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    return int(microseconds) / 2_000_000 if microseconds.isdigit() else float("inf")
