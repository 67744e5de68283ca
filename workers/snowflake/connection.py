"""SQL connections to Snowflake: key-pair login, short time limits, and the connector's errors in our words.

A destination whose host is `127.0.0.1:PORT` is a local Snowflake: the same protocols, TLS by the authority in `settings["ca_file"]`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from snowflake.connector.errors import Error, NonRetryableTlsError, OperationalError

from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.model.pipeline import Destination, EncryptedText
from workers.snowflake.failure import CERTIFICATE, Directive, SnowflakeError, of_sql
from workers.snowflake.tagging import Tag, TaggedConnection

APPLICATION = "ETL_STREAM"  # in Snowflake's list of sessions
LOGIN_TIMEOUT_SECONDS = 20
SOCKET_TIMEOUT_SECONDS = (
    300  # Snowflake answers within 45 (and says where to ask on); a local one takes as long as the statement
)
NETWORK_TIMEOUT_SECONDS = 60  # the connector repeats failed requests for so long; the actor tries again after it
LOCK_TIMEOUT_SECONDS = 60  # Snowflake's default is 12 hours
STATEMENT_TIMEOUT_SECONDS = 3600
KEY_BITS_MIN = 2048
DOES_NOT_EXIST = 2003  # Snowflake's number for an object that is not there (or not for this role)
NO_SUCH_COLUMN = (904, 2043)  # an invalid identifier; the second number is the local Snowflake's for it
INVALID_TOKEN = 390144  # … for a login token that no key of the user has signed
NO_ANSWER = 250003  # the connector's number for a request that failed
MESSAGE_CHARACTERS_MAX = 300

Decrypt = Callable[[EncryptedText], str]

# Digests of key files whose numbers were checked in this process: a check takes 40 ms, and each login and each channel needs a key.
_sound: set[bytes] = set()


def is_local(destination: Destination) -> bool:
    """True for a local Snowflake."""
    return (destination.host or "").startswith("127.0.0.1:")


def host_of(destination: Destination) -> str:
    """The account's host (with its port, if it has one): the usual name, unless `host` says otherwise (private link, local)."""
    # An account's name may have an underscore, a certificate's may not.
    return destination.host or f"{destination.account.replace('_', '-')}.snowflakecomputing.com"


def load_private_key(destination: Destination, decrypt: Decrypt, directory: Path) -> RSAPrivateKey:
    """The destination's key, as the file has it now. EtlError(CONFIG) says what is wrong with the file, never what is in it."""
    place = f"destination {destination.name}"
    path = directory / destination.private_key_path
    secret = destination.private_key_passphrase
    passphrase = decrypt(secret).encode() if secret is not None else None
    try:
        content = path.read_bytes()
        digest = hashlib.sha256(content).digest()
        key = serialization.load_pem_private_key(content, passphrase, unsafe_skip_rsa_key_validation=digest in _sound)
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
    _sound.add(digest)
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
    place: dict[str, Any] = {"host": host_of(destination)}
    if is_local(destination):
        trust_local(destination)
        place = {"host": "127.0.0.1", "port": int((destination.host or "").rpartition(":")[2]), "protocol": "https"}
    wanted = {
        "account": destination.account,
        "user": destination.user,
        "database": destination.database,
        "schema": destination.schema,
        "warehouse": destination.warehouse,
        "role": destination.role,
    }
    options: dict[str, Any] = {name: value for name, value in wanted.items() if value} | place
    try:
        return TaggedConnection(
            **options,
            authenticator="SNOWFLAKE_JWT",
            private_key=key,
            login_timeout=LOGIN_TIMEOUT_SECONDS,
            network_timeout=NETWORK_TIMEOUT_SECONDS,
            socket_timeout=SOCKET_TIMEOUT_SECONDS,
            autocommit=True,
            application=APPLICATION,
            client_session_keep_alive=False,
            platform_detection_timeout_seconds=0.0,  # it asked the metadata services of three clouds at every login
            session_parameters={
                "QUERY_TAG": Tag("", "", purpose).text,
                "TIMEZONE": "UTC",
                "LOCK_TIMEOUT": LOCK_TIMEOUT_SECONDS,
                "STATEMENT_TIMEOUT_IN_SECONDS": STATEMENT_TIMEOUT_SECONDS,
            },
        )
    except Error as error:
        raise classify(error, f"destination {destination.name}", Kind.DESTINATION_UNREACHABLE) from None


_UPLOAD_FAILED, _NOT_VERIFIED = "While putting file(s)", "certificate verify failed"  # the connector's words, OpenSSL's


def classify(error: Error, place: str, otherwise: Kind) -> SnowflakeError:
    """The connector's error in our words. Snowflake's message names objects, never values of ours; only its first line is kept,
    with the one after it where it announces that ("SQL access control error:")."""
    told = error.msg or ""
    if isinstance(error, NonRetryableTlsError) or (_UPLOAD_FAILED in told and _NOT_VERIFIED in told):
        reason = (
            "what answers at Snowflake's host speaks no TLS: another server has its port, or a proxy answers itself"
        )
        if _NOT_VERIFIED in told:
            reason = "the certificate of Snowflake's host is not good: not signed by an authority known here, for another host, or expired"
        return SnowflakeError(CERTIFICATE, place, reason, otherwise)
    number = abs(int(error.errno)) if error.errno is not None and error.errno > 0 else 0
    if not number and isinstance(error, OperationalError):
        number = NO_ANSWER
    lines = (error.raw_msg or error.msg or type(error).__name__).strip().splitlines()
    text = " ".join(lines[: 2 if lines[0].endswith(":") else 1])[:MESSAGE_CHARACTERS_MAX]
    rule = of_sql(INVALID_TOKEN if "JWT token is invalid" in text else number)
    match rule.kind:
        case Kind.DESTINATION_AUTH:  # its message repeats the token's parts
            text = "Snowflake refuses the login"
        case Kind.DESTINATION_UNREACHABLE if (
            rule.directive is Directive.RECONNECT
        ):  # the connector's message is a stack of its own
            text = f"Snowflake does not answer: {rule.name}"
    return SnowflakeError(rule, place, f"{text} ({number})", otherwise)
