"""Which hosts may be asked, decided by name and address."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest

from propfan.pluginmachinery.errors import ConfigError
from propfan.plugins.connectors.hosts import HostConfig


def refusal(host: str, address: str | None = None, **config: Any) -> str:
    return HostConfig(**config).rule("connectors.x.hosts")(host, None if address is None else ip_address(address))


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "169.254.170.2",
        "fe80::1",
        "fd00:ec2::254",
        "fd20:ce::254",
        "100.100.100.200",
        "168.63.129.16",
        "0.0.0.0",
        "::",
        "::ffff:169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "2002:a9fe:a9fe::1",
        "224.0.0.1",
        "ff02::1",
    ],
)
def test_metadata_services_and_the_like_are_never_asked(address: str) -> None:
    assert "connectors.x.hosts.allow does not have the address" in refusal("innocent.example.com", address)
    assert refusal("innocent.example.com", address, allow=["innocent.example.com"])


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"])
def test_loopback_is_a_setting(address: str) -> None:
    assert "connectors.x.hosts.allow-loopback is not set" in refusal("localhost", address)
    assert refusal("localhost", address, allow_loopback=True) == ""
    assert refusal("localhost", address, allow=["127.0.0.0/8", "::1"]) == ""


@pytest.mark.parametrize("address", ["93.184.216.34", "10.0.0.7", "192.168.1.1", "2606:2800:220:1::1", "fd12::1"])
def test_all_other_addresses_are_asked(address: str) -> None:
    assert refusal("example.com", address) == ""


@pytest.mark.parametrize(
    ("host", "address", "is_allowed"),
    [
        ("hooks.example.com", "10.0.0.1", True),
        ("hooks.example.com.", "10.0.0.1", True),
        ("a.b.example.org", "10.0.0.1", True),
        ("example.org", "10.0.0.1", False),
        ("evil-example.org", "10.0.0.1", False),
        ("hooks.example.com.evil.net", "10.0.0.1", False),
        ("anything.net", "192.168.3.4", True),
        ("192.168.3.4", "192.168.3.4", True),
        ("hooks.example.com", None, True),
        ("anything.net", None, False),
    ],
)
def test_only_hosts_of_the_list_are_asked(host: str, address: str | None, *, is_allowed: bool) -> None:
    problem = refusal(host, address, allow=["Hooks.Example.com", "*.example.org", "192.168.0.0/16"])
    assert (problem == "") is is_allowed
    assert is_allowed or "is not in connectors.x.hosts.allow" in problem


def test_what_is_denied_is_denied_though_it_is_allowed() -> None:
    deny = {"allow": ["*.example.com"], "deny": ["secret.example.com", "10.0.0.0/8"]}
    assert "refused by connectors.x.hosts.deny" in refusal("secret.example.com", "8.8.8.8", **deny)
    assert "refused by connectors.x.hosts.deny" in refusal("open.example.com", "::ffff:10.1.1.1", **deny)
    assert refusal("open.example.com", "8.8.8.8", **deny) == ""


def test_an_address_that_is_allowed_by_itself_is_asked_though_it_is_link_local() -> None:
    assert refusal("169.254.1.1", "169.254.1.1", allow=["169.254.1.1"]) == ""


@pytest.mark.parametrize("entry", ["", "https://example.com", "example.com:80", "a*b.com", "10.0.0.1/8"])
def test_an_entry_that_is_no_host_is_refused(entry: str) -> None:
    with pytest.raises(ConfigError, match=r"connectors\.x\.hosts\.deny: '.*' is no host"):
        refusal("example.com", None, deny=[entry])


@pytest.mark.parametrize(
    "host", ["localhost", "localhost.", "me.localhost", "metadata.google.internal", "instance-data."]
)
def test_names_that_mean_such_addresses_are_refused_where_a_proxy_looks_them_up(host: str) -> None:
    assert refusal(host)
    assert refusal("notlocalhost") == ""
    assert refusal("localhost", allow_loopback=True) == ""
