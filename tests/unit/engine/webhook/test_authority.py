"""Certificates of the webhook: who signs, for how long, and when a new one is due."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
from cryptography import x509

from propfan.engine.webhook import authority

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
DAY = timedelta(days=1)
NAMES = ("hook.home.svc", "hook.home", "10.0.0.1")
MADE = authority.issue(NAMES, 90 * DAY, NOW)


def test_it_is_for_all_names_and_signed_by_the_authority() -> None:
    certificate = x509.load_pem_x509_certificate(MADE.certificate)
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(MADE.authority))
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert found.get_values_for_type(x509.DNSName) == ["hook.home.svc", "hook.home"]
    assert [str(address) for address in found.get_values_for_type(x509.IPAddress)] == ["10.0.0.1"]
    assert certificate.not_valid_before_utc < NOW < certificate.not_valid_after_utc == NOW + 90 * DAY


def test_it_is_good_until_a_third_of_its_life_is_left_and_for_its_names_only() -> None:
    assert authority.is_good(MADE, NAMES, NOW + 59 * DAY)
    assert not authority.is_good(MADE, NAMES, NOW + 61 * DAY)
    assert not authority.is_good(MADE, ("other",), NOW)


def test_a_renewal_changes_nothing_for_who_trusts_the_authority() -> None:
    renewed = authority.issue(NAMES, 90 * DAY, NOW + 60 * DAY, MADE)
    assert renewed.authority == MADE.authority
    assert renewed.certificate != MADE.certificate
    assert authority.is_good(renewed, NAMES, NOW + 100 * DAY)


def test_a_new_authority_is_trusted_beside_the_last_one() -> None:
    late = NOW + 3600 * DAY
    renewed = authority.issue(NAMES, 90 * DAY, late, MADE)
    first, second = x509.load_pem_x509_certificates(renewed.authority)
    assert second == x509.load_pem_x509_certificate(MADE.authority)
    x509.load_pem_x509_certificate(renewed.certificate).verify_directly_issued_by(first)
    again = authority.issue(NAMES, 90 * DAY, late + 4000 * DAY, renewed)
    assert len(x509.load_pem_x509_certificates(again.authority)) == 1


def test_what_others_broke_is_no_good_and_is_made_anew() -> None:
    other = authority.issue(NAMES, 90 * DAY, NOW)
    broken = [
        msgspec.structs.replace(MADE, certificate=b"none"),
        msgspec.structs.replace(MADE, key=b"none"),
        msgspec.structs.replace(MADE, key=other.key),
        msgspec.structs.replace(MADE, authority=other.authority),
        msgspec.structs.replace(MADE, authority=b""),
    ]
    for each in broken:
        assert not authority.is_good(each, NAMES, NOW)
        assert authority.is_good(authority.issue(NAMES, 90 * DAY, NOW, each), NAMES, NOW)
    assert authority.is_good(
        authority.issue(NAMES, DAY, NOW, msgspec.structs.replace(MADE, authority_key=b"no key")), NAMES, NOW
    )
