"""Section ``plugins.connector-service``; keys and defaults are those of Flyte, but where a docstring says more."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from propfan.pluginmachinery.config import Duration
from propfan.pluginmachinery.errors import ConfigError
from propfan.pluginmachinery.loglinks import NO_LOGS, PluginLogsConfig
from propfan.pluginmachinery.web_plugin import Caching, RateLimit, WebPluginConfig

SECTION: Final = "connector-service"
PATH: Final = f"plugins.{SECTION}"
DEFAULT_CONNECTOR: Final = "defaultConnector"
"""Its id, where the others have their keys in ``connectors``."""

METHODS: Final = ("CreateTask", "GetTask", "DeleteTask", "ListConnectors", "ExecuteTaskSync")
"""Keys of ``timeouts``. Agents are listed under ``ListConnectors`` too."""


class Family(enum.Enum):
    """Which services an endpoint has."""

    AUTO = "auto"
    """Found out by asking it."""
    FLYTEIDL2 = "flyteidl2"
    """``flyteidl2.connector.AsyncConnectorService`` of Flyte 2."""
    FLYTEIDL = "flyteidl"
    """``flyteidl.service.AsyncAgentService`` of flytekit."""


class Deployment(msgspec.Struct, frozen=True, rename="camel"):
    """Where connectors listen.

    Attributes:
        endpoint: ``host:port``, or any target that gRPC resolves, e.g. ``dns:///connectors:8000``.
        insecure: Without TLS.
        default_service_config: gRPC's service config as JSON.
        timeouts: By method, one of ``METHODS``.
        default_timeout: Of the other methods; 0 is none. Flyte has none where it is not set.
        project, domain: Only tasks of these are sent there; empty for all.
        family: No setting of Flyte.
        ca_secret: Name of the secret with the certificates (PEM) that are trusted, in place of the system's.
            This and what follows are no settings of Flyte.
        cert_secret, key_secret: Names of the secrets with the engine's own certificate and key, for mutual TLS.
        server_name: That the certificate must be for, where it is not the endpoint's host.
        metadata: Sent with each call.
        metadata_secrets: Likewise; header to the name of the secret that is its value.
        max_message_bytes: Of an answer.
    """

    endpoint: str = ""
    insecure: bool = False
    default_service_config: str = ""
    timeouts: Mapping[str, Duration] = {}
    default_timeout: Duration = Duration.parse("10s")
    project: str = ""
    domain: str = ""
    family: Family = Family.AUTO
    ca_secret: str = ""
    cert_secret: str = ""
    key_secret: str = ""
    server_name: str = ""
    metadata: Mapping[str, str] = {}
    metadata_secrets: Mapping[str, str] = {}
    max_message_bytes: Annotated[int, Meta(ge=4096, le=2**31 - 1)] = 10 * 1024 * 1024

    def timeout_s(self, method: str) -> float | None:
        """Of one call; ``None`` is for ever."""
        return self.timeouts.get(method, self.default_timeout).seconds or None


class DefaultDeployment(Deployment, frozen=True, rename="camel"):
    """With its own defaults."""

    insecure: bool = True
    default_service_config: str = '{"loadBalancingConfig": [{"round_robin":{}}]}'


class Limit(RateLimit, frozen=True):
    """Ten calls a second look after a hundred jobs at an interval of 10 s: raise it for more."""

    qps: int = 10
    burst: int = 100


class JobCaching(Caching, frozen=True, rename="camel"):
    """With its own defaults."""

    size: int = 500_000


class WebApi(WebPluginConfig, frozen=True, rename="camel"):
    """With its own defaults."""

    resource_quotas: Mapping[str, int] = msgspec.field(default_factory=lambda: {"default": 1000})
    read_rate_limiter: Limit = Limit()
    write_rate_limiter: Limit = Limit()
    caching: JobCaching = JobCaching()


class ScopeConstraint(msgspec.Struct, frozen=True, rename={"value": "Value"}):
    """At most so many jobs at once."""

    value: int = 0


class Constraints(
    msgspec.Struct,
    frozen=True,
    rename={"project_scope": "ProjectScopeResourceConstraint", "namespace_scope": "NamespaceScopeResourceConstraint"},
):
    """Jobs at once of one project, and of one namespace; 0 is no bound."""

    project_scope: ScopeConstraint = ScopeConstraint(100)
    namespace_scope: ScopeConstraint = ScopeConstraint(50)


class ConnectorServiceConfig(msgspec.Struct, frozen=True, rename="camel"):
    """The whole section.

    Attributes:
        web_api: Quotas, rate limits, and how often jobs are looked at (``caching.resyncInterval``).
        resource_constraints: How much of a quota one project and one namespace may have.
        default_connector: For task types that no other one offers.
        connectors: By id.
        connector_apps: Likewise; they are asked last, and so win. Their tasks get the links of ``logs``.
        connector_for_task_types: Task type, in version 0, to connector id, whatever was discovered.
        supported_task_types: Sent to the default connector, in version 0, unless another one offers them.
        poll_interval: Between two questions to each connector what it offers.
        poll_intervals: By task type: between two looks at a job, 1 s to 1 h, in place of ``caching.resyncInterval``.
            No setting of Flyte.
        logs: Links of the tasks of connector apps.
    """

    web_api: WebApi = WebApi()
    resource_constraints: Constraints = Constraints()
    default_connector: DefaultDeployment = DefaultDeployment()
    connectors: Mapping[str, Deployment] = {}
    connector_apps: Mapping[str, Deployment] = {}
    connector_for_task_types: Mapping[str, str] = {}
    supported_task_types: Sequence[str] = ("task_type_3", "task_type_4")
    poll_interval: Duration = Duration.parse("10s")
    poll_intervals: Mapping[str, Duration] = {}
    logs: PluginLogsConfig = NO_LOGS

    def deployments(self) -> Iterator[tuple[str, Deployment]]:
        """All that have an endpoint, by id, in the order in which they are asked."""
        every = [(DEFAULT_CONNECTOR, self.default_connector), *self.connectors.items(), *self.connector_apps.items()]
        return ((name, deployment) for name, deployment in every if deployment.endpoint)

    def check(self) -> None:
        """Raises ``ConfigError`` for what no single value shows."""
        for kind, named in (("connectors", self.connectors), ("connectorApps", self.connector_apps)):
            for name, deployment in named.items():
                path = f"{PATH}.{kind}.{name}"
                if not deployment.endpoint:
                    raise ConfigError(f"{path}.endpoint", "is required: host and port of the connector")
                if name == DEFAULT_CONNECTOR or (kind == "connectorApps" and name in self.connectors):
                    raise ConfigError(path, "the name is taken by another connector")
                _check(path, deployment)
        _check(f"{PATH}.{DEFAULT_CONNECTOR}", self.default_connector)
        for task_type, name in self.connector_for_task_types.items():
            if name not in self.connectors and name not in self.connector_apps:
                known = ", ".join([*self.connectors, *self.connector_apps]) or "none"
                path = f"{PATH}.connectorForTaskTypes.{task_type}"
                raise ConfigError(path, f"there is no connector '{name}'; configured are: {known}")
        if self.poll_interval.seconds < 1:
            raise ConfigError(f"{PATH}.pollInterval", f"must be at least 1s, is {self.poll_interval}")
        for task_type, interval in self.poll_intervals.items():
            if not 1 <= interval.seconds <= 3600:
                raise ConfigError(f"{PATH}.pollIntervals.{task_type}", f"must be between 1s and 1h, is {interval}")


def _check(path: str, deployment: Deployment) -> None:
    unknown = [method for method in deployment.timeouts if method not in METHODS]
    if unknown:
        raise ConfigError(f"{path}.timeouts.{unknown[0]}", f"no such method; there are: {', '.join(METHODS)}")
    if bool(deployment.cert_secret) != bool(deployment.key_secret):
        raise ConfigError(f"{path}.keySecret", "must be set together with certSecret")
    if deployment.insecure and (deployment.ca_secret or deployment.cert_secret):
        raise ConfigError(f"{path}.insecure", "must be false where certificates are given")
    if deployment.default_service_config:
        try:
            parsed: Any = msgspec.json.decode(deployment.default_service_config)
        except msgspec.DecodeError as error:
            raise ConfigError(f"{path}.defaultServiceConfig", f"is no JSON: {error}") from None
        if not isinstance(parsed, dict):
            raise ConfigError(f"{path}.defaultServiceConfig", "must be a JSON object")
