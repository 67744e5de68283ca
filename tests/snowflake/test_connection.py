"""How Snowflake is reached: tags, proxies, hosts, keys."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from snowflake.connector.errors import Error
from snowflake.connector.file_transfer_agent import SnowflakeFileTransferAgent

from etl_supervisor.embedded.snowflake.launch import LocalSnowflake
from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.model.pipeline import Destination, EncryptedText
from tests.support import least
from tests.support.fix_local_snowflake import sql_session
from tests.support.keys import write_key
from tests.support.receiver import http_receiver
from tests.support.tls import issue
from tests.support.tunnel import Tunnel
from workers.snowflake.connection import classify, connect, host_of
from workers.snowflake.sessions import Sessions
from workers.snowflake.tagging import Tag


@pytest.fixture
def tunnel() -> Iterator[Tunnel]:
    made = Tunnel()
    yield made
    made.close()


def begin(door: str, destination: Destination, **environment: str) -> subprocess.Popen[str]:
    """Use one door in another process."""
    asked = {name: value for name, value in asdict(destination).items() if name != "naming"}  # as it is by default
    return subprocess.Popen(
        [sys.executable, "-m", "tests.support.doors", door, json.dumps(asked)],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def landing(destination: Destination) -> str:
    """The table that the doors for rows write to."""
    return f'"{destination.database}"."{destination.landing_schema}"."LANDING_T"'


def ended(door: subprocess.Popen[str], seconds: float = 60) -> str:
    """What it has complained about; "" when it was answered."""
    try:
        _, said = door.communicate(timeout=seconds)
    finally:
        door.kill()
    return said[-2000:] or "nothing said" if door.returncode else ""


def ask(door: str, destination: Destination, **environment: str) -> str:
    """Use one door, and wait."""
    return ended(begin(door, destination, **environment))


@pytest.mark.parametrize("door", ["sql", "put", "snowpipe", "streaming", "streaming file", "inquiry"])
def test_every_door_goes_through_the_proxy(destination: Destination, tunnel: Tunnel, door: str) -> None:
    with sql_session(destination) as session, session.cursor() as cursor:
        cursor.execute(f'CREATE TABLE {landing(destination)} ("ID" NUMBER(19,0), "S" VARCHAR)')
    assert ask(door, destination, HTTPS_PROXY=tunnel.url) == ""
    assert set(tunnel.asked) == {destination.host}


@pytest.mark.parametrize("door", ["sql", "snowpipe", "streaming", "inquiry"])
def test_no_proxy_is_honoured(destination: Destination, tunnel: Tunnel, door: str) -> None:
    with sql_session(destination) as session, session.cursor() as cursor:
        cursor.execute(f'CREATE TABLE {landing(destination)} ("ID" NUMBER(19,0), "S" VARCHAR)')
    assert ask(door, destination, HTTPS_PROXY=tunnel.url, NO_PROXY="127.0.0.1") == ""
    assert tunnel.asked == []


DISTRUST = {
    "sql": "destination_unreachable at destination local: the certificate of Snowflake's host is not good",
    "inquiry": "InquiryError: SSLError",
    "snowpipe": "CERTIFICATE_VERIFY_FAILED",
    "streaming": "error sending request for url",  # the SDK tells no more; a session comes before every channel and does
}


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_no_door_says_a_word_to_a_server_of_a_foreign_authority(
    destination: Destination, local_snowflake: LocalSnowflake, tmp_path: Path
) -> None:
    with sql_session(destination) as session, session.cursor() as cursor:
        cursor.execute(f'CREATE TABLE {landing(destination)} ("ID" NUMBER(19,0), "S" VARCHAR)')
    foreign = str(issue(tmp_path, "IP:127.0.0.1").authority)
    heard = local_snowflake.state()["requests"]
    doors = {door: begin(door, replace(destination, settings={"ca_file": foreign})) for door in DISTRUST}
    said = {door: ended(process, 150) for door, process in doors.items()}  # two of them try again for a minute
    assert {door: DISTRUST[door] for door in DISTRUST if DISTRUST[door] not in said[door]} == {}, said
    assert local_snowflake.state()["requests"] == heard  # no login, token or row
    assert [door for door in DISTRUST if ask(door, destination)] == []  # the same doors with the right one


def test_no_file_goes_to_a_stage_of_a_foreign_authority(
    destination: Destination, local_snowflake: LocalSnowflake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = str(issue(tmp_path, "IP:127.0.0.1").authority)
    (tmp_path / "f.txt").write_text("text")
    stage = f'"{destination.database}"."{destination.landing_schema}"."S"'
    upload = SnowflakeFileTransferAgent.execute

    def upload_elsewhere(agent: SnowflakeFileTransferAgent) -> None:  # the statement was answered by the right server
        for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
            monkeypatch.setenv(name, foreign)
        upload(agent)

    with sql_session(destination) as session, session.cursor() as cursor:
        cursor.execute(f"CREATE STAGE {stage}")
        with monkeypatch.context() as patched:
            patched.setattr(SnowflakeFileTransferAgent, "execute", upload_elsewhere)
            heard = local_snowflake.state()["requests"]
            with pytest.raises(Error) as caught:
                cursor.execute(f"PUT 'file://{tmp_path}/f.txt' @{stage} AUTO_COMPRESS = FALSE")
        told = {kind: count for kind, count in local_snowflake.state()["requests"].items() if count != heard.get(kind)}
    error = classify(caught.value, "destination local", Kind.CHANNEL)
    assert (error.kind, error.rule) == (Kind.DESTINATION_UNREACHABLE, "certificate")
    assert list(told) == ["POST query-request"]


def test_a_server_that_speaks_no_tls_is_not_blamed_for_its_certificate(destination: Destination) -> None:
    with http_receiver() as other, pytest.raises(EtlError) as caught:
        connect(replace(destination, host=f"127.0.0.1:{other.port}"), lambda _: "", Path(), purpose="test")
    assert caught.value.kind is Kind.DESTINATION_UNREACHABLE
    assert caught.value.reason.startswith("what answers at Snowflake's host speaks no TLS")


def test_statements_carry_pipeline_table_and_step(destination: Destination, local_snowflake: LocalSnowflake) -> None:
    sessions = Sessions(lambda secret: "", Path(), "actor-1")
    tag = Tag(f'p "{destination.database}"', "public.t", "apply")

    def job(session: object) -> None:
        with session.cursor() as cursor:  # type: ignore[attr-defined]
            cursor.execute("SELECT 1")
            cursor.execute("SELECT %s", (2,))

    sessions.run(destination, tag, job)
    assert json.loads(tag.text) == {"app": "etl-stream", "pipeline": tag.pipeline, "table": "public.t", "step": "apply"}
    assert local_snowflake.state()["tags"][tag.text] == 2


@pytest.mark.parametrize(
    ("account", "host", "found"),
    [
        ("acme-prod", None, "acme-prod.snowflakecomputing.com"),
        ("acme-my_account", None, "acme-my-account.snowflakecomputing.com"),
        ("xy12345.eu-west-1", None, "xy12345.eu-west-1.snowflakecomputing.com"),
        ("xy12345", "acme.privatelink.snowflakecomputing.com", "acme.privatelink.snowflakecomputing.com"),
    ],
)
def test_the_host_of_an_account(destination: Destination, account: str, host: str | None, found: str) -> None:
    assert host_of(replace(destination, account=account, host=host)) == found


def test_an_encrypted_key_needs_its_passphrase(
    all_powerful: Destination, destination: Destination, tmp_path: Path
) -> None:
    public, user = write_key(tmp_path / "k.p8", "open sesame"), destination.user
    least.administer(all_powerful, user, f"ALTER USER {user} SET RSA_PUBLIC_KEY = '{public}'")
    secret = EncryptedText("…", "…")
    it = replace(destination, private_key_path="k.p8", private_key_passphrase=secret)
    connect(it, lambda _: "open sesame", tmp_path, purpose="test").close()
    with pytest.raises(EtlError) as caught:
        connect(replace(it, private_key_passphrase=None), lambda _: "", tmp_path, purpose="test")
    assert caught.value.line == (
        "config at destination local: private key k.p8 is encrypted and no passphrase is set"
        " (correct snowflake_private_key_passphrase)"
    )
    with pytest.raises(EtlError, match="its passphrase is wrong"):
        connect(it, lambda _: "close", tmp_path, purpose="test")


def test_a_key_that_the_user_does_not_have_is_refused_in_words(
    all_powerful: Destination, local_snowflake: LocalSnowflake, tmp_path: Path
) -> None:
    known = write_key(tmp_path / "known.p8")
    with sql_session(all_powerful) as session, session.cursor() as cursor:
        cursor.execute(f"ALTER USER {all_powerful.database} SET RSA_PUBLIC_KEY = '{known}'")
    write_key(tmp_path / "other.p8")
    it = replace(all_powerful, user=all_powerful.database, private_key_path="other.p8")
    with pytest.raises(EtlError) as caught:
        connect(it, lambda _: "", tmp_path, purpose="test")
    assert caught.value.kind is Kind.DESTINATION_AUTH
    assert caught.value.reason == "Snowflake refuses the login (390144)"
    connect(replace(it, private_key_path="known.p8"), lambda _: "", tmp_path, purpose="test").close()
