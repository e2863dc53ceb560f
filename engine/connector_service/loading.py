"""What connectors of the service are made with."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from propfan.engine.clock import SystemClock
from propfan.engine.connector_service.config import ConnectorServiceConfig
from propfan.engine.connector_service.http import AiohttpClient
from propfan.engine.connector_service.secrets import ServiceSecrets
from propfan.engine.storage import ObjectStore
from propfan.pluginmachinery.connector import ConnectorSetup


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
