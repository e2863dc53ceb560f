"""Which hosts a task may have asked, where the task names the URL."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

import msgspec

from propfan.pluginmachinery.connector import HostRule
from propfan.pluginmachinery.errors import ConfigError

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_INTERNAL: Final[Sequence[tuple[str, str]]] = (
    ("169.254.0.0/16", "a link-local address, where clouds tell machines their credentials"),
    ("fe80::/10", "a link-local address"),
    ("fd00:ec2::254/128", "the metadata service of AWS"),
    ("fd20:ce::254/128", "the metadata service of Google Cloud"),
    ("100.100.100.200/32", "the metadata service of Alibaba Cloud"),
    ("168.63.129.16/32", "the host agent of Azure"),
    ("192.0.0.192/32", "the metadata service of Oracle Cloud"),
    ("0.0.0.0/8", "this machine"),
    ("::/128", "this machine"),
    ("224.0.0.0/4", "a multicast address"),
    ("ff00::/8", "a multicast address"),
    ("255.255.255.255/32", "the broadcast address"),
)
"""Never what a task means: as the vendors document them."""

_INTERNAL_NAMES: Final = ("metadata.google.internal", "metadata.goog", "instance-data", "instance-data.ec2.internal")
"""What metadata services are called; told from addresses where those are known."""

_NAT64: Final = IPv6Network("64:ff9b::/96")
"""IPv4 addresses in its last 32 bits (RFC 6052)."""


class HostConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """Hosts that may be asked.

    Link-local addresses and metadata services may only where ``allow`` has their address or network.

    Attributes:
        allow: Only these, all others when empty: names, ``*.example.com`` for the names below one, addresses,
            networks as ``10.0.0.0/8``.
        deny: Not these; goes before ``allow``.
        allow_loopback: Whether the machine that the connector runs on may be asked.
    """

    allow: Sequence[str] = ()
    deny: Sequence[str] = ()
    allow_loopback: bool = False

    def rule(self, section: str) -> HostRule:
        """What an HTTP client can be restricted with.

        Args:
            section: Where this is configured, for messages: ``connectors.webhook.hosts``.

        Raises:
            ConfigError: an entry is neither a name nor an address or network.
        """
        allow, deny = HostPattern.parse(self.allow, f"{section}.allow"), HostPattern.parse(self.deny, f"{section}.deny")

        def refusal(host: str, address: Address | None) -> str:
            address = None if address is None else _meant(address)
            shown = host if address is None or host == str(address) else f"{host} ({address})"
            if deny.names(host) or deny.contains(address):
                return f"host {shown} is refused by {section}.deny"
            if self.allow and not (allow.names(host) or allow.contains(address)):
                return f"host {shown} is not in {section}.allow"
            if allow.contains(address):
                return ""
            is_local = _is_localhost(host) if address is None else address.is_loopback
            if is_local and not self.allow_loopback:
                return f"host {shown} is the machine that the connector runs on: {section}.allow-loopback is not set"
            if address is None:
                is_internal = host.rstrip(".") in _INTERNAL_NAMES
                return f"host {shown} is a metadata service, and a proxy is asked for it" if is_internal else ""
            for network, what in _FORBIDDEN:
                if address in network:
                    return f"host {shown} is {what}; {section}.allow does not have the address"
            return ""

        return refusal


class HostPattern(msgspec.Struct, frozen=True):
    """Names and networks of a setting."""

    exact: frozenset[str]
    suffixes: tuple[str, ...]
    networks: tuple[Network, ...]

    @classmethod
    def parse(cls, entries: Sequence[str], field: str) -> HostPattern:
        """Raises ``ConfigError`` for an entry that is nothing of it."""
        exact, suffixes, networks = set[str](), list[str](), list[Network]()
        for entry in entries:
            text = entry.strip().lower().rstrip(".")
            try:
                networks.append(ip_network(text.strip("[]")))
                continue
            except ValueError:
                if not text or not set(text.removeprefix("*.")).isdisjoint("*/:@?#[] "):
                    way_out = "write a name, *.example.com, an address or a network such as 10.0.0.0/8"
                    raise ConfigError(field, f"'{entry}' is no host: {way_out}") from None
            if text.startswith("*."):
                suffixes.append(text[1:])
            else:
                exact.add(text)
        return cls(frozenset(exact), tuple(suffixes), tuple(networks))

    def names(self, host: str) -> bool:
        host = host.rstrip(".")
        return host in self.exact or host.endswith(self.suffixes)

    def has(self, host: str) -> bool:
        """Whether a URL with this host means one of them, without looking its name up."""
        try:
            return self.names(host) or self.contains(_meant(ip_address(host)))
        except ValueError:
            return False

    def contains(self, address: Address | None) -> bool:
        return address is not None and any(address in network for network in self.networks)


_FORBIDDEN: Final = tuple((ip_network(network), what) for network, what in _INTERNAL)


def _is_localhost(host: str) -> bool:
    """RFC 6761, 6.3."""
    return ("." + host.rstrip(".")).endswith(".localhost")


def _meant(address: Address) -> Address:
    """The IPv4 address that an IPv6 one carries: mapped, by 6to4 or by NAT64."""
    if isinstance(address, IPv6Address):
        if address in _NAT64:
            return IPv4Address(int(address) & 0xFFFF_FFFF)
        return address.ipv4_mapped or address.sixtofour or address
    return address
