"""systemd's notification protocol (sd_notify(3)): one datagram per message; nothing happens without NOTIFY_SOCKET.

Only the main process speaks. Its children have the same environment: where WATCHDOG_PID is set and is not ours, nothing is sent.
"""

from __future__ import annotations

import os
import socket

WORD_CHARS_MAX = 500  # systemd takes 4096 bytes, and of a longer message nothing
SIGNS_PER_INTERVAL = 3  # of life; systemd wants two, so one that comes late does no harm


def notify(*words: str) -> None:
    """`READY=1`, `STOPPING=1`, `WATCHDOG=1` or `STATUS=…`, each one line, whatever is in it; a lost datagram is systemd's loss."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address or not _is_main():
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    message = "\n".join(" ".join(word.split())[:WORD_CHARS_MAX] for word in words)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        try:
            sock.sendto(message.encode(errors="replace"), address)
        except OSError:
            return


def watchdog_seconds() -> float:
    """Between two signs of life: a third of systemd's watchdog interval, or infinity when there is none."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    if not microseconds.isdecimal() or int(microseconds) == 0 or not _is_main():
        return float("inf")
    return int(microseconds) / 1_000_000 / SIGNS_PER_INTERVAL


def _is_main() -> bool:
    return os.environ.get("WATCHDOG_PID", "") in ("", str(os.getpid()))
