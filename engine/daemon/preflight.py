"""What would go wrong later, told at the start: no API server, no CRD, missing rights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

import anyio
import msgspec
import structlog

from propfan.engine.cluster import EVENT, POD, POD_TEMPLATE, TASK_ACTION, Kind
from propfan.engine.config import EngineConfig
from propfan.engine.crd_schemas import DEFINITION, definition_name
from propfan.engine.daemon.leases import LEASE
from propfan.engine.secret_managers.config import Place
from propfan.engine.secret_managers.kubernetes import SECRET
from propfan.engine.task_state import DELAY_BACKOFF
from propfan.engine.webhook.registration import CONFIGURATION
from propfan.pluginmachinery.config import K8sConfig
from propfan.pluginmachinery.errors import (
    ApiError,
    ConfigError,
    KindNotServedError,
    UnauthorizedError,
    UnavailableError,
)
from propfan.pluginmachinery.registry import Registry

if TYPE_CHECKING:
    from propfan.engine.kubernetes.cluster import KubernetesCluster

logger = structlog.get_logger(__name__)

_LONGEST_WAIT_S: Final = 5.0
_ANONYMOUS: Final = "system:anonymous"
_READS: Final = ("get", "list", "watch")


class Right(msgspec.Struct, frozen=True, order=True):
    """To do something with objects of a kind; of all namespaces when it names none, with the one ``name`` if given."""

    group: str
    resource: str
    verb: str
    namespace: str = ""
    name: str = ""


async def await_server(cluster: KubernetesCluster) -> str:
    """Who we are there. Waits, and says so, while the server does not answer or knows us not."""
    tries = 0
    while True:
        try:
            name = await cluster.user_name()
        except UnauthorizedError as error:
            problem = f"the credentials are not accepted: {error.problem}"
        except UnavailableError as error:
            problem = error.problem
        except ApiError as error:
            logger.warning("the API server does not say who we are", error=str(error))
            return ""
        else:
            if name != _ANONYMOUS:
                return name
            problem = "the API server takes us for system:anonymous: there are no credentials"
        tries += 1
        wait_s = min(DELAY_BACKOFF.wait_s(tries), _LONGEST_WAIT_S)
        logger.warning("waiting for the API server", server=cluster.server, error=problem, tries=tries, wait_s=wait_s)
        await anyio.sleep(wait_s)


async def check_definitions(cluster: KubernetesCluster) -> None:
    """Raises ``ConfigError`` when TaskActions are not known there."""
    try:
        await cluster.check_served(TASK_ACTION)
    except KindNotServedError as error:
        raise ConfigError(
            "kubernetes",
            f"the cluster at {cluster.server} has no CustomResourceDefinition of {TASK_ACTION}: "
            "propfan manifests | kubectl apply -f -",
        ) from error


def needed_rights(
    config: EngineConfig, k8s: K8sConfig, registry: Registry, lease_namespace: str, own_namespace: str = ""
) -> Sequence[Right]:
    """Everything that ``propfan serve`` does in a cluster under these settings.

    Args:
        registry: The plugins that are enabled.
        own_namespace: Of the daemon itself; that of the Leases when empty.
    """
    found = set(rights(registry.kinds, config.namespaces, lease_namespace))
    if config.namespaces:  # its PodTemplates serve all others too
        found |= {_right(POD_TEMPLATE, verb, config.namespace) for verb in ("list", "watch")}
    if k8s.send_object_events:
        found |= set(event_rights(config.namespaces))
    for kind in registry.probed(config.plugins):
        found.add(Right(DEFINITION.group, DEFINITION.plural, "get", "", definition_name(kind)))
    if Place.KUBERNETES in config.secrets.types:
        found.add(_right(SECRET, "get", config.secrets.namespace))
    if config.webhook.enabled:
        found |= set(webhook_rights(config, config.webhook.namespace or own_namespace or lease_namespace))
    return sorted(found)


def webhook_rights(config: EngineConfig, namespace: str) -> Sequence[Right]:
    """What the webhook of secrets needs beside.

    Args:
        namespace: Of its Service and its certificate.
    """
    webhook = config.webhook
    found = {
        _right(SECRET, "create", namespace),
        *[Right("", SECRET.plural, verb, namespace, webhook.secret_name) for verb in ("get", "patch")],
        _right(SECRET, "get", config.secrets.namespace),
        *[_right(SECRET, verb, tasks) for tasks in config.namespaces or ("",) for verb in ("get", "create", "patch")],
    }
    if webhook.manage_configuration:
        group, plural = CONFIGURATION.group, CONFIGURATION.plural
        name = webhook.configuration_in(namespace)
        found |= {Right(group, plural, "create"), *[Right(group, plural, verb, "", name) for verb in ("get", "patch")]}
    return sorted(found)


def rights(kinds: Iterable[Kind], namespaces: Sequence[str], lease_namespace: str) -> Sequence[Right]:
    """All but what telling the Events of objects needs.

    Args:
        kinds: Of the objects that plugins make.
        namespaces: Of the tasks; all when empty.
    """
    found = {Right(LEASE.group, LEASE.plural, verb, lease_namespace) for verb in (*_READS, "create", "patch", "delete")}
    for namespace in namespaces or ("",):
        for kind in kinds:
            found |= {_right(kind, verb, namespace) for verb in (*_READS, "create", "patch", "delete")}
        found |= {_right(POD, verb, namespace) for verb in _READS}  # operators make pods too
        found |= {_right(TASK_ACTION, verb, namespace) for verb in (*_READS, "patch", "delete")}
        found.add(Right(TASK_ACTION.group, f"{TASK_ACTION.plural}/status", "patch", namespace))
        found.add(Right(TASK_ACTION.group, f"{TASK_ACTION.plural}/finalizers", "update", namespace))
        found |= {_right(POD_TEMPLATE, verb, namespace) for verb in ("list", "watch")}
    return sorted(found)


def event_rights(namespaces: Sequence[str]) -> Sequence[Right]:
    """What is needed beside, to tell the Events of objects."""
    return [_right(EVENT, verb, namespace) for namespace in namespaces or ("",) for verb in ("list", "watch")]


def _right(kind: Kind, verb: str, namespace: str) -> Right:
    return Right(kind.group, kind.plural, verb, namespace)


async def missing(cluster: KubernetesCluster, needed: Sequence[Right]) -> Sequence[Right]:
    """Those that the server says we have not. A server that does not say is trusted to have given all."""
    lacking: list[Right] = []

    async def review(right: Right) -> None:
        resource, _, subresource = right.resource.partition("/")
        kind = Kind(right.group, "", "", resource)
        try:
            answer = await cluster.review_access(
                right.verb, kind, namespace=right.namespace, name=right.name, subresource=subresource
            )
        except ApiError as error:
            logger.warning("rights are not checked", resource=right.resource, verb=right.verb, error=str(error))
            return
        if not answer.is_allowed:
            lacking.append(right)

    async with anyio.create_task_group() as tasks:
        for right in needed:
            tasks.start_soon(review, right)
    return sorted(lacking)


def rules(lacking: Sequence[Right]) -> str:
    """What to add to a Role in each namespace, or to a ClusterRole, as YAML."""
    verbs: dict[tuple[str, str, str, str], list[str]] = {}
    for right in lacking:
        verbs.setdefault((right.namespace, right.group, right.resource, right.name), []).append(right.verb)
    lines = []
    for namespace in sorted({key[0] for key in verbs}):
        lines.append(f"# rules of a {f'Role in namespace {namespace}' if namespace else 'ClusterRole'}")
        lines += [
            f'- {{apiGroups: ["{group}"], resources: [{resource}], '
            + (f"resourceNames: [{name}], " if name else "")
            + f"verbs: [{', '.join(asked)}]}}"
            for (where, group, resource, name), asked in verbs.items()
            if where == namespace
        ]
    return "\n".join(lines)


async def check_rights(cluster: KubernetesCluster, needed: Sequence[Right], user: str) -> None:
    """Raises ``ConfigError`` with the rules to add; without those to read definitions plugins only know less."""
    all_lacking = await missing(cluster, needed)
    lacking = [right for right in all_lacking if right.resource != DEFINITION.plural]
    if unread := [right for right in all_lacking if right.resource == DEFINITION.plural]:
        logger.warning("plugins can not see what their operators take", user=user, add=rules(unread))
    if lacking:
        first = lacking[0]
        what = f"'{first.verb}' {first.resource}" + (f" of {first.group}" if first.group else "")
        more = f" (and {len(lacking) - 1} more rights are missing)" if len(lacking) > 1 else ""
        raise ConfigError("kubernetes", f"{user or 'this user'} may not {what}{more}; add\n{rules(lacking)}")
