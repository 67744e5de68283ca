"""What a channel has committed, asked at once: Snowpipe Streaming's REST interface, for pipelines that want their rows soon.

The SDK answers from a cache that it renews once a second (with an interval of 0 it asks without end, 500 times a second). So a channel whose
pipeline fills its batches for a few milliseconds asks here: one POST, and the answer is as new as Snowflake's.

    key pair ─(JWT)─► GET hostname ─► POST oauth/token ─► scoped token, for an hour ─► POST …:bulk-channel-status

Whatever goes wrong here says nothing of the channel: the caller asks the SDK instead, and this door stays shut for a while.

Snowflake's manual: user-guide/snowpipe-streaming/snowpipe-streaming-high-performance-rest-api.
"""

from __future__ import annotations

import base64
import hashlib
import os
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import getproxies, proxy_bypass

import certifi
import jwt
import orjson
import urllib3
from cryptography.hazmat.primitives import serialization

from etl_supervisor.errors import EtlError
from etl_supervisor.model.pipeline import Destination
from workers.snowflake.connection import Decrypt, host_of, load_private_key

CONNECT_SECONDS, ANSWER_SECONDS = 3.0, 5.0
TOKEN_SECONDS = 3000.0  # Snowflake's are good for an hour
LOGIN_SECONDS = 300  # our own word: only for the exchange
SHUT_SECONDS = 60.0  # after a failure
CONNECTIONS_MAX = 8  # of one destination: more askers wait for one another
_GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"


class InquiryError(Exception):
    """No answer, or none that can be read."""


@dataclass(frozen=True, slots=True)
class Pipe:
    """A pipe by its quoted names."""

    database: str
    schema: str
    name: str


@dataclass(slots=True)
class _Door:
    """The way to one destination's statuses."""

    pool: urllib3.PoolManager
    port: str
    lock: threading.Lock = field(default_factory=threading.Lock)
    host: str = ""
    token: str = field(default="", repr=False)
    until: float = 0.0
    shut_until: float = 0.0


class Inquiries:
    """Of one actor; safe for its job threads."""

    def __init__(self, decrypt: Decrypt, directory: Path) -> None:
        self._decrypt, self._directory = decrypt, directory
        self._doors: dict[tuple[Any, ...], _Door] = {}
        self._opening = threading.Lock()

    def ask(self, destination: Destination, pipe: Pipe, channels: list[str]) -> dict[str, dict[str, Any]]:
        """The status of each channel as Snowflake spells it. InquiryError when there is none to be had now."""
        door = self._door(destination)
        if time.monotonic() < door.shut_until:
            raise InquiryError("not asked: it failed a moment ago")
        try:
            return _statuses(door, self._token(destination, door), pipe, channels)
        except (urllib3.exceptions.HTTPError, orjson.JSONDecodeError, InquiryError, KeyError, EtlError) as error:
            door.shut_until, door.until = time.monotonic() + SHUT_SECONDS, 0.0
            raise InquiryError(type(error).__name__) from None

    def enter(self, destination: Destination) -> None:
        """Only log in. InquiryError says why not."""
        try:
            self._token(destination, self._door(destination))
        except urllib3.exceptions.HTTPError as error:
            raise InquiryError(type(error).__name__) from None
        except EtlError as error:
            raise InquiryError(error.reason) from None

    def _door(self, destination: Destination) -> _Door:
        key = (destination.id, destination.host, destination.account, destination.user, destination.role)
        with self._opening:
            door = self._doors.get(key)
            if door is None:
                door = self._doors[key] = _Door(
                    _pool(host_of(destination)), host_of(destination).partition(":")[2] or "443"
                )
            return door

    def _token(self, destination: Destination, door: _Door) -> str:
        with door.lock:
            if time.monotonic() >= door.until:
                login = self._login(destination)
                account = f"https://{host_of(destination)}"
                headers = {"authorization": f"Bearer {login}", "x-snowflake-authorization-token-type": "KEYPAIR_JWT"}
                name = _text(door.pool.request("GET", f"{account}/v2/streaming/hostname", headers=headers))
                fields = {"grant_type": _GRANT, "scope": name}
                answer = door.pool.request(
                    "POST", f"{account}/oauth/token", fields=fields, encode_multipart=False, headers=headers
                )
                door.token, door.host = _text(answer), name.replace("_", "-")
                door.until = time.monotonic() + TOKEN_SECONDS
            return door.token

    def _login(self, destination: Destination) -> str:
        """A JWT signed with the key that the file holds now."""
        key = load_private_key(destination, self._decrypt, self._directory)
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        public = key.public_key().public_bytes(serialization.Encoding.DER, form)
        digest = base64.b64encode(hashlib.sha256(public).digest()).decode()
        subject = f"{destination.account.partition('.')[0]}.{destination.user}".upper()
        now = int(time.time())
        claims: dict[str, Any] = {"iss": f"{subject}.SHA256:{digest}", "sub": subject, "iat": now}
        claims["exp"] = now + LOGIN_SECONDS
        if destination.role:
            claims["scp"] = f"session:role:{destination.role}"
        return jwt.encode(claims, key, algorithm="RS256")


def _pool(host: str) -> urllib3.PoolManager:
    """Connections as the environment has it: the local authority (`trust_local`), a proxy."""
    options: dict[str, Any] = {
        "ca_certs": os.environ.get("SSL_CERT_FILE") or certifi.where(),
        "timeout": urllib3.Timeout(connect=CONNECT_SECONDS, read=ANSWER_SECONDS),
        "retries": False,
        "maxsize": CONNECTIONS_MAX,
        "block": True,
    }
    proxy = None if proxy_bypass(host.partition(":")[0]) else getproxies().get("https")
    return urllib3.ProxyManager(proxy, **options) if proxy else urllib3.PoolManager(**options)


def _text(answer: urllib3.BaseHTTPResponse) -> str:
    if answer.status != 200:
        raise InquiryError(f"answered {answer.status}")
    return answer.data.decode().strip().strip('"')


def _statuses(door: _Door, token: str, pipe: Pipe, channels: list[str]) -> dict[str, dict[str, Any]]:
    names = (quote(name, safe="") for name in (pipe.database, pipe.schema, pipe.name))
    path = "/v2/streaming/databases/{}/schemas/{}/pipes/{}:bulk-channel-status".format(*names)
    answer = door.pool.request(
        "POST",
        f"https://{door.host}:{door.port}{path}",
        body=orjson.dumps({"channel_names": channels}),
        headers={
            "authorization": f"Bearer {token}",
            "x-snowflake-authorization-token-type": "OAUTH",
            "content-type": "application/json",
        },
    )
    found = orjson.loads(_text(answer))["channel_statuses"]
    return {name: found[name] for name in channels}
