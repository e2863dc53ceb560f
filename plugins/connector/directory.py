"""Which connector runs which task type: what they offer, asked for from time to time, and what is configured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

import anyio
import msgspec
import structlog

from propfan.pluginmachinery.contexts import SecretManager
from propfan.pluginmachinery.errors import PermanentError, PropfanError, TransientError
from propfan.pluginmachinery.web_plugin import Discovery
from propfan.plugins.connector import wire
from propfan.plugins.connector.channels import NOT_IMPLEMENTED, UNREACHABLE, Channel
from propfan.plugins.connector.config import DEFAULT_CONNECTOR, ConnectorServiceConfig, Deployment, Family
from propfan.plugins.connector.wire import Category

logger = structlog.get_logger(__name__)

NOT_FOUND: Final = "ConnectorNotFound"


class Connector:
    """One deployment, and what it said last.

    Attributes:
        name: Its id in the configuration.
        categories: What it offers; ``None`` until it was heard.
        family: ``AUTO`` until it was heard.
        problem: Why it was not heard the last time; empty when it was.
    """

    def __init__(self, name: str, deployment: Deployment, path: str, secrets: SecretManager, *, is_app: bool) -> None:
        self.name: Final = name
        self.deployment: Final = deployment
        self.is_app: Final = is_app
        self.channel: Final = Channel(name, deployment, path, secrets)
        self.categories: tuple[Category, ...] | None = None
        self.family = deployment.family
        self.problem = ""
        self._error: Exception | None = None
        self._hearing: Final = anyio.Lock()

    async def known_family(self) -> Family:
        """Asks the connector where that is not known yet.

        Raises:
            TransientError: it does not answer.
            PermanentError: nothing can be asked there as it is configured.
        """
        if self.family is Family.AUTO:
            async with self._hearing:
                if self.family is Family.AUTO:
                    await self._hear()
        if self.family is not Family.AUTO:
            return self.family
        if isinstance(self._error, PermanentError):
            raise PermanentError(self._error.code, self._error.message) from self._error
        raise TransientError(UNREACHABLE, self.problem) from self._error

    async def hear(self) -> None:
        """Asks what it offers. What it said before counts until it answers; never raises."""
        async with self._hearing:
            await self._hear()

    async def _hear(self) -> None:
        for family in self._families():
            try:
                offered = tuple(wire.categories(await self.channel.call(family, "ListConnectors", b"")))
            except PermanentError as error:
                if error.code == NOT_IMPLEMENTED:
                    continue
                self._failed(error)
                return
            except (PropfanError, OSError) as error:
                self._failed(error)
                return
            if self.problem or offered != self.categories:
                names = sorted({category.name for category in offered})
                logger.info("connector heard", connector=self.name, family=family.value, task_types=names)
            self.categories, self.family, self.problem = offered, family, ""
            return
        if self.categories is None:
            logger.warning("connector does not tell what it offers: route task types to it", connector=self.name)
        self.categories, self.problem = (), ""
        if self.family is Family.AUTO:
            self.family = Family.FLYTEIDL2

    def _families(self) -> Sequence[Family]:
        """To try; one that was found before may have been replaced by the other."""
        if self.deployment.family is not Family.AUTO:
            return (self.deployment.family,)
        both = (Family.FLYTEIDL2, Family.FLYTEIDL)
        return both[::-1] if self.family is Family.FLYTEIDL else both

    def _failed(self, error: Exception) -> None:
        if not self.problem:
            logger.error("connector can not be asked what it offers", connector=self.name, error=str(error))
        self.problem, self._error = str(error), error

    def category(self, name: str, version: int) -> Category:
        """As it was offered; asynchronous where it was not."""
        offered = (c for c in self.categories or () if (c.name, c.version) == (name, version))
        return next(offered, Category(name, version))


class Scope(msgspec.Struct, frozen=True):
    """Tasks that a connector is for; empty members are any."""

    project: str
    domain: str


_EVERYWHERE: Final = Scope("", "")


class Directory:
    """All connectors of the configuration."""

    def __init__(self, config: ConnectorServiceConfig, secrets: SecretManager) -> None:
        self._config: Final = config
        apps, paths = config.connector_apps, {DEFAULT_CONNECTOR: DEFAULT_CONNECTOR}
        paths |= {name: f"connectors.{name}" for name in config.connectors}
        paths |= {name: f"connectorApps.{name}" for name in apps}
        self.connectors: Final[Mapping[str, Connector]] = {
            name: Connector(name, deployment, paths[name], secrets, is_app=name in apps)
            for name, deployment in config.deployments()
        }
        self._routes: dict[tuple[Scope, str, int], Connector] = {}
        self._task_types: frozenset[str] = frozenset()
        self._has_begun = not self.connectors
        self._is_running: Final = anyio.Lock()
        self._route()

    def discovered(self) -> Discovery:
        unheard = tuple(
            f"connector '{it.name}' ({it.problem or 'not asked yet'})"
            for it in self.connectors.values()
            if it.categories is None
        )
        return Discovery(self._task_types, unheard, self._has_begun)

    def find(self, task_type: str, version: int, project: str, domain: str) -> Connector:
        """The connector for a task.

        Raises:
            TransientError: none that was heard so far; others may answer later.
            PermanentError: code ``ConnectorNotFound``.
        """
        for scope in (Scope(project, domain), Scope("", domain), _EVERYWHERE):
            found = self._routes.get((scope, task_type, version))
            if found is not None:
                return found
        unheard = self.discovered().unheard
        if unheard:
            reason = f"no connector found for task type [{task_type}] and version [{version}] yet"
            raise TransientError(NOT_FOUND, f"{reason}; not heard of so far: {', '.join(unheard)}")
        default = self.connectors.get(DEFAULT_CONNECTOR)
        if default is not None:
            return default
        versions = sorted({key[2] for key in self._routes if key[1] == task_type})
        hint = f"; there are versions {', '.join(map(str, versions))}" if versions else ""
        raise PermanentError(NOT_FOUND, f"no connector found for task type [{task_type}] and version [{version}]{hint}")

    async def run(self) -> None:
        """Asks all connectors again and again until cancelled, then closes their connections.

        Where it is called several times one call does the work, and another takes over when that is cancelled.
        """
        async with self._is_running:
            try:
                while self.connectors:
                    async with anyio.create_task_group() as tasks:
                        for connector in self.connectors.values():
                            tasks.start_soon(partial(self._ask, connector))
                    self._has_begun = True
                    await anyio.sleep(self._config.poll_interval.seconds)
                await anyio.sleep_forever()
            finally:
                with anyio.CancelScope(shield=True):
                    for connector in self.connectors.values():
                        await connector.channel.close()

    async def _ask(self, connector: Connector) -> None:
        before = connector.categories
        await connector.hear()
        if connector.categories != before:
            self._route()

    def _route(self) -> None:
        config = self._config
        routes: dict[tuple[Scope, str, int], Connector] = {}
        own = [connector for connector in self.connectors.values() if not connector.is_app]
        apps = [connector for connector in self.connectors.values() if connector.is_app]
        for connector in own:
            _offer(routes, connector)
        for task_type, name in config.connector_for_task_types.items():
            connector = self.connectors[name]
            routes[_scope(connector), task_type, 0] = connector
        default = self.connectors.get(DEFAULT_CONNECTOR)
        if default is not None:
            for task_type in config.supported_task_types:
                routes.setdefault((_scope(default), task_type, 0), default)
        for connector in apps:
            _offer(routes, connector)
        self._routes = routes
        self._task_types = frozenset(key[1] for key in routes)


def _offer(routes: dict[tuple[Scope, str, int], Connector], connector: Connector) -> None:
    for category in connector.categories or ():
        routes[_scope(connector), category.name, category.version] = connector


def _scope(connector: Connector) -> Scope:
    return Scope(connector.deployment.project, connector.deployment.domain)
