"""TCP ports of the loopback that stay the same from one start to the next.

A server's port stands in a file beside its data and is taken again while it is free, so that a connection row written
last week is still true. New ports come from below the range that Linux gives to outgoing connections (32768-60999):
a client of somebody else then never sits on a remembered port.
"""

from __future__ import annotations

import random
import socket
from pathlib import Path

from etl_supervisor.errors import EtlError, Kind

LOOPBACK = "127.0.0.1"
PORT_MIN = 20_000
PORT_MAX = 32_000
TRIES_MAX = 200

# By this process: a port on which nobody listens yet, or for the moment, is not given to another server.
_chosen: set[int] = set()


def is_free(port: int) -> bool:
    """Whether a server could listen on this port of the loopback now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the servers do: TIME_WAIT is no obstacle
        try:
            probe.bind((LOOPBACK, port))
            probe.listen()
        except OSError:
            return False
    return True


def choose_port() -> int:
    """A free port that this process has not chosen before, drawn at random so that two starters rarely meet."""
    draw = random.SystemRandom()
    for _ in range(TRIES_MAX):
        port = draw.randint(PORT_MIN, PORT_MAX)
        if port not in _chosen and is_free(port):
            _chosen.add(port)
            return port
    raise EtlError(
        Kind.EMBEDDED,
        LOOPBACK,
        f"no free port between {PORT_MIN} and {PORT_MAX} in {TRIES_MAX} tries",
        "stop servers that are not needed, or name a port",
    )


def settle_port(memory: Path, wanted: int | None = None) -> int:
    """The port to listen on: the wanted one (an error when taken), the remembered one while free, or a new one.

    The answer is remembered in the file `memory`.
    """
    if wanted is not None and not is_free(wanted):
        raise EtlError(Kind.EMBEDDED, f"{LOOPBACK}:{wanted}", "the port is in use", "stop its user or name another")
    port = wanted or _remembered(memory) or choose_port()
    memory.write_text(f"{port}\n")
    return port


def _remembered(memory: Path) -> int | None:
    text = memory.read_text().strip() if memory.exists() else ""
    port = int(text) if text.isascii() and text.isdecimal() else 0
    return port if 0 < port < 65_536 and is_free(port) else None
