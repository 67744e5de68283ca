"""Users, as far as logins need them: public keys in two slots, and roles.

    CREATE | ALTER USER u SET RSA_PUBLIC_KEY = '…' RSA_PUBLIC_KEY_2 = '…'      ALTER USER u UNSET RSA_PUBLIC_KEY      DROP USER u
    GRANT ROLE r TO USER u      REVOKE ROLE r FROM USER u

A user without a key is let in with any, under any role: that is everybody who was never named here. A user with a key must have signed with it, and
takes only roles that were granted. Sessions and tokens of a key that was taken away end at once (Snowflake lets them live to their end, an hour or
four: here a test need not wait). Nothing of this outlives the process.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

INVALID_TOKEN = ("390144", "JWT token is invalid.")
SESSION_OVER = ("390114", "Authentication token has expired. The user must authenticate again.")
_NAME = r'(?P<user>"(?:[^"]|"")+"|\w+)'
_USER = re.compile(
    rf"\s*(?P<verb>CREATE|ALTER|DROP)\s+(?:OR\s+REPLACE\s+)?USER\s+(?:IF\s+(?:NOT\s+)?EXISTS\s+)?{_NAME}(?P<rest>.*)$",
    re.IGNORECASE | re.DOTALL,
)
_SET = re.compile(r"\b(?P<slot>RSA_PUBLIC_KEY(?:_2)?)\s*=\s*'(?P<key>[^']*)'", re.IGNORECASE)
_UNSET = re.compile(r"\bUNSET\s+(?P<slots>.*)$", re.IGNORECASE | re.DOTALL)
_ROLE = re.compile(
    rf'\s*(?P<verb>GRANT|REVOKE)\s+ROLE\s+(?P<role>"(?:[^"]|"")+"|\w+)\s+(?:TO|FROM)\s+USER\s+{_NAME}\s*;?\s*$',
    re.IGNORECASE,
)


class RefusedError(Exception):
    """Somebody is not let in."""

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Login:
    """Who was let in, by which key, and the role and warehouse that were asked for."""

    user: str
    fingerprint: str
    role: str = ""
    warehouse: str = ""


@dataclass(slots=True)
class Users:
    """The users of the account, and the sessions that they have opened."""

    keys: dict[str, dict[str, RSAPublicKey]] = field(default_factory=lambda: defaultdict(dict))
    roles: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    sessions: dict[str, Login] = field(default_factory=dict)
    tags: Counter[str] = field(default_factory=Counter)  # statements by their query tag

    def take(self, sql: str) -> bool:
        """Carry out a statement about users; False for any other. RefusedError for a key that is none."""
        if granted := _ROLE.match(sql):
            change = set.add if granted["verb"].upper() == "GRANT" else set.discard
            change(self.roles[_stored(granted["user"])], _stored(granted["role"]))
            return True
        if (found := _USER.match(sql)) is None:
            return False
        slots = self.keys[_stored(found["user"])]
        if found["verb"].upper() == "DROP":
            slots.clear()
        for item in _SET.finditer(found["rest"]):
            slots[item["slot"].upper()] = _public_key(item["key"])
        if unset := _UNSET.search(found["rest"]):
            for slot in re.findall(r"\w+", unset["slots"].upper()):
                slots.pop(slot, None)
        return True

    def enter(self, token: str, role: str | None = None) -> Login:
        """Who has signed this login token; RefusedError when nobody did who may."""
        try:
            claims = jwt.decode(token, options={"verify_signature": False, "verify_exp": False, "verify_iat": False})
            user, fingerprint = claims["sub"].partition(".")[2].upper(), claims["iss"].partition(".SHA256:")[2]
            login = Login(user, fingerprint)
            if self.keys.get(user):
                key = self._key(login)
                if key is None:
                    raise RefusedError(*INVALID_TOKEN)
                jwt.decode(token, key, ["RS256"], options={"verify_exp": False, "verify_iat": False})
        except (jwt.InvalidTokenError, KeyError):
            raise RefusedError(*INVALID_TOKEN) from None
        role = role or str(claims.get("scp", "")).partition("session:role:")[2]
        if role and self.keys.get(user) and _stored(role) not in self.roles[user]:
            raise RefusedError(
                "390189", f"Role '{role}' specified in the connect string does not exist or not authorized."
            )
        return replace(login, role=_stored(role) if role else "")

    def check(self, login: Login | None) -> None:
        """RefusedError when the key of a login was taken away since."""
        if login is not None and self.keys.get(login.user) and self._key(login) is None:
            raise RefusedError(*SESSION_OVER)

    def _key(self, login: Login) -> RSAPublicKey | None:
        return next((key for key in self.keys[login.user].values() if _fingerprint(key) == login.fingerprint), None)


def login_of(claims: dict[str, Any]) -> Login:
    """Whom a token of ours was made for."""
    return Login(claims["sub"], claims["fingerprint"])


def _public_key(text: str) -> RSAPublicKey:
    body = "".join(line for line in text.splitlines() if "-----" not in line)
    try:
        key = load_der_public_key(base64.b64decode(body, validate=True))
    except (ValueError, binascii.Error):
        key = None
    if not isinstance(key, RSAPublicKey):
        raise RefusedError("001003", "New public key rejected by current policy. Reason: 'Invalid public key'")
    return key


def _fingerprint(key: RSAPublicKey) -> str:
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(hashlib.sha256(der).digest()).decode()


def _stored(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name.upper()
