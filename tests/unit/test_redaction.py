"""No secret in a line of the log, wherever it lies; and everything else as it was said."""

from __future__ import annotations

import base64
import time
from typing import Any

import jwt
import orjson
import pytest
import structlog
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from etl_supervisor.monitor.logs import redact

WORD = "hunter2-Zq9"
KEY = ec.generate_private_key(ec.SECP256R1())
PEM = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
PUBLIC = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
JWT = jwt.encode({"iss": "ACCOUNT.USER.SHA256:abc", "sub": "ACCOUNT.USER", "exp": 9_999_999_999}, KEY, "ES256")
AES = base64.b64encode(bytes(range(32))).decode()
API_KEY = "_".join(("etl", "a1b2c3d4", "kV9dXw0_mQn2-4rTyUiOpAsDfGhJkLzXcVbNm12345"))

# What is said, the secret in it, and what has to be there still.
SHAPES = {
    "postgres url": (f"postgresql://etl:{WORD}@db.example:5432/app?sslmode=require", WORD, "@db.example:5432/app"),
    "a password with @ and /": (f"postgresql://etl:p@ss/{WORD}@db.example/app", WORD, "@db.example/app"),
    "a password of digits": ("postgresql://etl:80412@db.example/app", "80412", "@db.example/app"),
    "a scheme with a driver": (f"postgresql+psycopg://etl:{WORD}@db/app", WORD, "@db/app"),
    "redis url": (f"redis://:{WORD}@cache:6379/0", WORD, "redis://"),
    "rediss url": (f"rediss://user:{WORD}@cache:6380/0", WORD, "rediss://user:"),
    "the second of two": (f"redis://one:6379,redis://:{WORD}@two:6379", WORD, "redis://one:6379"),
    "smtp url": (f"smtps://mail%40x.example:{WORD}@smtp.example:465", WORD, "@smtp.example:465"),
    "dsn": (f"host=db user=etl password={WORD} dbname=app", WORD, "dbname=app"),
    "dsn with a quote": (f"host=db password='it\\'s {WORD}' dbname=app", WORD, "dbname=app"),
    "dsn that was cut": (f"host=db password='it is {WORD}", WORD, "host=db"),
    "dsn with spaces": (f"host=db password = {WORD} dbname=app", WORD, "dbname=app"),
    "query": (f"postgresql://db/app?user=etl&password={WORD}", WORD, "user=etl"),
    "ssl key": (f"host=db sslpassword={WORD}", WORD, "host=db"),
    "statement": (f"ALTER ROLE etl PASSWORD 'a''b{WORD}' VALID UNTIL 'infinity'", WORD, "VALID UNTIL"),
    "representation": (f"{{'user': 'etl', 'password': '{WORD}'}}", WORD, "'user': 'etl'"),
    "json": (orjson.dumps({"user": "etl", "passphrase": f'a"b{WORD}'}).decode(), WORD, '"user":"etl"'),
    "environment": (f"SECRET_KEY={AES} LOG_LEVEL=INFO", AES, "LOG_LEVEL=INFO"),
    "environment before": (f"SECRET_KEY_PREVIOUS={AES}", AES, "SECRET_KEY_PREVIOUS="),
    "passphrase": (f"SNOWFLAKE_PRIVATE_KEY_PASSPHRASE={WORD}", WORD, "PASSPHRASE="),
    "private key": (f"could not load {PEM} of user x", PEM.splitlines()[1], "of user x"),
    "private key, escaped": (repr(f"could not load {PEM} of user x"), PEM.splitlines()[2], "of user x"),
    "private key on one line": (PEM.replace("\n", " ") + "of user x", PEM.splitlines()[1], "of user x"),
    "private key that was cut": ("could not load " + PEM[:120], PEM.splitlines()[1][:20], "could not load "),
    "encrypted key": (PEM.replace("PRIVATE", "ENCRYPTED PRIVATE") + "!", PEM.splitlines()[1], "!"),
    "old key": (PEM.replace("PRIVATE", "RSA PRIVATE") + "!", PEM.splitlines()[1], "!"),
    "header": (f"Authorization: Bearer {WORD}{WORD}, Accept: */*", WORD, "Accept: */*"),
    "header of a dict": (f"{{'Authorization': 'Bearer {WORD}', 'Accept': '*/*'}}", WORD, "'Accept'"),
    "basic": ("Authorization: Basic dTpwYXNz host", "dTpwYXNz", "host"),
    "snowflake's": (f'Authorization: Snowflake Token="{WORD}{WORD}" host', WORD, "host"),
    "bearer alone": (f"sent bearer {WORD}{WORD} to x", WORD, "to x"),
    "jwt": (f"login with {JWT} refused", JWT.split(".")[1], "refused"),
    "jwt that was cut": (f"login with {JWT[: JWT.rindex('.')]} refused", JWT.split(".")[1], "refused"),
    "api key": (f"request with {API_KEY} refused", API_KEY[13:], "etl_a1b2c3d4_"),
}
ORDINARY = (
    'FATAL: password authentication failed for user "etl"',
    "no password supplied",
    "secret 7 of 12 encrypted; the token of channel t-3 is 42 (offset_token=42)",
    "http://127.0.0.1:8080/pipelines/a@b and https://db.example:443",
    "reached postgresql://db.example:5432/app as etl@db.example",
    "the bearer of this is authorization: required",
    "SELECT 1 WHERE a = 'b' AND key = 'c'",
    "public.items: lsn 0/16B3748, 10:20:30, primary key (id), a=b, x: y",
    PUBLIC,
    "v1:1f2e3d4c:" + AES,  # what is encrypted
    "reader-etl_stream_12_p3",
    "größer — 漢字 \n\t",
)


def line(**fields: Any) -> str:
    """What is written of an event."""
    return orjson.dumps(redact(None, "info", fields), default=str).decode()


@pytest.mark.parametrize("shape", SHAPES)
def test_a_secret_is_in_no_part_of_a_line(shape: str) -> None:
    text, secret, kept = SHAPES[shape]
    assert secret in text
    places: dict[str, dict[str, Any]] = {
        "message": {"event": text},
        "field": {"event": "e", "reason": text},
        "dict": {"event": "e", "detail": {"deep": {"deeper": text}, 5: "an integer is a name, too"}},
        "list": {"event": "e", "details": ["x", (text,), {text}]},
        "exception": {"event": "e", "error": ValueError(text)},
    }
    for place, fields in places.items():
        said = line(**fields)
        assert secret not in said, place
        assert orjson.dumps(secret).decode()[1:-1] not in said, place
        assert "***" in said, place
    assert kept in redact(None, "info", {"event": text})["event"]


def _open(text: str) -> None:
    try:
        raise ConnectionError(text)
    except ConnectionError as error:
        raise RuntimeError("while it was opened") from error


@pytest.mark.parametrize("shape", SHAPES)
def test_a_traceback_shows_no_secret(shape: str) -> None:
    text, secret, _ = SHAPES[shape]
    with pytest.raises(RuntimeError) as raised:
        _open(text)
    event = structlog.processors.format_exc_info(None, "error", {"event": "crashed", "exc_info": raised.value})
    assert secret in event["exception"]
    said = redact(None, "error", event)["exception"]
    assert secret not in said
    assert "while it was opened" in said or shape.endswith("cut")


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_is_left_alone(text: str) -> None:
    fields = {"event": text, "a": {"b": [text, 1, 2.5, None, True]}}
    assert redact(None, "info", dict(fields)) == fields


NAMES = ("password", "pg_password", "snowflake_private_key_passphrase", "SECRET_KEY", "access_token", "private_key")
MORE_NAMES = ("credentials", "Authorization", "X-API-Key", "database_url", "dsn")


@pytest.mark.parametrize("name", NAMES + MORE_NAMES)
def test_a_value_is_hidden_for_its_name_whatever_it_is(name: str) -> None:
    for value in (AES, AES.encode(), 8041234, [AES], {"x": AES}):
        for fields in ({name: value}, {"detail": {name: value}}, {"details": [{name: value}]}):
            said = line(event="e", **fields)
            assert "***" in said
            assert AES not in said
            assert "8041234" not in said


@pytest.mark.parametrize("name", ["key", "private_key_path", "urls", "table", "api_keys"])
def test_a_name_that_only_looks_like_it_hides_nothing(name: str) -> None:
    assert redact(None, "info", {"event": "e", name: "x", "d": {name: 1}}) == {"event": "e", name: "x", "d": {name: 1}}


@pytest.mark.parametrize("part", ["A", "://a:", "password", "password=", "-----BEGIN ", "eyJ", "eyJ.", "'", "etl_"])
def test_a_long_text_is_looked_at_once(part: str) -> None:
    """A pattern that goes back for each of its characters would take minutes, in which its process does nothing else."""
    began = time.process_time()
    redact(None, "info", {"event": part * (100_000 // len(part))})
    assert time.process_time() - began < 3
