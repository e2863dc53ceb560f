"""Tokens that plugins ask for: under the caps of their queues and under their own, and freed with their task."""

from __future__ import annotations

import pytest

from propfan.engine.resources.config import QueueQuota, QuotasSection
from propfan.engine.resources.shares import Shares
from propfan.engine.resources.tokens import Owner, PluginTokens, TaskTokens
from propfan.pluginmachinery.contexts import AllocationStatus, ResourceConstraints

pytestmark = pytest.mark.anyio

FREE = ResourceConstraints()


class Stage:
    def __init__(self) -> None:
        self.shares = Shares(QuotasSection(queues={"gpu": QueueQuota(max_running=2)}))
        self.tokens = PluginTokens(self.shares)
        self.woken: list[str] = []

    def task(self, uid: str, project: str = "p", namespace: str = "n") -> TaskTokens:
        return self.tokens.of(Owner(uid, project, "d", namespace), lambda: self.woken.append(uid))


async def test_tokens_are_granted_as_long_as_there_are_some_and_then_in_turn() -> None:
    stage = Stage()
    assert await stage.task("a").allocate("gpu", "t", FREE) is AllocationStatus.GRANTED
    assert await stage.task("b").allocate("gpu", "t", FREE) is AllocationStatus.GRANTED
    assert await stage.task("c").allocate("gpu", "t", FREE) is AllocationStatus.EXHAUSTED
    assert await stage.task("c").allocate("cpu", "t", FREE) is AllocationStatus.GRANTED
    assert await stage.task("a").allocate("gpu", "t", FREE) is AllocationStatus.GRANTED
    await stage.task("a").release("gpu", "t")
    assert stage.woken == ["c"]
    assert await stage.task("c").allocate("gpu", "t", FREE) is AllocationStatus.GRANTED


@pytest.mark.parametrize(
    ("constraints", "other"),
    [
        (ResourceConstraints(project_scope=1), {"project": "q"}),
        (ResourceConstraints(namespace_scope=1), {"namespace": "m"}),
    ],
)
async def test_own_caps_of_the_plugin_hold(constraints: ResourceConstraints, other: dict[str, str]) -> None:
    stage = Stage()
    assert await stage.task("a").allocate("gpu", "t", constraints) is AllocationStatus.GRANTED
    assert await stage.task("b").allocate("gpu", "t", constraints) is AllocationStatus.NAMESPACE_QUOTA_EXCEEDED
    assert await stage.task("c", **other).allocate("gpu", "t", constraints) is AllocationStatus.GRANTED
    await stage.task("a").release("gpu", "t")
    assert await stage.task("b").allocate("gpu", "t", constraints) is AllocationStatus.GRANTED


async def test_a_task_that_is_over_frees_all_that_it_has_and_waits_for() -> None:
    stage = Stage()
    await stage.task("a").allocate("gpu", "1", FREE)
    await stage.task("a").allocate("gpu", "2", FREE)
    await stage.task("a").allocate("gpu", "3", FREE)
    stage.tokens.release_all("a")
    assert (stage.shares.used("queue", "gpu"), stage.shares.waiting) == (0, 0)
    await stage.task("a").release("gpu", "1")
    assert stage.shares.used("queue", "gpu") == 0
