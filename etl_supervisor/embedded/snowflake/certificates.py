"""A throw-away certificate authority and a server certificate for 127.0.0.1.

ca.pem      the authority       bundle.pem   the usual authorities and this one: for SSL_CERT_FILE, which replaces all others
server.pem, server.key          made anew when they are missing or near their end
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path

import certifi
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIFE_DAYS = 397  # the longest that TLS clients accept
RENEW_DAYS = 30


@dataclass(frozen=True, slots=True)
class Certificates:
    """Where the files are."""

    ca: Path
    bundle: Path
    server: Path
    key: Path


def certificates_in(directory: Path) -> Certificates:
    """The certificates of a data directory, made if there are none that last."""
    files = Certificates(*(directory / name for name in ("ca.pem", "bundle.pem", "server.pem", "server.key")))
    if not _lasts(files):
        directory.mkdir(parents=True, exist_ok=True)
        _make(files)
    return files


def _lasts(files: Certificates) -> bool:
    if not all(path.exists() for path in (files.ca, files.bundle, files.server, files.key)):
        return False
    certificate = x509.load_pem_x509_certificate(files.server.read_bytes())
    return certificate.not_valid_after_utc > dt.datetime.now(dt.UTC) + dt.timedelta(days=RENEW_DAYS)


def _make(files: Certificates) -> None:
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ETL Stream local Snowflake")])
    ca = (
        _builder(ca_name, ca_name, ca_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(sign_certificates=True), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    server = (
        _builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")]), ca_name, key.public_key())
        .add_extension(x509.SubjectAlternativeName([address, x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    _write(files.key, private, 0o600)
    _write(files.server, server.public_bytes(pem))
    _write(files.bundle, Path(certifi.where()).read_bytes() + b"\n" + ca.public_bytes(pem))
    _write(files.ca, ca.public_bytes(pem))


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=LIFE_DAYS - 1))
    )


def _usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _write(path: Path, data: bytes, mode: int = 0o644) -> None:
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
