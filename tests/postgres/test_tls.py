"""TLS to sources, their primaries, the config database and the state store: verified where there is an authority, and what is said when it fails."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from etl_supervisor.config.database_url import libpq_url
from etl_supervisor.config.settings import load
from etl_supervisor.embedded.valkey import EmbeddedValkey
from etl_supervisor.errors import EtlError
from etl_supervisor.state.choose import open_store
from tests.support.fix_postgres import Database
from tests.support.streaming import source_of
from tests.support.tls import Issued, TlsProxy, issue
from workers.reader.heartbeat import connect_primary
from workers.reader.stream import connect


@dataclass(frozen=True)
class Encrypted:
    """A server with TLS, the certificate that it shows, and one of another authority. It may be a proxy that ends TLS before a server without."""

    database: Database
    issued: Issued
    foreign: Issued
    front: TlsProxy | None = None

    @property
    def port(self) -> int:
        """Where it listens."""
        return self.front.port if self.front else self.database.server.port

    @property
    def url(self) -> str:
        """The database behind it."""
        return self.database.url.replace(f":{self.database.server.port}/", f":{self.port}/")

    def show(self, issued: Issued) -> None:
        """This certificate from now on."""
        if self.front:
            self.front.show(issued)
        else:
            serve_with(self.database, issued)

    def connect(self, **changes: Any) -> bool:
        """Whether a source of these columns gets TLS."""
        source, password = source_of(self.database)
        with connect(replace(source, **{"pg_port": self.port, **changes}), password) as connection:
            connection.execute("select 1")
            return bool(connection.pgconn.ssl_in_use)

    def refusal(self, **changes: Any) -> str:
        """Why not, without the names of this test."""
        said = len(self.front.seen) if self.front else 0
        with pytest.raises(EtlError) as caught:
            self.connect(**changes)
        assert not self.front or b"SCRAM" not in self.front.seen[said:]  # no login has begun
        source, _ = source_of(self.database)
        line = caught.value.line.replace(source.name, "NAME")
        return line.replace(str(self.issued.authority.parents[1]), "FOLDER")


@pytest.fixture
def two_authorities(open_folder: Path) -> tuple[Issued, Issued]:
    return issue(open_folder / "own", "IP:127.0.0.1"), issue(open_folder / "foreign", "DNS:other.example")


@pytest.fixture(params=["a proxy before the embedded server", "the distribution's server"])
def encrypted(request: pytest.FixtureRequest, two_authorities: tuple[Issued, Issued]) -> Iterator[Encrypted]:
    """Every machine has the embedded server, whose build knows no TLS; the distribution's does, where there is one."""
    if request.param == "the distribution's server":
        yield request.getfixturevalue("encrypting")
        return
    database = request.getfixturevalue("database")
    front = TlsProxy(("127.0.0.1", database.server.port), two_authorities[0], postgres=True)
    yield Encrypted(database, *two_authorities, front)
    front.close()


@pytest.fixture
def encrypting(old_database: Database, two_authorities: tuple[Issued, Issued]) -> Iterator[Encrypted]:
    """A server that ends TLS itself, so that it can bind a login to it: skipped where the distribution has none."""
    serve_with(old_database, two_authorities[0])
    yield Encrypted(old_database, *two_authorities)
    for name in ("ssl", "ssl_cert_file", "ssl_key_file"):
        old_database.execute(f"alter system reset {name}")
    old_database.execute("select pg_reload_conf()")


def serve_with(database: Database, issued: Issued) -> None:
    """Show this certificate from now on."""
    owner = database.server.data_dir.stat()
    for path in (issued.key, issued.certificate, issued.certificate.parent):
        os.chown(path, owner.st_uid, owner.st_gid)
    for name, value in (("ssl_cert_file", issued.certificate), ("ssl_key_file", issued.key), ("ssl", "on")):
        database.execute(f"alter system set {name} = '{value}'")
    database.execute("select pg_reload_conf()")


def test_a_server_is_verified_as_soon_as_there_is_an_authority(encrypted: Encrypted) -> None:
    there = encrypted.port
    assert encrypted.connect(pg_tls_mode="auto", pg_tls_ca=str(encrypted.issued.authority))
    assert encrypted.connect(pg_tls_mode="auto")  # not verified: prefer
    assert not encrypted.connect(pg_tls_mode="prefer", pg_tls_ca=str(encrypted.foreign.authority))
    assert encrypted.refusal(pg_tls_mode="auto", pg_tls_ca=str(encrypted.foreign.authority)) == (
        f"source_setup at source NAME: the certificate of 127.0.0.1:{there} is not good: not signed by FOLDER/foreign/ca.pem, or expired"
        " (set pg_tls_ca to the authority that signed it)"
    )


def test_a_certificate_for_another_host_is_refused(encrypted: Encrypted) -> None:
    encrypted.show(encrypted.foreign)
    there = encrypted.port
    assert encrypted.refusal(pg_tls_mode="auto", pg_tls_ca=str(encrypted.foreign.authority)) == (
        f"source_setup at source NAME: the certificate of 127.0.0.1:{there} is for another host"
        " (write pg_host as the certificate has it, or have one made for this name)"
    )
    assert encrypted.connect(pg_tls_mode="verify-ca", pg_tls_ca=str(encrypted.foreign.authority))


def test_an_authority_that_can_not_be_read_is_said(encrypted: Encrypted) -> None:
    missing = encrypted.issued.authority.with_name("missing.pem")
    assert encrypted.refusal(pg_tls_mode="auto", pg_tls_ca=str(missing)) == (
        "source_setup at source NAME: the authority FOLDER/own/missing.pem can't be read (pg_tls_mode verify-full)"
        " (set pg_tls_ca to a PEM file that this user may read, or to `system` for the machine's authorities)"
    )


@pytest.mark.parametrize(("chosen", "asks"), [("require", "require"), ("auto", "verify-full")])
def test_a_server_without_tls_is_refused_where_it_is_asked_for(
    chosen: str, asks: str, database: Database, two_authorities: tuple[Issued, Issued]
) -> None:
    source, password = source_of(database)
    authority = str(two_authorities[0].authority) if chosen == "auto" else None
    with pytest.raises(EtlError) as caught:
        connect(replace(source, pg_tls_mode=chosen, pg_tls_ca=authority), password)
    assert caught.value.line == (
        f"source_setup at source {source.name}: 127.0.0.1:{database.server.port} offers no TLS, and pg_tls_mode {asks} asks for it"
        " (set ssl = on in PostgreSQL)"
    )


def test_somebody_between_with_a_certificate_of_his_own_is_found_by_channel_binding(encrypting: Encrypted) -> None:
    between = TlsProxy(
        ("127.0.0.1", encrypting.database.server.port), encrypting.foreign, postgres=True, encrypted=True
    )
    unverified = {"pg_tls_mode": "require", "pg_port": between.port}
    try:
        assert encrypting.refusal(**unverified, pg_channel_binding="require") == (
            f"source_setup at source NAME: 127.0.0.1:{between.port} does not bind the login to this TLS connection: somebody may stand between"
            " (find out who answers there; a server without SCRAM or TLS needs pg_channel_binding = 'prefer')"
        )
        assert encrypting.connect(**unverified, pg_channel_binding="disable")  # what it protects from
    finally:
        between.close()
    assert encrypting.connect(pg_tls_mode="require", pg_channel_binding="require")


def test_a_login_that_can_not_be_bound_is_refused(encrypted: Encrypted) -> None:
    there = encrypted.port
    assert encrypted.refusal(pg_tls_mode="disable", pg_channel_binding="require") == (
        f"source_setup at source NAME: 127.0.0.1:{there} does not bind the login to this TLS connection: somebody may stand between"
        " (find out who answers there; a server without SCRAM or TLS needs pg_channel_binding = 'prefer')"
    )


def test_a_primary_is_verified_by_the_authority_of_its_source(encrypted: Encrypted) -> None:
    source, _ = source_of(encrypted.database)
    url = encrypted.url
    ((system,),) = encrypted.database.execute("select system_identifier::text from pg_control_system()")
    good = replace(source, pg_tls_mode="auto", pg_tls_ca=str(encrypted.issued.authority))
    with connect_primary(good, url, system) as connection:
        assert connection.pgconn.ssl_in_use
    with pytest.raises(EtlError, match="not signed by"):
        connect_primary(replace(good, pg_tls_ca=str(encrypted.foreign.authority)), url, system)
    with connect_primary(good, f"{url}?sslmode=disable", system) as connection:
        assert not connection.pgconn.ssl_in_use


def test_the_config_database_is_verified_when_its_url_has_an_authority(encrypted: Encrypted) -> None:
    url = encrypted.url.replace("postgresql://", "postgresql+asyncpg://")
    with psycopg.connect(libpq_url(f"{url}?sslrootcert={encrypted.issued.authority}")) as connection:
        assert connection.pgconn.ssl_in_use
    with pytest.raises(psycopg.OperationalError, match="certificate verify failed"):
        psycopg.connect(libpq_url(f"{url}?sslrootcert={encrypted.foreign.authority}"))
    assert libpq_url("postgres://h/d?sslmode=require&sslrootcert=x") == "postgresql://h/d?sslmode=require&sslrootcert=x"


@pytest.fixture
def tls_valkey(valkey: EmbeddedValkey, tmp_path: Path) -> Iterator[tuple[TlsProxy, str]]:
    """A Valkey behind TLS (its wheel is built without), and its URL."""
    issued = issue(tmp_path / "tls", "IP:127.0.0.1")
    front = TlsProxy(("127.0.0.1", valkey.port), issued)
    url = valkey.url.replace("redis://", "rediss://").replace(f":{valkey.port}", f":{front.port}")
    yield front, url
    front.close()


def test_a_state_store_behind_tls_is_verified(tls_valkey: tuple[TlsProxy, str], tmp_path: Path) -> None:
    front, url = tls_valkey
    store = open_store(load(tmp_path, {"REDIS_URL": url, "REDIS_TLS_CA": "tls/ca.pem"}))
    first = store.next_epoch("shop")
    assert store.next_epoch("shop") == first + 1
    store.close()
    assert b"shop" in front.seen
    said = len(front.seen)
    for foreign in ({}, {"REDIS_TLS_CA": str(issue(tmp_path / "other", "IP:127.0.0.1").authority)}):
        store = open_store(load(tmp_path, {"REDIS_URL": url, **foreign}))
        with pytest.raises(EtlError) as caught:
            store.epoch("shop")
        assert caught.value.line == (
            "config at Redis: the server's certificate is not good"
            " (set REDIS_TLS_CA to the authority that signed it, and the host in REDIS_URL as it has it)"
        )
        store.close()
    assert len(front.seen) == said  # no password was sent


def test_an_authority_of_the_state_store_needs_tls_and_a_file(tmp_path: Path) -> None:
    with pytest.raises(EtlError) as caught:
        load(tmp_path, {"REDIS_URL": "redis://h", "REDIS_TLS_CA": "ca.pem"})
    assert caught.value.line == (
        "config at REDIS_TLS_CA: REDIS_URL is no rediss:// URL (read from the environment) (allowed: text)"
    )
    with pytest.raises(EtlError) as caught:
        open_store(load(tmp_path, {"REDIS_URL": "rediss://h", "REDIS_TLS_CA": "ca.pem"}))
    assert caught.value.line == (
        f"config at REDIS_TLS_CA: {tmp_path}/ca.pem can't be read (set it to a PEM file that this user may read)"
    )
