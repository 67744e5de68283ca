"""SQL connections to Snowflake: key-pair login, short time limits, and the connector's errors in our words.

A destination whose host is `127.0.0.1:PORT` is a local Snowflake: the same protocols, TLS by the authority in `settings["ca_file"]`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import snowflake.connector
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from snowflake.connector.errors import DatabaseError, Error, OperationalError

from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.model.pipeline import Destination, EncryptedText

LOGIN_TIMEOUT_SECONDS = 20
NETWORK_TIMEOUT_SECONDS = 60  # the connector repeats failed requests for so long; the actor tries again after it
LOCK_TIMEOUT_SECONDS = 60  # Snowflake's default is 12 hours
STATEMENT_TIMEOUT_SECONDS = 3600
KEY_BITS_MIN = 2048
DOES_NOT_EXIST = 2003  # Snowflake's number for an object that is not there (or not for this role)
NO_SUCH_COLUMN = (904, 2043)  # an invalid identifier; the second number is the local Snowflake's for it

Decrypt = Callable[[EncryptedText], str]

_AUTH = frozenset({390100, 390144, 390186, 390189, 250001, 251006, 390191, 390422, 394300, 394304})
_MISSING = frozenset({2003, 2043, 3001, 1083, 606})
_TRANSIENT = frozenset({625, 603, 604, 630, 390114, 390112, 200001})


def is_local(destination: Destination) -> bool:
    """True for a local Snowflake."""
    return (destination.host or "").startswith("127.0.0.1:")


def host_of(destination: Destination) -> str:
    """The account's host (with its port, if it has one): the usual name, unless `host` says otherwise (private link, local)."""
    return destination.host or f"{destination.account}.snowflakecomputing.com"


def load_private_key(destination: Destination, decrypt: Decrypt, directory: Path) -> RSAPrivateKey:
    """The destination's key. EtlError(CONFIG) says what is wrong with the file, never what is in it."""
    place = f"destination {destination.name}"
    path = directory / destination.private_key_path
    secret = destination.private_key_passphrase
    passphrase = decrypt(secret).encode() if secret is not None else None
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), passphrase)
    except OSError as error:
        reason = f"private key {destination.private_key_path} can't be read: {error.strerror}"
        remedy = "correct snowflake_private_key_path, or the file's permissions"
        raise EtlError(Kind.CONFIG, place, reason, remedy) from None
    except TypeError:
        word = "is not encrypted" if passphrase else "is encrypted and no passphrase is set"
        reason = f"private key {destination.private_key_path} {word}"
        raise EtlError(Kind.CONFIG, place, reason, "correct snowflake_private_key_passphrase") from None
    except (ValueError, UnsupportedAlgorithm):
        reason = f"private key {destination.private_key_path} is no PKCS#8 PEM key, or its passphrase is wrong"
        raise EtlError(Kind.CONFIG, place, reason, "make one as docs/snowflake.md shows") from None
    if not isinstance(key, RSAPrivateKey) or key.key_size < KEY_BITS_MIN:
        reason = f"private key {destination.private_key_path} is not RSA of at least {KEY_BITS_MIN} bits"
        raise EtlError(Kind.CONFIG, place, reason, "make one as docs/snowflake.md shows")
    return key


def trust_local(destination: Destination) -> None:
    """A local Snowflake's certificate is signed by its own authority. The variables are the whole process's, so the file also
    holds the usual authorities."""
    ca_file = destination.settings.get("ca_file")
    if not ca_file:
        remedy = 'set settings to {"ca_file": "…/bundle.pem"}, as `etl-supervisor local-snowflake` prints it'
        raise EtlError(Kind.CONFIG, f"destination {destination.name}", "a local Snowflake needs its ca_file", remedy)
    os.environ["SSL_CERT_FILE"] = os.environ["REQUESTS_CA_BUNDLE"] = ca_file


def connect(destination: Destination, decrypt: Decrypt, directory: Path, *, purpose: str) -> Any:
    """An open connection (autocommit). `purpose` goes into the query tag. EtlError when it can't be."""
    key = load_private_key(destination, decrypt, directory)
    place: dict[str, Any] = {"host": destination.host} if destination.host else {}
    if is_local(destination):
        trust_local(destination)
        place = {"host": "127.0.0.1", "port": int((destination.host or "").rpartition(":")[2]), "protocol": "https"}
    der = key.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    wanted = {
        "account": destination.account,
        "user": destination.user,
        "database": destination.database,
        "schema": destination.schema,
        "warehouse": destination.warehouse,
        "role": destination.role,
    }
    try:
        return snowflake.connector.connect(
            **{name: value for name, value in wanted.items() if value},
            **place,
            authenticator="SNOWFLAKE_JWT",
            private_key=der,
            login_timeout=LOGIN_TIMEOUT_SECONDS,
            network_timeout=NETWORK_TIMEOUT_SECONDS,
            autocommit=True,
            application="ETL_STREAM",
            client_session_keep_alive=False,
            session_parameters={
                "QUERY_TAG": f"etl-stream {purpose}",
                "TIMEZONE": "UTC",
                "LOCK_TIMEOUT": LOCK_TIMEOUT_SECONDS,
                "STATEMENT_TIMEOUT_IN_SECONDS": STATEMENT_TIMEOUT_SECONDS,
            },
        )
    except Error as error:
        raise classify(error, f"destination {destination.name}", Kind.DESTINATION_UNREACHABLE) from None


def classify(error: Error, place: str, otherwise: Kind) -> EtlError:
    """The connector's error in our words. Snowflake's message names objects, never values of ours; only its first line is kept."""
    number = abs(int(error.errno)) if error.errno is not None and error.errno > 0 else 0
    text = (error.raw_msg or error.msg or type(error).__name__).strip().splitlines()[0][:300]
    if number in _AUTH or "JWT token is invalid" in text:
        remedy = "check account, user, role and the public key that the user has (DESCRIBE USER)"
        return EtlError(Kind.DESTINATION_AUTH, place, f"Snowflake refuses the login ({number})", remedy)
    if number in _MISSING:
        remedy = "grant the role what docs/snowflake.md lists, or create the object"
        return EtlError(Kind.DESTINATION_SETUP, place, f"{text} ({number})", remedy)
    if number in _TRANSIENT or (isinstance(error, OperationalError) and not isinstance(error, DatabaseError)):
        return EtlError(otherwise, place, f"{text} ({number})", "it is tried again by itself", transient=True)
    if isinstance(error, OperationalError):
        remedy = "check the host and the network; it is tried again by itself"
        return EtlError(
            Kind.DESTINATION_UNREACHABLE, place, f"Snowflake does not answer ({number})", remedy, transient=True
        )
    return EtlError(otherwise, place, f"{text} ({number})", "see the statement by its query tag in Snowflake's history")
