"""Secrets at rest: AES-256-GCM under a key derived from SECRET_KEY, bound to the place where they stand.

    v1:<key id>:<base64 of nonce (12) and ciphertext with tag (16)>

The context ("sources/shop/pg_password") is authenticated with the text: a ciphertext that is moved to another row or column does not open. The key
id tells which key was used, so that SECRET_KEY can be changed while SECRET_KEY_PREVIOUS still opens what was written before; `repository.secrets`
writes it anew.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.model.pipeline import EncryptedText

VERSION = "v1"
SECRET_KEY_LENGTH_MIN = 32  # characters: 128 bits even of hexadecimal
_NONCE_BYTES = 12

# The stored form, as Python and PostgreSQL both read it; 28 bytes of nonce and tag are at least 40 characters of base64.
STORED_FORM = "^v1:[0-9a-f]{8}:[A-Za-z0-9+/]{38,}={0,2}$"


class Keyring:
    """Encrypts with the first key, decrypts with any."""

    def __init__(self, secret_key: str, *old: str) -> None:
        keys = [_derive(key) for key in (secret_key, *old)]
        self._keys = {_key_id(key): AESGCM(key) for key in reversed(keys)}
        self._current = _key_id(keys[0])
        self._mark = HKDF(hashes.SHA256(), 32, salt=None, info=b"etl-stream fingerprints").derive(secret_key.encode())

    def encrypt(self, text: str, context: str) -> EncryptedText:
        """The stored form of a secret that stands at `context` (table/name of the row/column)."""
        nonce = os.urandom(_NONCE_BYTES)
        sealed = self._keys[self._current].encrypt(nonce, text.encode(), context.encode())
        return EncryptedText(f"{VERSION}:{self._current}:{base64.b64encode(nonce + sealed).decode()}", context)

    def is_current(self, stored: str) -> bool:
        """True for what the first key wrote; what an old one wrote is to be encrypted again."""
        return is_encrypted(stored) and stored.split(":")[1] == self._current

    def fingerprint(self, data: bytes) -> str:
        """The same for the same data, and nothing that a secret in it could be guessed by."""
        return hmac.digest(self._mark, data, "sha256").hex()

    def decrypt(self, secret: EncryptedText) -> str:
        """The secret. EtlError(CONFIG) when it was written under another key or for another place."""
        try:
            _, key_id, encoded = secret.ciphertext.split(":")
            data = base64.b64decode(encoded, validate=True)
            opened = self._keys[key_id].decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], secret.context.encode())
        except (ValueError, KeyError, InvalidTag):
            reason = "the stored secret does not open with SECRET_KEY"
            remedy = "restore the SECRET_KEY it was written under (or set it as SECRET_KEY_PREVIOUS), or store the secret again"
            raise EtlError(Kind.CONFIG, secret.context, reason, remedy) from None
        return opened.decode()


def is_encrypted(text: str) -> bool:
    """True for a stored form, False for a secret that somebody wrote in clear."""
    return re.fullmatch(STORED_FORM, text) is not None


def _derive(secret_key: str) -> bytes:
    return HKDF(hashes.SHA256(), 32, salt=None, info=b"etl-stream secrets at rest").derive(secret_key.encode())


def _key_id(key: bytes) -> str:
    return hashlib.sha256(b"key id" + key).hexdigest()[:8]
