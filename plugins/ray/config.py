"""Section ``plugins.ray``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final

import msgspec

from propfan.pluginmachinery.config import ApiObject
from propfan.pluginmachinery.loglinks import LinkTemplate, PluginLogsConfig

SUBMISSION_MODES: Final = ("K8sJobMode", "HTTPMode", "SidecarMode")


class NodeDefaults(
    msgspec.Struct, frozen=True, rename={"start_parameters": "startParameters", "ip_address": "ipAddress"}
):
    """What the nodes of one role start with.

    Attributes:
        start_parameters: Of ``ray start``, for groups of which the task says none itself.
        ip_address: Their ``node-ip-address`` unless the parameters have one.
    """

    start_parameters: Mapping[str, str] = msgspec.field(default_factory=lambda: {"disable-usage-stats": "true"})
    ip_address: str = "$MY_POD_IP"


class ClusterDefaults(msgspec.Struct, frozen=True, rename="camel"):
    head_node: NodeDefaults = NodeDefaults()
    worker_node: NodeDefaults = NodeDefaults()


class RemoteAuth(msgspec.Struct, frozen=True, rename="camel"):
    token_path: str = ""
    ca_cert_path: str = ""


class RemoteClusterConfig(msgspec.Struct, frozen=True, rename="camel"):
    """Another cluster to run in; here an engine works in one cluster, so that only ``enabled: false`` is taken."""

    name: str = ""
    endpoint: str = ""
    auth: RemoteAuth = RemoteAuth()
    enabled: bool = False

    def __post_init__(self) -> None:
        if self.enabled:
            raise ValueError(
                "enabled must be false: an engine runs tasks in its own cluster, so run one in the other too"
            )


class RayConfig(msgspec.Struct, frozen=True, rename="camel"):
    """Section ``plugins.ray``.

    Attributes:
        shutdown_after_job_finishes: Whether the operator deletes the cluster of a job that has ended;
            a task may ask for it where this does not.
        ttl_seconds_after_finished: How long it waits before that.
        service_type: Of the head's Service.
        submission_mode: Who submits the job: one of ``SUBMISSION_MODES``; an empty one is left to the operator.
        dashboard_host: Address that the dashboard listens on; ``include_dashboard`` starts it.
        node_ip_address: Accepted and not used; ``defaults`` has one for each role.
        logs: Links to the head's logs; they know ``{{ .rayJobID }}`` and ``{{ .rayClusterName }}`` too.
        logs_sidecar: A container beside the head that reads the logs below ``/tmp/ray``.
        dashboard_url_template: Link to the dashboard, shown while the job runs.
        enable_usage_stats: Whether nodes may report to Ray's developers.
        service_account: Of the pods of tasks that name none.
        defaults: What nodes start with, by role.
    """

    shutdown_after_job_finishes: bool = True
    ttl_seconds_after_finished: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)] = 3600
    service_type: str = "NodePort"
    submission_mode: str = "K8sJobMode"
    include_dashboard: bool = True
    dashboard_host: str = "0.0.0.0"  # noqa: S104 - in a pod of its own
    node_ip_address: str = msgspec.field(default="", name="nodeIPAddress")
    remote_cluster_config: RemoteClusterConfig = RemoteClusterConfig()
    logs: PluginLogsConfig = PluginLogsConfig()
    logs_sidecar: Annotated[ApiObject, msgspec.Meta(extra={"api": "Container"})] | None = None
    dashboard_url_template: LinkTemplate | None = msgspec.field(default=None, name="dashboardURLTemplate")
    enable_usage_stats: bool = False
    service_account: str = "default"
    defaults: ClusterDefaults = ClusterDefaults()
