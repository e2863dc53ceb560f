"""What connectors are made with, and which of those that were made are used: for the service and for local runs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import structlog

from propfan.engine.clock import SystemClock
from propfan.engine.connector_service.config import ConnectorServiceConfig
from propfan.engine.connector_service.http import AiohttpClient
from propfan.engine.connector_service.secrets import ServiceSecrets
from propfan.engine.storage import ObjectStore
from propfan.pluginmachinery.connector import Connector, ConnectorSetup
from propfan.pluginmachinery.connector import registry as registries
from propfan.pluginmachinery.errors import ConnectorError

logger = structlog.get_logger(__name__)


@asynccontextmanager
async def connector_setup(config: ConnectorServiceConfig, environ: Mapping[str, str]) -> AsyncIterator[ConnectorSetup]:
    """Ports to the outside, for the event loop that this runs on.

    Raises:
        ConfigError: a setting of HTTP or of the stores can not be used.
    """
    http = AiohttpClient(config.http)
    try:
        yield ConnectorSetup(
            secrets=ServiceSecrets(config.secrets, environ),
            http=http,
            store=ObjectStore(config.storage.with_environment(environ)),
            now=SystemClock().now,
            sections=config.connectors,
            environment=environ,
        )
    finally:
        await http.close()


def chosen(offers: registries.Offers, made: Sequence[Connector | ConnectorError]) -> registries.Choice:
    """Which connectors run tasks; the log tells of native ones that gave way.

    Args:
        made: What became of each offer.
    """
    choice = registries.choose(offers, made)
    for each in choice.given_way:
        logger.info("a native connector gives way", connector=each.native.name, to=each.other.name)
    return choice


def require(choice: registries.Choice, config: ConnectorServiceConfig) -> None:
    """Raises the first refusal where it is not to be lived with.

    Raises:
        ConnectorError: one is refused and ``must_load`` is set, or no connector is left, or none but native
            ones although modules were named.
    """
    is_bare = not any(choice.registry) or (bool(config.modules) and choice.is_native)
    if choice.refused and (config.must_load or is_bare):
        raise choice.refused[0]
