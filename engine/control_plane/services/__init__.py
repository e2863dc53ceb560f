"""Flyte 2's services, one file each, and where they are reached."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from connectrpc.server import ConnectASGIApplication
from flyteidl2.actions.actions_service_connect import ActionsServiceASGIApplication
from flyteidl2.auth.auth_service_connect import AuthMetadataServiceASGIApplication
from flyteidl2.auth.identity_connect import IdentityServiceASGIApplication
from flyteidl2.cacheservice.cacheservice_connect import CacheServiceASGIApplication
from flyteidl2.cacheservice.v2.cacheservice_connect import CacheServiceASGIApplication as ScopedCacheASGIApplication
from flyteidl2.cluster.service_connect import ClusterServiceASGIApplication
from flyteidl2.dataproxy.dataproxy_service_connect import DataProxyServiceASGIApplication
from flyteidl2.project.project_service_connect import ProjectServiceASGIApplication
from flyteidl2.secret.secret_connect import SecretServiceASGIApplication
from flyteidl2.task.task_service_connect import TaskServiceASGIApplication
from flyteidl2.workflow.events_proxy_service_connect import EventsProxyServiceASGIApplication
from flyteidl2.workflow.queue_service_connect import QueueServiceASGIApplication
from flyteidl2.workflow.run_service_connect import RunServiceASGIApplication
from flyteidl2.workflow.state_service_connect import StateServiceASGIApplication

from propfan.engine.control_plane.asgi import ASGIApplication
from propfan.engine.control_plane.errors import ErrorTranslator
from propfan.engine.control_plane.services.actions import Actions
from propfan.engine.control_plane.services.auth import AuthMetadata
from propfan.engine.control_plane.services.cache import Cache, ScopedCache
from propfan.engine.control_plane.services.clusters import Clusters
from propfan.engine.control_plane.services.dataproxy import DataProxy
from propfan.engine.control_plane.services.events import EventsProxy
from propfan.engine.control_plane.services.identity import Identity
from propfan.engine.control_plane.services.projects import Projects
from propfan.engine.control_plane.services.queue import Queue, State
from propfan.engine.control_plane.services.runs import Runs
from propfan.engine.control_plane.services.secrets import Secrets
from propfan.engine.control_plane.services.tasks import Tasks
from propfan.engine.control_plane.transfers import DOWNLOAD, UPLOAD, Transfers

if TYPE_CHECKING:
    from propfan.engine.control_plane.plane import ControlPlane


def applications(plane: ControlPlane) -> Mapping[str, ASGIApplication]:
    """By the beginning of the path."""
    options: dict[str, Any] = {
        "interceptors": [ErrorTranslator()],
        "read_max_bytes": plane.config.max_message_bytes,
    }
    services: list[ConnectASGIApplication[Any]] = [
        ActionsServiceASGIApplication(Actions(plane), **options),
        AuthMetadataServiceASGIApplication(AuthMetadata(), **options),
        CacheServiceASGIApplication(Cache(plane), **options),
        ScopedCacheASGIApplication(ScopedCache(plane), **options),
        ClusterServiceASGIApplication(Clusters(), **options),
        DataProxyServiceASGIApplication(DataProxy(plane), **options),
        EventsProxyServiceASGIApplication(EventsProxy(plane), **options),
        IdentityServiceASGIApplication(Identity(), **options),
        ProjectServiceASGIApplication(Projects(plane), **options),
        QueueServiceASGIApplication(Queue(plane), **options),
        RunServiceASGIApplication(Runs(plane), **options),
        SecretServiceASGIApplication(Secrets(plane), **options),
        StateServiceASGIApplication(State(plane), **options),
        TaskServiceASGIApplication(Tasks(plane), **options),
    ]
    transfers = Transfers(plane.store, plane.signer)
    return {
        **{f"{service.path}/": service for service in services},
        UPLOAD: transfers.upload,
        DOWNLOAD: transfers.download,
    }
