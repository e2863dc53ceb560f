"""Secrets of one task in its namespace: what its pods need from elsewhere. They go when the TaskAction goes."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Mapping
from typing import Final

import msgspec

from propfan.engine.cluster import TASK_ACTION, Cluster
from propfan.engine.secret_managers.kubernetes import SECRET
from propfan.engine.secret_managers.scopes import SecretScope
from propfan.engine.webhook.registration import MANAGED_BY
from propfan.pluginmachinery.contexts import OwnerReference
from propfan.pluginmachinery.errors import (
    AlreadyExistsError,
    DecodeError,
    ForbiddenError,
    NotFoundError,
    UnavailableError,
)


class Task(msgspec.Struct, frozen=True):
    """The TaskAction that a pod belongs to, as the cluster has it."""

    namespace: str
    owner: OwnerReference
    scope: SecretScope


class _Spec(msgspec.Struct, frozen=True):
    project: str = ""
    domain: str = ""


class _Action(msgspec.Struct, frozen=True):
    spec: _Spec = _Spec()


class _Data(msgspec.Struct, frozen=True):
    data: Mapping[str, str] | None = None


async def task_of(cluster: Cluster, namespace: str, name: str, uid: str, organization: str) -> Task | None:
    """The TaskAction of that name; ``None`` when there is none, or another one than ``uid`` says, where that is given.

    A pod's own labels are not believed: whoever can make pods could ask for secrets of other projects.
    """
    try:
        seen = await cluster.get(TASK_ACTION, namespace, name)
    except NotFoundError:
        return None
    if uid and seen.metadata.uid != uid:
        return None
    try:
        spec = msgspec.json.decode(seen.raw, type=_Action).spec
    except msgspec.DecodeError as error:
        raise DecodeError(str(seen), str(error)) from error
    owner = OwnerReference(TASK_ACTION.api_version, TASK_ACTION.kind, name, seen.metadata.uid)
    return Task(namespace, owner, SecretScope(organization, spec.project, spec.domain))


def name_of(task: Task) -> str:
    """Of the Secret; all pods of a task share it."""
    return f"propfan-secrets-{hashlib.md5(task.owner.uid.encode(), usedforsecurity=False).hexdigest()}"


def key_of(identifier: str) -> str:
    """Under which a value is kept in it: ids may have characters that no key can have."""
    return hashlib.md5(identifier.encode(), usedforsecurity=False).hexdigest()


class Mirrors:
    """Writes them. Nothing is written that is there already."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster: Final = cluster

    async def bring(self, task: Task, values: Mapping[str, bytes]) -> None:
        """After this the task's Secret has these values under these keys, beside those that it had.

        Raises:
            ForbiddenError: somebody else has an object of that name, or the rights are missing.
            ApiError: the cluster does not take it.
        """
        name, data = name_of(task), {key: b64encode(value).decode() for key, value in values.items()}
        metadata = {
            "name": name,
            "namespace": task.namespace,
            "labels": MANAGED_BY,
            "ownerReferences": [msgspec.to_builtins(task.owner)],
        }
        body = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque", "data": data}
        try:
            await self._cluster.create(SECRET, msgspec.json.encode(body))
        except AlreadyExistsError:
            await self._add(task, name, data)

    async def _add(self, task: Task, name: str, data: Mapping[str, str]) -> None:
        target = f"Secret {task.namespace}/{name}"
        try:
            seen = await self._cluster.get(SECRET, task.namespace, name)
        except NotFoundError as error:
            raise UnavailableError(target, "was there and is gone again") from error
        is_own = any(owner.uid == task.owner.uid for owner in seen.metadata.owner_references)
        if not is_own or not MANAGED_BY.items() <= seen.metadata.labels.items():
            raise ForbiddenError(target, f"does not belong to TaskAction {task.owner.name}: delete it")
        known = msgspec.json.decode(seen.raw, type=_Data).data or {}
        if not data.items() <= known.items():
            await self._cluster.patch(SECRET, task.namespace, name, {"data": data})
