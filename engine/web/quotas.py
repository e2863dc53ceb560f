"""Who may have a job at the same time: a ``ResourceManager`` that counts the tokens of one engine.

A *pool* is a quota of one plugin, with as many tokens as the configuration says. A token is held by
one launch, also over a restart: the engine takes up what its tasks hold before it grants anything.
Those who wait get what becomes free in the order in which they asked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from propfan.pluginmachinery.contexts import AllocationStatus, ResourceConstraints

NO_CONSTRAINTS: Final = ResourceConstraints()


class Claim(msgspec.Struct, frozen=True):
    """Whose token it is, and the caps it must fit under."""

    project: str
    namespace: str
    constraints: ResourceConstraints = NO_CONSTRAINTS


class Pool:
    """The tokens of one quota."""

    def __init__(self, name: str, size: int) -> None:
        self._name: Final = name
        self.size = size
        self._held: Final[dict[str, Claim]] = {}
        self._waiting: Final[dict[str, tuple[Claim, Callable[[], None]]]] = {}
        self._of_project: Final[Counter[str]] = Counter()
        self._of_namespace: Final[Counter[str]] = Counter()

    def ask(self, token: str, claim: Claim, on_granted: Callable[[], None]) -> AllocationStatus:
        """Grants a token, or lets it wait; asking again for one that is held or waits changes nothing."""
        if token in self._held:
            return AllocationStatus.GRANTED
        status = self._fits(claim)
        if status is AllocationStatus.GRANTED:
            self.hold(token, claim)
        else:
            self._waiting.setdefault(token, (claim, on_granted))
        return status

    def hold(self, token: str, claim: Claim) -> None:
        """Takes a token without asking: it was granted before a restart."""
        self._waiting.pop(token, None)
        if self._held.setdefault(token, claim) is claim:
            self._of_project[claim.project] += 1
            self._of_namespace[claim.namespace] += 1

    def give_back(self, token: str) -> None:
        """Frees a token, or stops waiting for it. Who fits now is granted its own at once."""
        self._waiting.pop(token, None)
        claim = self._held.pop(token, None)
        if claim is None:
            return
        self._of_project[claim.project] -= 1
        self._of_namespace[claim.namespace] -= 1
        for next_token, (wanted, on_granted) in list(self._waiting.items()):
            if len(self._held) >= self.size:
                return
            if self._fits(wanted) is AllocationStatus.GRANTED:
                self.hold(next_token, wanted)
                on_granted()

    def shortage(self, claim: Claim) -> str:
        """What is used up, and the setting that holds it."""
        caps = claim.constraints
        if len(self._held) >= self.size:
            return f"{len(self._held)} of the {self.size} tokens of quota '{self._name}' are taken (resourceQuotas)"
        if caps.project_scope is not None and self._of_project[claim.project] >= caps.project_scope:
            return (
                f"project '{claim.project}' has all of its {caps.project_scope} tokens (ProjectScopeResourceConstraint)"
            )
        return (
            f"namespace '{claim.namespace}' has all of its {caps.namespace_scope} tokens "
            "(NamespaceScopeResourceConstraint)"
        )

    @property
    def held(self) -> int:
        return len(self._held)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def _fits(self, claim: Claim) -> AllocationStatus:
        caps = claim.constraints
        if len(self._held) >= self.size:
            return AllocationStatus.EXHAUSTED
        if caps.project_scope is not None and self._of_project[claim.project] >= caps.project_scope:
            return AllocationStatus.NAMESPACE_QUOTA_EXCEEDED
        if caps.namespace_scope is not None and self._of_namespace[claim.namespace] >= caps.namespace_scope:
            return AllocationStatus.NAMESPACE_QUOTA_EXCEEDED
        return AllocationStatus.GRANTED


class Quotas:
    """All pools of one engine."""

    def __init__(self) -> None:
        self._pools: Final[dict[str, Pool]] = {}

    def register(self, owner: str, sizes: Mapping[str, int]) -> None:
        """Makes the pools of one plugin."""
        for namespace, size in sizes.items():
            self._pools.setdefault(f"{owner}:{namespace}", Pool(namespace, size))

    def pool(self, owner: str, namespace: str) -> Pool | None:
        """``None`` where nothing is bounded."""
        return self._pools.get(f"{owner}:{namespace}")


class TaskResources:
    """The ``ResourceManager`` of one task."""

    def __init__(
        self, quotas: Quotas, owner: str, *, project: str, task_namespace: str, on_granted: Callable[[], None]
    ) -> None:
        self._quotas: Final = quotas
        self._owner: Final = owner
        self._project: Final = project
        self._task_namespace: Final = task_namespace
        self._on_granted: Final = on_granted

    async def allocate(self, namespace: str, token: str, constraints: ResourceConstraints) -> AllocationStatus:
        """``on_granted`` is called when a token that had to wait is there."""
        pool = self._quotas.pool(self._owner, namespace)
        if pool is None:
            return AllocationStatus.GRANTED
        return pool.ask(token, self._claim(constraints), self._on_granted)

    async def release(self, namespace: str, token: str) -> None:
        self.give_back(namespace, token)

    def give_back(self, namespace: str, token: str) -> None:
        """As ``release``, at once."""
        pool = self._quotas.pool(self._owner, namespace)
        if pool is not None:
            pool.give_back(token)

    def hold(self, namespace: str, token: str) -> None:
        """Takes up what was granted before a restart."""
        pool = self._quotas.pool(self._owner, namespace)
        if pool is not None:
            pool.hold(token, self._claim(NO_CONSTRAINTS))

    def shortage(self, namespace: str, constraints: ResourceConstraints) -> str:
        """Why a token has to wait, for people."""
        pool = self._quotas.pool(self._owner, namespace)
        return "" if pool is None else pool.shortage(self._claim(constraints))

    def _claim(self, constraints: ResourceConstraints) -> Claim:
        return Claim(self._project, self._task_namespace, constraints)
