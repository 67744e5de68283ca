"""Certificates by openssl, and a proxy that ends TLS: in front of a server that has none, or between a client and PostgreSQL."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path

from tests.support.listener import Listener

_READ_BYTES = 1 << 16
_SSL_REQUEST = bytes((0, 0, 0, 8, 4, 210, 22, 47))  # PostgreSQL's manual: Message Formats, SSLRequest


@dataclass(frozen=True)
class Issued:
    """A server's certificate and key, and the authority that signed it."""

    authority: Path
    certificate: Path
    key: Path


def issue(folder: Path, name: str) -> Issued:
    """A new authority and a certificate for `name` ("IP:127.0.0.1", "DNS:db.example")."""
    folder.mkdir(parents=True, exist_ok=True)
    made = Issued(folder / "ca.pem", folder / "server.pem", folder / "server.key")
    ca_key, request, extensions = folder / "ca.key", folder / "server.csr", folder / "san.cnf"
    extensions.write_text(f"subjectAltName={name}\nextendedKeyUsage=serverAuth\n")
    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")  # made in no time, other than RSA
    _openssl(
        "req", "-x509", *new, "-keyout", ca_key, "-out", made.authority, "-days", "2", "-subj", "/CN=Test authority"
    )
    _openssl("req", *new, "-keyout", made.key, "-out", request, "-subj", "/CN=server")
    signed = ("-CA", made.authority, "-CAkey", ca_key, "-CAcreateserial", "-extfile", extensions)
    _openssl("x509", "-req", "-in", request, "-out", made.certificate, "-days", "2", *signed)
    made.key.chmod(0o600)
    return made


def _openssl(*words: object) -> None:
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)


class TlsProxy(Listener):
    """Listens on 127.0.0.1 with a certificate and passes on what it reads, in clear. With `postgres` it answers PostgreSQL's SSLRequest, and whoever
    does not ask for TLS is passed on as he is; with `encrypted` it asks the server for TLS, too."""

    def __init__(
        self, target: tuple[str, int], issued: Issued, *, postgres: bool = False, encrypted: bool = False
    ) -> None:
        self._target, self._postgres, self._asks = target, postgres, encrypted
        self.show(issued)
        self.seen = bytearray()  # what clients have said, as it is within TLS
        super().__init__()

    def show(self, issued: Issued) -> None:
        """This certificate from now on."""
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(issued.certificate, issued.key)

    def serve(self, plain: socket.socket) -> None:
        with contextlib.suppress(OSError), contextlib.ExitStack() as ends:
            near = ends.enter_context(plain)
            far: socket.socket = ends.enter_context(socket.create_connection(self._target))
            if not self._postgres or self._begins_tls(plain):
                if self._asks:
                    far = ends.enter_context(_encrypted(far))
                shown = self._context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
                near = ends.enter_context(shown)
                shown.do_handshake()
            back = threading.Thread(target=_pass, args=(far, near, bytearray()), daemon=True)
            back.start()
            _pass(near, far, self.seen)
            back.join()

    def _begins_tls(self, plain: socket.socket) -> bool:
        if plain.recv(len(_SSL_REQUEST), socket.MSG_WAITALL | socket.MSG_PEEK) != _SSL_REQUEST:
            return False
        plain.recv(len(_SSL_REQUEST), socket.MSG_WAITALL)
        plain.sendall(b"S")
        return True


def _encrypted(far: socket.socket) -> ssl.SSLSocket:
    far.sendall(_SSL_REQUEST)
    assert far.recv(1) == b"S"
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    return trusting.wrap_socket(far)


def _pass(source: socket.socket, sink: socket.socket, seen: bytearray) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(_READ_BYTES):
            seen += data
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_RDWR)
