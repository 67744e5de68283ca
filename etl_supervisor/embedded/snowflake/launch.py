"""Starts the local Snowflake as a process of its own, which ends with us."""

from __future__ import annotations

import json
import signal
import ssl
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Self

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from etl_supervisor.embedded.ports import settle_port
from etl_supervisor.embedded.process import ServerCommand, ServerProcess, beside, data_lock, make_directories
from etl_supervisor.embedded.snowflake.certificates import Certificates, certificates_in
from etl_supervisor.embedded.snowflake.foreground import PLACE

STOP_STEPS = ((signal.SIGTERM, 10.0),)
DOOR_SECONDS = 5.0
KEY_BITS = 2048


class LocalSnowflake:
    """A local Snowflake in `data_dir`. Every failure is an EtlError of kind EMBEDDED."""

    def __init__(self, data_dir: Path, port: int | None = None, commit_delay_s: float = 0.0) -> None:
        self.data_dir = data_dir.resolve()
        self.port = port or 0
        self._wanted_port, self._commit_delay = port, commit_delay_s
        self._server: ServerProcess | None = None
        self._certificates: Certificates | None = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> Self:
        """Start it and return when it answers (about a second)."""
        make_directories(self.data_dir.parent)
        self.data_dir.mkdir(exist_ok=True)
        self._certificates = certificates_in(self.data_dir / "tls")
        self._make_key()
        with data_lock(beside(self.data_dir, "lock"), PLACE) as lock:
            self.port = settle_port(beside(self.data_dir, "port"), self._wanted_port)
            arguments = [
                "--data",
                str(self.data_dir),
                "--port",
                str(self.port),
                "--commit-delay",
                str(self._commit_delay),
            ]
            paths = [path for path in sys.path if path]
            program = f"import sys; sys.path[:0] = {paths!r}; from etl_supervisor.embedded.snowflake.__main__ import main; sys.exit(main())"
            command = ServerCommand(
                place=PLACE,
                argv=[sys.executable, "-c", program, *arguments],
                log_path=beside(self.data_dir, "log"),
            )
            self._server = ServerProcess(command, lock)
        self._server.await_ready(self._answers)
        return self

    def stop(self) -> None:
        """Shut down and wait for the end. Harmless when it does not run."""
        if self._server is not None:
            self._server.stop(STOP_STEPS)

    @property
    def running(self) -> bool:
        """Whether it runs."""
        return self._server is not None and self._server.running

    @property
    def pid(self) -> int:
        """Process id (of the last start)."""
        assert self._server is not None, "not started"
        return self._server.pid

    @property
    def host(self) -> str:
        """For `snowflake_host` of a destination."""
        return f"127.0.0.1:{self.port}"

    @property
    def bundle_file(self) -> Path:
        """Certificate authorities, ours among them: `ca_file` in the settings of a destination."""
        assert self._certificates is not None, "not started"
        return self._certificates.bundle

    @property
    def key_file(self) -> Path:
        """A private key to log in with; any is accepted."""
        return self.data_dir / "user.p8"

    def set(self, **changes: Any) -> None:
        """Change its behaviour: commit_delay_s, counting, blackhole, faults, reject (see `server`)."""
        self._door("set", changes)

    def state(self) -> dict[str, Any]:
        """Its channels, what the counting mode found wrong, and the number of requests by kind (see `server`)."""
        return self._door("state")

    def _door(self, name: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        assert self._certificates is not None, "not started"
        context = ssl.create_default_context(cafile=str(self._certificates.ca))
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"https://{self.host}/__local/{name}", data, {"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=DOOR_SECONDS, context=context) as answer:  # noqa: S310 - https, fixed above
            found: dict[str, Any] = json.load(answer)
            return found

    def _answers(self) -> bool:
        try:
            self._door("state")
        except (urllib.error.URLError, OSError):
            return False
        return True

    def _make_key(self) -> None:
        if self.key_file.exists():
            return
        key = rsa.generate_private_key(public_exponent=65537, key_size=KEY_BITS)
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        self.key_file.touch(mode=0o600)
        self.key_file.write_bytes(pem)
