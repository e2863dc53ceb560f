"""Keeps the Node object and its Lease, as a kubelet does."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Final

import anyio
import structlog

from propfan.engine.cluster import Cluster, ObservedObject
from propfan.engine.daemon.leases import LEASE, held_by, micro_time
from propfan.engine.node import objects
from propfan.engine.node.config import RUNTIME_LABEL, NodeConfig
from propfan.engine.node.objects import LEASE_NAMESPACE, NODE, Machine
from propfan.engine.processes.scheduler import Requests
from propfan.pluginmachinery.errors import (
    AlreadyExistsError,
    ApiError,
    ConfigError,
    ConflictError,
    NotFoundError,
)

logger = structlog.get_logger(__name__)

_TRIES: Final = 10
"""Of a write that others get in the way of; each has read anew."""


def this_machine() -> Machine:
    system = platform.uname()
    return Machine(
        host=system.node,
        architecture=system.machine,
        kernel=system.release,
        boot_id=_content("/proc/sys/kernel/random/boot_id"),
        machine_id=_content("/etc/machine-id"),
        version=metadata.version("propfan"),
    )


def _content(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


class Registration:
    """One node in a cluster.

    Args:
        data_dir: With the machine it tells this node from another one of the same name.
        capacity: In nanos.
        now: The wall clock, in UTC.
    """

    def __init__(
        self,
        cluster: Cluster,
        config: NodeConfig,
        capacity: Requests,
        *,
        data_dir: Path,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._cluster: Final = cluster
        self._config: Final = config
        self._capacity: Final = capacity
        self._machine: Final = this_machine()
        self._now: Final = now
        place = hashlib.sha256(str(data_dir.absolute()).encode()).hexdigest()[:8]
        self._holder: Final = f"{config.name}_{self._machine.host}_{place}"
        self._is_ready = True
        self._since = now()

    async def register(self) -> None:
        """Makes the Node and the Lease, or takes over those of an earlier start, and says that it is ready.

        Raises:
            ConfigError: the name belongs to a kubelet's node, or to another runtime that lives.
            ApiError: the API server refuses, or does not answer.
        """
        node = await self._node()
        await self._take_lease(node.metadata.uid)
        await self._write_status()

    async def _node(self) -> ObservedObject:
        config, machine = self._config, self._machine
        for _ in range(_TRIES):
            try:
                node = await self._cluster.get(NODE, "", config.name)
            except NotFoundError:
                try:
                    return await self._cluster.create(NODE, objects.new_node(config, machine))
                except AlreadyExistsError:
                    continue
            if not objects.is_ours(node):
                problem = f"there is a node {config.name!r} without the label {RUNTIME_LABEL}: choose another name"
                raise ConfigError("--name", problem)
            patch = objects.correction(config, machine, node)
            if not patch:
                return node
            try:
                return await self._cluster.patch(
                    NODE, "", config.name, patch, resource_version=node.metadata.resource_version
                )
            except (ConflictError, NotFoundError):
                continue
        raise ConflictError(f"Node {config.name}", f"others have changed it {_TRIES} times meanwhile")

    async def _take_lease(self, node_uid: str) -> None:
        config = self._config
        for _ in range(_TRIES):
            now = self._now()
            try:
                lease = await self._cluster.get(LEASE, LEASE_NAMESPACE, config.name)
            except NotFoundError:
                try:
                    await self._cluster.create(LEASE, objects.new_lease(config, self._holder, node_uid, now))
                except AlreadyExistsError:
                    continue
                return
            holder = objects.holder_of(lease, now)
            if holder not in ("", self._holder):
                raise ConfigError(
                    "--name", f"node {config.name!r} is served by {holder}: stop that one, or choose another name"
                )
            try:
                await self._cluster.patch(
                    LEASE,
                    LEASE_NAMESPACE,
                    config.name,
                    {"spec": held_by(self._holder, config.lease_s, now)},
                    resource_version=lease.metadata.resource_version,
                )
            except (ConflictError, NotFoundError):
                continue
            return
        raise ConflictError(
            f"Lease {LEASE_NAMESPACE}/{config.name}", f"others have changed it {_TRIES} times meanwhile"
        )

    async def keep(self) -> None:
        """Renews the Lease and now and then the status, until cancelled; makes again what others delete."""
        renew_s = self._config.lease_s / 4
        told_at = anyio.current_time()
        while True:
            await anyio.sleep(renew_s)
            try:
                await self._renew()
                if anyio.current_time() - told_at >= self._config.status_s:
                    await self._write_status()
                    told_at = anyio.current_time()
            except NotFoundError:
                await self._register_again()
            except ApiError as error:
                logger.warning("the node can not be kept alive, trying again", error=str(error))

    async def _register_again(self) -> None:
        logger.warning("the node was deleted, registering it again", node=self._config.name)
        try:
            await self.register()
        except ApiError as error:
            logger.warning("the node can not be registered, trying again", error=str(error))

    async def _renew(self) -> None:
        patch = {"spec": {"renewTime": micro_time(self._now())}}
        await self._cluster.patch(LEASE, LEASE_NAMESPACE, self._config.name, patch)

    async def _write_status(self) -> None:
        condition = objects.ready_condition(is_ready=self._is_ready, since=self._since, now=self._now())
        status = objects.status(self._config, self._machine, self._capacity, condition)
        await self._cluster.patch(NODE, "", self._config.name, status, subresource="status")

    async def cordon(self) -> None:
        """No more pods are placed here, until the next start."""
        await self._cluster.patch(NODE, "", self._config.name, objects.cordon())

    async def retire(self) -> None:
        """Says that the node is not ready any more. The object stays, or the pods that have ended would go with it."""
        self._is_ready, self._since = False, self._now()
        await self._write_status()
