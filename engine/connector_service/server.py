"""The service as a whole: its connectors, its sockets, and how it ends."""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import anyio
import grpc
import prometheus_client
import structlog
from google.protobuf.message import DecodeError as ProtobufDecodeError
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from propfan.engine.connector_service import v2
from propfan.engine.connector_service.config import ConnectorServiceConfig, TlsConfig
from propfan.engine.connector_service.dispatch import Dispatcher
from propfan.engine.connector_service.hosts import ConnectorHost
from propfan.engine.connector_service.loading import chosen, require
from propfan.pluginmachinery.connector import ConnectorMetadata, ConnectorRegistry
from propfan.pluginmachinery.connector import registry as registries
from propfan.pluginmachinery.errors import ConfigError, ConnectorError

logger = structlog.get_logger(__name__)

_LOOK_INTERVAL_S: Final = 0.25
"""Between two looks at the connectors' loops; they cost a few microseconds each."""

_HEALTH_SERVICE: Final = "grpc.health.v1.Health"


class ConnectorService:
    """A service that listens. Made by ``opened``.

    Attributes:
        address: ``host:port`` of gRPC.
        metrics_port: Of Prometheus' metrics; 0 when they are not served.
        connectors: What is served.
        refused: What could not be loaded, and why.
        serves_v1: Whether control planes of Flyte 1 are served: the package ``flyteidl`` is there.
    """

    def __init__(
        self, config: ConnectorServiceConfig, hosts: Sequence[ConnectorHost], registry: ConnectorRegistry
    ) -> None:
        self.address = ""
        self.metrics_port = 0
        self.refused: Sequence[ConnectorError] = ()
        self.serves_v1 = False
        self._config: Final = config
        self._hosts: Final = hosts
        self._registry: Final = registry
        self._dispatcher: Final = Dispatcher(hosts, registry, config)
        self._health: Final = health.aio.HealthServicer()
        self._names: Sequence[str] = ()
        self._server: Final = grpc.aio.server(
            interceptors=[_ReadableRequests()],
            options=[
                ("grpc.max_receive_message_length", config.max_message_bytes),
                ("grpc.max_send_message_length", config.max_message_bytes),
                ("grpc.so_reuseport", 0),
                # Callers keep idle connections alive by a ping every 10 s or so; the default allows one in 5 minutes.
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
            ],
            # Beyond twice what may be waited for, callers are told at once.
            maximum_concurrent_rpcs=2 * config.max_concurrent_calls,
        )

    @property
    def connectors(self) -> tuple[ConnectorMetadata, ...]:
        return self._registry.list_connectors()

    async def _listen(self, stack: AsyncExitStack) -> None:
        names = [*v2.add_services(self._server, self._dispatcher), *self._add_v1(), _HEALTH_SERVICE]
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection([*names, reflection.SERVICE_NAME], self._server)
        self._names = ("", *names)
        self.address = self._bind()
        await self._server.start()
        stack.push_async_callback(self._server.stop, None)
        self._serve_metrics(stack)
        self._watch(stack)
        await self._set_health(is_serving=True)

    def _add_v1(self) -> tuple[str, ...]:
        try:
            from propfan.engine.connector_service import v1
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != "flyteidl":
                raise
            logger.info("control planes of Flyte 1 are not served: the package flyteidl is not installed")
            return ()
        self.serves_v1 = True
        return v1.add_services(self._server, self._dispatcher)

    def _bind(self) -> str:
        config = self._config
        host = f"[{config.host}]" if ":" in config.host else config.host
        try:
            if config.tls.is_on:
                port = self._server.add_secure_port(f"{host}:{config.port}", _credentials(config.tls))
            else:
                port = self._server.add_insecure_port(f"{host}:{config.port}")
        except RuntimeError as error:
            problem = f"can not listen on {host}:{config.port}: the address is taken or is not this machine's"
            raise ConfigError("port", problem) from error
        if not config.tls.client_ca and not _is_loopback(config.host):
            logger.warning("anyone who reaches the port can run tasks: set tls.client-ca or guard it", host=config.host)
        return f"{host}:{port}"

    def _serve_metrics(self, stack: AsyncExitStack) -> None:
        if not self._config.metrics_port:
            return
        registry = self._dispatcher.metrics.registry
        try:
            server, thread = prometheus_client.start_http_server(
                self._config.metrics_port, self._config.host, registry=registry
            )
        except OSError as error:
            problem = f"can not listen on {self._config.host}:{self._config.metrics_port}: {error.strerror or error}"
            raise ConfigError("metrics-port", problem) from error
        self.metrics_port = server.server_port

        def close() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        stack.callback(close)

    async def drain(self) -> None:
        """Takes no more calls and lets those in flight end, for ``drain_s`` at most."""
        await self._set_health(is_serving=False)
        await self._server.stop(self._config.drain_s)

    async def _set_health(self, *, is_serving: bool) -> None:
        statuses = health_pb2.HealthCheckResponse
        status = statuses.SERVING if is_serving else statuses.NOT_SERVING
        for name in self._names:
            await self._health.set(name, status)

    def _watch(self, stack: AsyncExitStack) -> None:
        """Looks at the connectors' loops until the stack is closed.

        By timers rather than in a task, so that errors of whoever uses the service reach it as they are.
        """
        loop = asyncio.get_running_loop()
        timer: asyncio.TimerHandle | None = None

        def look() -> None:
            nonlocal timer
            for host in self._hosts:
                host.look()
            self._dispatcher.metrics.looked(
                (host.connector.name, host.calls_in_flight, host.blocked_for_s) for host in self._hosts
            )
            timer = loop.call_later(_LOOK_INTERVAL_S, look)

        def stop() -> None:
            if timer is not None:
                timer.cancel()

        look()
        stack.callback(stop)


@asynccontextmanager
async def opened(
    config: ConnectorServiceConfig, environ: Mapping[str, str], offers: registries.Offers | None = None
) -> AsyncIterator[ConnectorService]:
    """Makes the connectors and serves them while the block runs.

    Args:
        offers: What to serve, in place of what the configuration finds.

    Raises:
        ConfigError: a setting can not be used: TLS files, addresses.
        ConnectorError: as ``loading.require``.
    """
    if offers is None:
        offers = registries.offers(config.modules, entry_points=config.entry_points)
    for each in offers.not_offered:
        names = ", ".join(connector.name for connector in each.connectors)
        logger.info("connectors are not offered", connectors=names, way_out=each.way_out)
    async with AsyncExitStack() as stack:
        made = await _started(config, environ, offers.found, stack)
        choice = chosen(offers, [host.connector if isinstance(host, ConnectorHost) else host for host in made])
        for error in choice.refused:
            logger.error("connector is refused", error=str(error))
        require(choice, config)
        used = set(map(id, choice.registry))
        hosts = [host for host in made if isinstance(host, ConnectorHost) and id(host.connector) in used]
        for name in config.limits:
            if name not in {host.connector.name for host in hosts}:
                known = ", ".join(sorted({host.connector.name for host in hosts})) or "none"
                logger.warning("limits name a connector that is not served", connector=name, served=known)
        service = ConnectorService(config, hosts, choice.registry)
        service.refused = choice.refused
        await service._listen(stack)  # noqa: SLF001 - two halves of one thing
        yield service


async def _started(
    config: ConnectorServiceConfig,
    environ: Mapping[str, str],
    offers: Sequence[registries.ConnectorOffer],
    stack: AsyncExitStack,
) -> Sequence[ConnectorHost | ConnectorError]:
    """What became of each offer; all are made at once."""
    made: dict[int, ConnectorHost | ConnectorError] = {}

    async def start(index: int) -> None:
        try:
            made[index] = await ConnectorHost.start(offers[index], config, environ)
        except ConnectorError as error:
            made[index] = error

    async with anyio.create_task_group() as tasks:
        for index in range(len(offers)):
            tasks.start_soon(start, index)
    stack.push_async_callback(_stop_all, [host for host in made.values() if isinstance(host, ConnectorHost)])
    return [made[index] for index in range(len(offers))]


async def _stop_all(hosts: Sequence[ConnectorHost]) -> None:
    with anyio.CancelScope(shield=True):
        async with anyio.create_task_group() as tasks:
            for host in hosts:
                tasks.start_soon(host.stop)


class _ReadableRequests(grpc.aio.ServerInterceptor):
    """Refuses bytes that are no request, which gRPC would tell as a fault of ours, with a trace in the log."""

    async def intercept_service(self, continuation: Any, handler_call_details: grpc.HandlerCallDetails) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None or handler.unary_unary is None or handler.request_deserializer is None:
            return handler

        def read(content: bytes) -> object:
            try:
                return handler.request_deserializer(content)
            except ProtobufDecodeError as error:
                return error

        async def call(request: object, context: v2.Context) -> object:
            if isinstance(request, ProtobufDecodeError):
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"the request can not be read: {request}")
            return await handler.unary_unary(request, context)

        return grpc.unary_unary_rpc_method_handler(call, read, handler.response_serializer)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _credentials(tls: TlsConfig) -> Any:
    """Credentials that follow their files: those of a certificate that is renewed while the service runs."""
    current = _TlsFiles(tls)
    first = current.configuration()
    return grpc.dynamic_ssl_server_credentials(first, current.newer, require_client_authentication=bool(tls.client_ca))


class _TlsFiles:
    """Files of TLS as they were read last. ``newer`` is called for each connection, from gRPC's threads."""

    def __init__(self, tls: TlsConfig) -> None:
        self._paths: Final = [Path(name) for name in (tls.certificate, tls.key, tls.client_ca) if name]
        self._tls: Final = tls
        self._stamp: object = None

    def configuration(self) -> Any:
        """Raises ``ConfigError`` when a file can not be read or certificate and key are no pair."""
        stamp = self._stamps()
        contents = []
        for path in self._paths:
            try:
                contents.append(path.read_bytes())
            except OSError as error:
                raise ConfigError("tls", f"{path} can not be read: {error.strerror or error}") from error
        self._check()
        self._stamp = stamp
        certificate, key, *authorities = contents
        return grpc.ssl_server_certificate_configuration([(key, certificate)], authorities[0] if authorities else None)

    def newer(self) -> Any:
        """A new configuration when a file has changed, else ``None``; one that is no good is told and not used."""
        if self._stamps() == self._stamp:
            return None
        try:
            configuration = self.configuration()
        except ConfigError as error:
            self._stamp = self._stamps()
            logger.error("changed TLS files are not used", error=str(error))  # noqa: TRY400 - the error says it all
            return None
        logger.info("TLS files are read anew")
        return configuration

    def _stamps(self) -> object:
        try:
            return [(stat.st_mtime_ns, stat.st_size, stat.st_ino) for stat in (path.stat() for path in self._paths)]
        except OSError:
            return None

    def _check(self) -> None:
        """Since gRPC itself takes anything and then fails every handshake."""
        try:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(self._tls.certificate, self._tls.key)
            if self._tls.client_ca:
                context.load_verify_locations(self._tls.client_ca)
        except (ssl.SSLError, OSError) as error:
            files = ", ".join(map(str, self._paths))
            raise ConfigError("tls", f"{files}: no certificate with its key in PEM: {error}") from error
