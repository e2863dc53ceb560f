"""Keys and certificates of a test cluster: one authority, valid for loopback."""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIFETIME = dt.timedelta(days=365)  # the training operator renews what ends within 90 days


@dataclass(frozen=True)
class KeyPair:
    """Two PEM files."""

    certificate: Path
    key: Path


class Authority:
    """Signs certificates of servers and clients. ``certificate`` is what their peers trust, and may have names itself."""

    def __init__(self, folder: Path, *, dns_names: Sequence[str] = ()) -> None:
        self._folder = folder
        self.key = _new_key()
        self._name = _name("propfan test cluster")
        builder = self._builder(self._name, self.key).add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        )
        if dns_names:
            builder = builder.add_extension(_alternatives(dns_names), critical=False)
        self.certificate = folder / "ca.crt"
        self.certificate.write_bytes(self._sign(builder))

    def server(self, name: str, dns_names: Sequence[str] = ()) -> KeyPair:
        """For a server on 127.0.0.1 or localhost, and by these names."""
        return self._issue(name, _name(name), ExtendedKeyUsageOID.SERVER_AUTH, ["localhost", *dns_names])

    def client(self, user: str, groups: Sequence[str] = ()) -> KeyPair:
        """For a user of the API server."""
        return self._issue(user.replace(":", "-"), _name(user, groups), ExtendedKeyUsageOID.CLIENT_AUTH, [])

    def _issue(
        self, file: str, subject: x509.Name, purpose: x509.ObjectIdentifier, dns_names: Sequence[str]
    ) -> KeyPair:
        key = _new_key()
        builder = self._builder(subject, key).add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        if dns_names:
            builder = builder.add_extension(_alternatives(dns_names, "127.0.0.1"), critical=False)
        pair = KeyPair(self._folder / f"{file}.crt", self._folder / f"{file}.key")
        pair.certificate.write_bytes(self._sign(builder))
        write_key(pair.key, key)
        return pair

    def _sign(self, builder: x509.CertificateBuilder) -> bytes:
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def _builder(self, subject: x509.Name, key: rsa.RSAPrivateKey) -> x509.CertificateBuilder:
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
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        )


def write_key(path: Path, key: rsa.RSAPrivateKey | None = None) -> Path:
    """Writes a private key, a new one unless given, that only its owner can read."""
    written = key or _new_key()
    path.touch(mode=0o600)
    path.write_bytes(
        written.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
    )
    return path


def _new_key() -> rsa.RSAPrivateKey:
    """Of the only kind that all operators read."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def _alternatives(dns_names: Sequence[str], *addresses: str) -> x509.SubjectAlternativeName:
    hosts = [x509.DNSName(host) for host in dns_names]
    return x509.SubjectAlternativeName([*hosts, *(x509.IPAddress(ipaddress.ip_address(text)) for text in addresses)])


def _name(common_name: str, organizations: Sequence[str] = ()) -> x509.Name:
    groups = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in organizations]
    return x509.Name([*groups, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
