"""Connectors: how a task runs on an external service, through calls that any Flyte control plane can make.

Write an ``AsyncConnector`` (or a ``SyncConnector`` for a service that answers at once), offer it as an entry
point of the group ``propfan.connectors``, and ``propfan connector serve`` serves it over gRPC.
"""

from __future__ import annotations

from propfan.pluginmachinery.connector.categories import TaskCategory
from propfan.pluginmachinery.connector.contract import (
    AsyncConnector,
    Connector,
    LogLine,
    LogOriginator,
    LogPage,
    Metric,
    SyncConnector,
)
from propfan.pluginmachinery.connector.ports import ConnectorSetup, HostRule, HttpClient, HttpResponse
from propfan.pluginmachinery.connector.registry import ConnectorMetadata, ConnectorRegistry
from propfan.pluginmachinery.connector.requests import Connection, JobContext, LogsQuery, MetricsQuery, TaskRequest
from propfan.pluginmachinery.connector.resources import (
    RemotePhase,
    Resource,
    ResourceMeta,
    convert_to_flyte_phase,
)
from propfan.pluginmachinery.connector.values import Blob, Dataset

__all__ = [
    "AsyncConnector",
    "Blob",
    "Connection",
    "Connector",
    "ConnectorMetadata",
    "ConnectorRegistry",
    "ConnectorSetup",
    "Dataset",
    "HostRule",
    "HttpClient",
    "HttpResponse",
    "JobContext",
    "LogLine",
    "LogOriginator",
    "LogPage",
    "LogsQuery",
    "Metric",
    "MetricsQuery",
    "RemotePhase",
    "Resource",
    "ResourceMeta",
    "SyncConnector",
    "TaskCategory",
    "TaskRequest",
    "convert_to_flyte_phase",
]
