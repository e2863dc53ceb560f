"""The ``ResourceManager`` of plugins: tokens of the queues in section ``quotas``, beside that of the task itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from propfan.engine.resources.shares import Demand, Shares
from propfan.pluginmachinery.contexts import AllocationStatus, ResourceConstraints


class Owner(NamedTuple):
    """The task that a token is for."""

    uid: str
    project: str
    domain: str
    namespace: str


class _Token(NamedTuple):
    owner: Owner
    queue: str


class PluginTokens:
    """Those of all tasks. They are not known any more after a restart: a plugin asks again, as for each of its rounds."""

    def __init__(self, shares: Shares) -> None:
        self._shares: Final = shares
        self._tokens: Final[dict[str, _Token]] = {}

    def of(self, owner: Owner, on_granted: Callable[[], None]) -> TaskTokens:
        return TaskTokens(self, owner, on_granted)

    def ask(
        self, owner: Owner, queue: str, token: str, constraints: ResourceConstraints, on_granted: Callable[[], None]
    ) -> AllocationStatus:
        key = _key(owner, queue, token)
        if not self._shares.holds(key) and self._is_at_its_cap(owner, queue, key, constraints):
            return AllocationStatus.NAMESPACE_QUOTA_EXCEEDED
        self._tokens[key] = _Token(owner, queue)
        is_granted = self._shares.ask(key, Demand(owner.project, owner.domain, queue), on_granted)
        return AllocationStatus.GRANTED if is_granted else AllocationStatus.EXHAUSTED

    def release(self, owner: Owner, queue: str, token: str) -> None:
        self._give_back(_key(owner, queue, token))

    def release_all(self, uid: str) -> None:
        """Whatever a task has, and what it waits for."""
        for key in [key for key, token in self._tokens.items() if token.owner.uid == uid]:
            self._give_back(key)

    def _give_back(self, key: str) -> None:
        if self._tokens.pop(key, None) is not None:
            self._shares.give_back(key)

    def _is_at_its_cap(self, owner: Owner, queue: str, key: str, constraints: ResourceConstraints) -> bool:
        """Counts who waits too: each of them may be granted its token any moment."""
        others = [each.owner for own, each in self._tokens.items() if each.queue == queue and own != key]
        of_project = sum(other.project == owner.project for other in others)
        of_namespace = sum(other.namespace == owner.namespace for other in others)
        project_cap, namespace_cap = constraints.project_scope, constraints.namespace_scope
        return (project_cap is not None and of_project >= project_cap) or (
            namespace_cap is not None and of_namespace >= namespace_cap
        )


class TaskTokens:
    """The ``ResourceManager`` of one task; ``namespace`` is a queue's name."""

    def __init__(self, tokens: PluginTokens, owner: Owner, on_granted: Callable[[], None]) -> None:
        self._tokens: Final = tokens
        self._owner: Final = owner
        self._on_granted: Final = on_granted

    async def allocate(self, namespace: str, token: str, constraints: ResourceConstraints) -> AllocationStatus:
        """The task is looked at again once a token is there that had to wait."""
        return self._tokens.ask(self._owner, namespace, token, constraints, self._on_granted)

    async def release(self, namespace: str, token: str) -> None:
        self._tokens.release(self._owner, namespace, token)


def _key(owner: Owner, queue: str, token: str) -> str:
    return f"{owner.uid}/{queue}/{token}"
