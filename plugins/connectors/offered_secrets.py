"""Secrets of the service that tasks may name in what they send, where the task names the receiver too."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from propfan.pluginmachinery.connector import Connection
from propfan.pluginmachinery.contexts import SecretManager
from propfan.pluginmachinery.errors import BadTaskSpecificationError
from propfan.plugins.connectors.hosts import HostPattern


class OfferedSecrets:
    """Each goes to the hosts that the operator has named for it, or any task could carry it off.

    Secrets that a task brings go where the task says.
    """

    def __init__(self, offers: Mapping[str, Sequence[str]], section: str) -> None:
        """Raises ``ConfigError`` when a host is none.

        Args:
            offers: Name of a secret to hosts.
            section: Where this is configured, for messages: ``connectors.webhook.secrets``.
        """
        self._section: Final = section
        self._receivers: Final = {name: HostPattern.parse(hosts, f"{section}.{name}") for name, hosts in offers.items()}

    def check(self, names: Iterable[str], host: str, connection: Connection) -> None:
        """Raises ``BadTaskSpecificationError`` when one of them may not be sent to the host."""
        for name in sorted(set(names) - connection.secrets.keys()):
            if name not in self._receivers:
                way_out = f"bring it in custom.secrets, or offer it to hosts in {self._section}.{name}"
                raise BadTaskSpecificationError(f"{{secrets.{name}}} is no secret that the task may use: {way_out}")
            if not self._receivers[name].has(host):
                problem = f"the URL's host is none that {{secrets.{name}}} is for ({self._section}.{name})"
                raise BadTaskSpecificationError(problem)

    async def values(self, names: Iterable[str], connection: Connection, secrets: SecretManager) -> Mapping[str, str]:
        """Of those that the task brings or that are offered; not yet to be sent: see ``check``.

        Raises:
            PermanentError: an offered one is not there; named.
        """
        found = {}
        for name in sorted(names):
            if name in connection.secrets:
                found[name] = connection.secrets[name]
            elif name in self._receivers:
                found[name] = await secrets.get(name)
            else:
                self.check([name], "", connection)
        return found
