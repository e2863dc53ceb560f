"""``flyteidl2.cluster.ClusterService``."""

from __future__ import annotations

from flyteidl2.cluster import payload_pb2
from flyteidl2.cluster.service_connect import ClusterService

from propfan.engine.control_plane.services.context import Context


class Clusters(ClusterService):
    """There is one cluster, and it is reached where the client is."""

    async def select_cluster(
        self, request: payload_pb2.SelectClusterRequest, ctx: Context
    ) -> payload_pb2.SelectClusterResponse:
        return payload_pb2.SelectClusterResponse()
