"""Settings of the connector service: frozen values, read once and passed in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from propfan.engine.config import Seconds, SecondsOrNone
from propfan.engine.config_file import read_mapping
from propfan.engine.storage import StorageConfig
from propfan.pluginmachinery.config import decode_config
from propfan.pluginmachinery.errors import ConfigError

Port = Annotated[int, Meta(ge=0, le=65_535)]
Calls = Annotated[int, Meta(ge=1, le=100_000)]

MIN_MESSAGE_BYTES: Final = 1024


class TlsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """PEM files; read anew when they change, for the connections that begin then.

    Attributes:
        certificate: Of the service, with its chain; empty serves without TLS.
        key: Of the certificate.
        client_ca: Clients must show a certificate that one of these has signed; empty asks for none.
    """

    certificate: str = ""
    key: str = ""
    client_ca: str = ""

    @property
    def is_on(self) -> bool:
        return bool(self.certificate)


class TimeoutConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """How long a call may take, seconds. A caller's own deadline holds where it is earlier."""

    create_s: Seconds = 60.0
    get_s: Seconds = 30.0
    delete_s: Seconds = 60.0
    do_s: Seconds = 60.0
    metrics_s: Seconds = 30.0
    logs_s: Seconds = 300.0


class LimitConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """For one connector, in place of what holds for all.

    Attributes:
        max_concurrent_calls: ``None`` takes what the connector's class says.
    """

    max_concurrent_calls: Calls | None = None
    timeouts: TimeoutConfig | None = None


class HttpConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """The HTTP client that connectors are given. Proxies come from the environment.

    Attributes:
        timeout_s: Of one request with its answer, unless the connector says otherwise.
        max_answer_bytes: A larger answer is refused.
        connections: Open at once, for each connector.
        ca: PEM file of authorities that are trusted in place of the system's.
    """

    timeout_s: Seconds = 30.0
    max_answer_bytes: Annotated[int, Meta(ge=1024)] = 16 * 1024 * 1024
    connections: Calls = 100
    ca: str = ""


class SecretConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """Where the service finds secrets: variable ``<env_prefix>[GROUP_]KEY``, then file ``<folder>/[group/]key``.

    As in Flyte, ``FLYTE_SECRETS_ENV_PREFIX``, ``FLYTE_SECRETS_DEFAULT_DIR`` and ``FLYTE_SECRETS_FILE_PREFIX``
    say otherwise where the settings keep their defaults.
    """

    env_prefix: str = "_FSEC_"
    folder: str = "/etc/secrets"
    file_prefix: str = ""


class ConnectorServiceConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """What the connector service needs to know.

    Attributes:
        host: Address to listen on; this machine only unless it says otherwise, since callers are not
            asked who they are without ``tls.client-ca``.
        port: 0 takes a free one.
        metrics_port: Of Prometheus' ``/metrics``, on the same host; 0 serves none.
        modules: Dotted names of modules with connectors, beside those that are installed.
        entry_points: Whether installed connectors are served.
        must_load: Whether a connector that can not be loaded ends the service, else it is only told.
        max_message_bytes: Of one request or answer. 4 MiB, as gRPC's own default for what is received.
        max_concurrent_calls: Of all connectors together; more wait for their turn.
        timeouts: Of all connectors that ``limits`` does not name.
        limits: By connector name.
        load_timeout_s: How long a connector may take to be made.
        block_warning_s: An event loop that does not react for so long is told in the log.
        block_limit_s: From then on calls of its connector fail at once, until it reacts.
        drain_s: How long calls may go on after SIGTERM.
        connectors: Sections of the connectors' own, by the names that they ask for.
    """

    host: str = "127.0.0.1"
    port: Port = 8000
    metrics_port: Port = 9090
    tls: TlsConfig = TlsConfig()
    modules: Sequence[str] = ()
    entry_points: bool = True
    must_load: bool = False
    max_message_bytes: Annotated[int, Meta(ge=MIN_MESSAGE_BYTES, le=2**31 - 1)] = 4 * 1024 * 1024
    max_concurrent_calls: Calls = 1000
    timeouts: TimeoutConfig = TimeoutConfig()
    limits: Mapping[str, LimitConfig] = {}
    load_timeout_s: Seconds = 60.0
    block_warning_s: Seconds = 1.0
    block_limit_s: Seconds = 10.0
    drain_s: SecondsOrNone = 30.0
    secrets: SecretConfig = SecretConfig()
    http: HttpConfig = HttpConfig()
    storage: StorageConfig = StorageConfig()
    connectors: Mapping[str, Mapping[str, Any]] = {}


def load(path: Path | None, overrides: Mapping[str, Any]) -> ConnectorServiceConfig:
    """The settings in ``path`` (the defaults without one) with ``overrides`` laid over them.

    Args:
        overrides: Keys as in the file; ``None`` overrides nothing.

    Raises:
        ConfigError: the file can not be read, or has unknown keys or values that are wrong; all are named.
    """
    values = dict(read_mapping(path)) if path is not None else {}
    for key, value in overrides.items():
        below = values.get(key)
        if isinstance(value, Mapping):
            given = {name: item for name, item in value.items() if item is not None}
            values[key] = {**(below if isinstance(below, Mapping) else {}), **given}
        elif value is not None:
            values[key] = value
    config = decode_config(ConnectorServiceConfig, values, "")
    if bool(config.tls.certificate) != bool(config.tls.key):
        raise ConfigError("tls", "certificate and key belong together: set both or neither")
    if config.tls.client_ca and not config.tls.is_on:
        raise ConfigError(
            "tls.client-ca", "needs tls.certificate and tls.key: without TLS no client shows a certificate"
        )
    return config
