"""The life of a node: registered, pods run, drained."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import anyio
import structlog

from propfan.engine.cluster import EVENT, POD
from propfan.engine.config import EngineConfig
from propfan.engine.daemon import preflight
from propfan.engine.daemon.leases import LEASE
from propfan.engine.daemon.preflight import Right
from propfan.engine.kubernetes.cluster import KubernetesCluster
from propfan.engine.node.config import NodeConfig
from propfan.engine.node.objects import LEASE_NAMESPACE, NODE
from propfan.engine.node.pods import NodePods
from propfan.engine.node.registration import Registration
from propfan.engine.processes import OnExit, ProcessRuntime
from propfan.engine.processes.environment import CONFIG_MAP, SECRET
from propfan.pluginmachinery.errors import ApiError, ConfigError, InvalidError

logger = structlog.get_logger(__name__)

_LAST_WRITES_S: Final = 10.0
"""How long a node that leaves tries to say so."""

_RETRY_S: Final = 1.0

RIGHTS: Final = tuple(
    sorted(
        (
            *(Right("", NODE.plural, verb) for verb in ("get", "create", "patch")),
            Right("", f"{NODE.plural}/status", "patch"),
            *(Right(LEASE.group, LEASE.plural, verb, LEASE_NAMESPACE) for verb in ("get", "create", "patch")),
            *(Right("", POD.plural, verb) for verb in ("get", "list", "watch", "delete")),
            Right("", f"{POD.plural}/status", "patch"),
            Right("", SECRET.plural, "get"),
            Right("", CONFIG_MAP.plural, "get"),
            Right(EVENT.group, EVENT.plural, "create"),
        )
    )
)
"""All that a node does in its cluster."""


class Node:
    """``propfan node``, to be run once.

    Args:
        config: Its ``kubernetes``, ``capacity`` and ``keep-work`` are of interest here.
        data_dir: Of the process runtime; the same one after a restart finds the processes again.
        detach: Processes run on when this ends, and the node stays as it is: the next start takes over.
    """

    def __init__(
        self, config: EngineConfig, node: NodeConfig, *, data_dir: Path, grace_s: float, detach: bool = False
    ) -> None:
        self._config: Final = config
        self._node: Final = node
        self._data_dir: Final = data_dir
        self._grace_s: Final = grace_s
        self._detach: Final = detach
        self._stop: Final = anyio.Event()
        self._whole: Final = anyio.CancelScope()
        self._runtime: ProcessRuntime | None = None

    def stop(self) -> None:
        """Asks for the drain, after which ``run`` returns."""
        self._stop.set()
        if self._runtime is None:
            self._whole.cancel()

    def hurry(self) -> None:
        """What still runs is killed."""
        if self._runtime is not None:
            self._runtime.hurry()

    async def run(self) -> None:
        """Serves until it is stopped.

        Raises:
            ConfigError: a setting is wrong, the name is taken, or rights are missing.
        """
        with self._whole:
            async with KubernetesCluster.connect(self._config.kubernetes) as cluster:
                user = await preflight.await_server(cluster)
                await preflight.check_rights(cluster, RIGHTS, user)
                await self._serve(cluster)

    async def _serve(self, cluster: KubernetesCluster) -> None:
        name = self._node.name
        self._data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        runtime = ProcessRuntime(
            NodePods(cluster, name),
            data_dir=self._data_dir,
            capacity=self._config.capacity,
            node_name=name,
            on_exit=OnExit.DETACH if self._detach else OnExit.STOP,
            stop_grace_s=self._grace_s,
            keep_work=self._config.keep_work,
        )
        registration = Registration(
            cluster, self._node, self._config.capacity.in_nanos(self._data_dir), data_dir=self._data_dir
        )
        await _until_registered(registration)  # before any pod is looked at: the name may be another's
        async with anyio.create_task_group() as tasks:
            async with runtime:
                self._runtime = runtime
                tasks.start_soon(registration.keep)
                logger.info("node is ready", node=name, server=cluster.server)
                await self._stop.wait()
                if not self._detach:
                    await _said(registration.cordon, "the node can not be cordoned")
            if not self._detach:
                await _said(registration.retire, "the node can not say that it ends")
            tasks.cancel_scope.cancel()
        logger.info("stopped", node=name)


async def _until_registered(registration: Registration) -> None:
    while True:
        try:
            await registration.register()
        except InvalidError as error:
            raise ConfigError("node", f"the API server refuses the node: {error}") from error
        except ApiError as error:
            logger.warning("the node can not be registered, trying again", error=str(error))
            await anyio.sleep(max(_RETRY_S, error.retry_after_s))
        else:
            return


async def _said(write: Callable[[], Awaitable[None]], problem: str) -> None:
    """A cluster that does not answer must not keep a node from ending."""
    with anyio.move_on_after(_LAST_WRITES_S):
        try:
            await write()
        except ApiError as error:
            logger.warning(problem, error=str(error))
