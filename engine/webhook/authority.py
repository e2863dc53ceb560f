"""A certificate authority of the webhook's own, and the certificate that it gives the webhook."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_AUTHORITY_LASTS: Final = timedelta(days=3650)
_AUTHORITY_ENDS_IN: Final = timedelta(days=365)
"""Of its life: from then on certificates are signed by a new one."""

_CLOCKS_DIFFER: Final = timedelta(hours=1)


class Identity(msgspec.Struct, frozen=True, rename={"authority": "ca.crt", "authority_key": "ca.key", "certificate": "tls.crt", "key": "tls.key"}):  # fmt: skip
    """PEM, by the names that Secrets of type ``kubernetes.io/tls`` have.

    Attributes:
        authority: Whom the API server is to trust. After a change of the authority also the one before.
        authority_key: Signs the next certificate, so that a renewal changes nothing for the API server.
    """

    authority: bytes
    authority_key: bytes
    certificate: bytes
    key: bytes


def issue(names: Sequence[str], lasts: timedelta, now: datetime, before: Identity | None = None) -> Identity:
    """A certificate for these names, DNS ones and addresses, by the authority of ``before``, or a new one.

    Args:
        before: A new authority takes over when this one's own end is near, or when it is unreadable.
    """
    known = _authority_of(before, now)
    if known is not None and before is not None:
        signer, signer_key = known
        authority, authority_key = before.authority, before.authority_key
    else:
        signer_key = ec.generate_private_key(ec.SECP256R1())
        signer = _authority(signer_key, now)
        authority, authority_key = _pem(signer) + _last_authority(before, now), _key_pem(signer_key)
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        _builder("propfan webhook", signer.subject, key, now, lasts)
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer_key.public_key()),
            critical=False,
        )
        .sign(signer_key, hashes.SHA256())
    )
    return Identity(authority, authority_key, _pem(certificate), _key_pem(key))


def is_good(identity: Identity, names: Sequence[str], now: datetime) -> bool:
    """Whether it is for these names, and no less than a third of its life is left."""
    try:
        certificate = x509.load_pem_x509_certificate(identity.certificate)
        signers = x509.load_pem_x509_certificates(identity.authority)
        key = serialization.load_pem_private_key(identity.key, None)
        alternatives = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        certificate.verify_directly_issued_by(signers[0])
    except Exception:  # noqa: BLE001 - whatever is wrong with what others may have written
        return False
    if key.public_key() != certificate.public_key():
        return False
    life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    is_young = now < certificate.not_valid_after_utc - life / 3
    return is_young and {_general_name(name) for name in names} <= set(alternatives)


def _authority_of(
    identity: Identity | None, now: datetime
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None:
    """Who can sign on; ``None`` when nobody can, or not for long enough."""
    if identity is None:
        return None
    try:
        certificate = x509.load_pem_x509_certificates(identity.authority)[0]
        key = serialization.load_pem_private_key(identity.authority_key, None)
    except (ValueError, TypeError):
        return None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        return None
    return (certificate, key) if now < certificate.not_valid_after_utc - _AUTHORITY_ENDS_IN else None


def _last_authority(before: Identity | None, now: datetime) -> bytes:
    """The one before, for as long as some replica may show a certificate of it."""
    if before is None:
        return b""
    try:
        last = x509.load_pem_x509_certificates(before.authority)[0]
    except ValueError:
        return b""
    return _pem(last) if now < last.not_valid_after_utc else b""


def _authority(key: ec.EllipticCurvePrivateKey, now: datetime) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "propfan webhook authority")])
    return (
        _builder("propfan webhook authority", name, key, now, _AUTHORITY_LASTS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False,
                key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
        .sign(key, hashes.SHA256())
    )  # fmt: skip


def _builder(
    subject: str, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime, lasts: timedelta
) -> x509.CertificateBuilder:
    public = key.public_key()
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - min(_CLOCKS_DIFFER, lasts / 10))
        .not_valid_after(now + lasts)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
