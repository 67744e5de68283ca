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
    """A server with TLS, the certificate that it shows, and one of another authority."""

    database: Database
    issued: Issued
    foreign: Issued

    def connect(self, **changes: Any) -> str | None:
        """The version of TLS that a source of these columns gets; None without."""
        source, password = source_of(self.database)
        with connect(replace(source, **changes), password) as connection:
            row = connection.execute("select version from pg_stat_ssl where pid = pg_backend_pid()").fetchone()
        assert row is not None
        version: str | None = row[0]
        return version

    def refusal(self, **changes: Any) -> str:
        """Why not, without the names of this test."""
        with pytest.raises(EtlError) as caught:
            self.connect(**changes)
        source, _ = source_of(self.database)
        line = caught.value.line.replace(source.name, "NAME")
        return line.replace(str(self.issued.authority.parents[1]), "FOLDER")


@pytest.fixture
def encrypted(old_database: Database, open_folder: Path) -> Iterator[Encrypted]:
    """The server of the distribution, whose build knows TLS; the embedded one's does not."""
    issued, foreign = issue(open_folder / "own", "IP:127.0.0.1"), issue(open_folder / "foreign", "DNS:other.example")
    serve_with(old_database, issued)
    yield Encrypted(old_database, issued, foreign)
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
    there = encrypted.database.server.port
    assert encrypted.connect(pg_tls_mode="auto", pg_tls_ca=str(encrypted.issued.authority)) == "TLSv1.3"
    assert encrypted.connect(pg_tls_mode="auto") == "TLSv1.3"  # not verified: prefer
    assert encrypted.connect(pg_tls_mode="prefer", pg_tls_ca=str(encrypted.foreign.authority)) is None
    assert encrypted.refusal(pg_tls_mode="auto", pg_tls_ca=str(encrypted.foreign.authority)) == (
        f"source_setup at source NAME: the certificate of 127.0.0.1:{there} is not good: not signed by FOLDER/foreign/ca.pem, or expired"
        " (set pg_tls_ca to the authority that signed it)"
    )


def test_a_certificate_for_another_host_is_refused(encrypted: Encrypted) -> None:
    serve_with(encrypted.database, encrypted.foreign)
    there = encrypted.database.server.port
    assert encrypted.refusal(pg_tls_mode="auto", pg_tls_ca=str(encrypted.foreign.authority)) == (
        f"source_setup at source NAME: the certificate of 127.0.0.1:{there} is for another host"
        " (write pg_host as the certificate has it, or have one made for this name)"
    )
    assert encrypted.connect(pg_tls_mode="verify-ca", pg_tls_ca=str(encrypted.foreign.authority)) == "TLSv1.3"


def test_an_authority_that_can_not_be_read_is_said(encrypted: Encrypted) -> None:
    missing = encrypted.issued.authority.with_name("missing.pem")
    assert encrypted.refusal(pg_tls_mode="auto", pg_tls_ca=str(missing)) == (
        "source_setup at source NAME: the authority FOLDER/own/missing.pem can't be read (pg_tls_mode verify-full)"
        " (set pg_tls_ca to a PEM file that this user may read, or to `system` for the machine's authorities)"
    )


def test_a_server_without_tls_is_refused_where_it_is_asked_for(database: Database) -> None:
    source, password = source_of(database)
    with pytest.raises(EtlError) as caught:
        connect(replace(source, pg_tls_mode="require"), password)
    assert caught.value.line == (
        f"source_setup at source {source.name}: 127.0.0.1:{database.server.port} offers no TLS, and pg_tls_mode require asks for it"
        " (set ssl = on in PostgreSQL)"
    )


def test_somebody_between_with_a_certificate_of_his_own_is_found_by_channel_binding(encrypted: Encrypted) -> None:
    between = TlsProxy(("127.0.0.1", encrypted.database.server.port), encrypted.foreign, postgres=True)
    unverified = {"pg_tls_mode": "require", "pg_port": between.port}
    try:
        assert encrypted.refusal(**unverified, pg_channel_binding="require") == (
            f"source_setup at source NAME: 127.0.0.1:{between.port} does not bind the login to this TLS connection: somebody may stand between"
            " (find out who answers there; a server without SCRAM or TLS needs pg_channel_binding = 'prefer')"
        )
        assert encrypted.connect(**unverified, pg_channel_binding="disable") == "TLSv1.3"  # what it protects from
    finally:
        between.close()
    assert encrypted.connect(pg_tls_mode="require", pg_channel_binding="require") == "TLSv1.3"


def test_a_login_that_can_not_be_bound_is_refused(encrypted: Encrypted) -> None:
    there = encrypted.database.server.port
    assert encrypted.refusal(pg_tls_mode="disable", pg_channel_binding="require") == (
        f"source_setup at source NAME: 127.0.0.1:{there} does not bind the login to this TLS connection: somebody may stand between"
        " (find out who answers there; a server without SCRAM or TLS needs pg_channel_binding = 'prefer')"
    )


def test_a_primary_is_verified_by_the_authority_of_its_source(encrypted: Encrypted) -> None:
    source, _ = source_of(encrypted.database)
    url, ((system,),) = (
        encrypted.database.url,
        encrypted.database.execute("select system_identifier::text from pg_control_system()"),
    )
    good = replace(source, pg_tls_mode="auto", pg_tls_ca=str(encrypted.issued.authority))
    with connect_primary(good, url, system) as connection:
        assert connection.pgconn.ssl_in_use
    with pytest.raises(EtlError, match="not signed by"):
        connect_primary(replace(good, pg_tls_ca=str(encrypted.foreign.authority)), url, system)
    with connect_primary(good, f"{url}?sslmode=disable", system) as connection:
        assert not connection.pgconn.ssl_in_use


def test_the_config_database_is_verified_when_its_url_has_an_authority(encrypted: Encrypted) -> None:
    url = encrypted.database.url.replace("postgresql://", "postgresql+asyncpg://")
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
