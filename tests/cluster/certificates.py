"""Keys and certificates of a test cluster: one authority, valid for a week and for loopback."""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIFETIME = dt.timedelta(days=7)


@dataclass(frozen=True)
class KeyPair:
    """Two PEM files."""

    certificate: Path
    key: Path


class Authority:
    """Signs certificates of servers and clients. ``certificate`` is what their peers trust."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name("propfan test cluster")
        usage = x509.BasicConstraints(ca=True, path_length=0)
        self._certificate = self._builder(self._name, self._key).add_extension(usage, critical=True)
        self._signed = self._certificate.sign(self._key, hashes.SHA256())
        self.certificate = folder / "ca.crt"
        self.certificate.write_bytes(self._signed.public_bytes(serialization.Encoding.PEM))

    def server(self, name: str, dns_names: Sequence[str] = ()) -> KeyPair:
        """For a server on 127.0.0.1 or localhost, and by these names."""
        hosts = [x509.DNSName(host) for host in ("localhost", *dns_names)]
        addresses = [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        return self._issue(name, _name(name), ExtendedKeyUsageOID.SERVER_AUTH, [*hosts, *addresses])

    def client(self, user: str, groups: Sequence[str] = ()) -> KeyPair:
        """For a user of the API server."""
        return self._issue(user.replace(":", "-"), _name(user, groups), ExtendedKeyUsageOID.CLIENT_AUTH, [])

    def _issue(
        self, file: str, subject: x509.Name, purpose: x509.ObjectIdentifier, names: Sequence[x509.GeneralName]
    ) -> KeyPair:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(subject, key).add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        pair = KeyPair(self._folder / f"{file}.crt", self._folder / f"{file}.key")
        pair.certificate.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        write_key(pair.key, key)
        return pair

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(minutes=5))
            .not_valid_after(now + LIFETIME)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )


def write_key(path: Path, key: ec.EllipticCurvePrivateKey | None = None) -> Path:
    """Writes a private key, a new one unless given, that only its owner can read."""
    written = key or ec.generate_private_key(ec.SECP256R1())
    path.touch(mode=0o600)
    path.write_bytes(
        written.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
    )
    return path


def _name(common_name: str, organizations: Sequence[str] = ()) -> x509.Name:
    groups = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in organizations]
    return x509.Name([*groups, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
