from __future__ import annotations

from datetime import UTC, datetime, timedelta

import anyio
import pytest
import structlog.testing

from propfan.pluginmachinery.errors import UnavailableError
from propfan.pluginmachinery.kubernetes_plugin import Kind
from propfan.plugins.spark.pod_template_support import ASK_AGAIN_AFTER, PodTemplateSupport
from tests.unit.plugins.spark.tasks import Crds

pytestmark = pytest.mark.anyio

NOW = datetime(2026, 1, 2, tzinfo=UTC)
LATER = NOW + ASK_AGAIN_AFTER


async def test_cluster_is_asked_when_it_is_first_needed_and_again_after_a_while() -> None:
    crds = Crds(has_template=False)
    support = PodTemplateSupport(crds, timeout_s=1)
    assert crds.asked == []
    assert [await support.is_given(NOW) for _ in range(3)] == [False] * 3
    assert crds.asked == ["sparkapplications.sparkoperator.k8s.io spec.driver.template"]
    crds.has_template = True
    assert not await support.is_given(LATER - timedelta(seconds=1))
    assert await support.is_given(LATER), "an operator that was upgraded needs no restart of the engine"
    assert len(crds.asked) == 2


async def test_last_answer_counts_while_nobody_answers() -> None:
    crds = Crds()
    support = PodTemplateSupport(crds, timeout_s=1)
    assert await support.is_given(NOW)
    crds.error = UnavailableError("the definition", "down")
    with structlog.testing.capture_logs() as logs:
        assert await support.is_given(LATER)
        assert await support.is_given(LATER)
    assert [log["takes_templates"] for log in logs] == [True]


async def test_first_question_without_an_answer_is_a_no_for_a_while() -> None:
    crds = Crds()
    crds.error = UnavailableError("the definition", "down")
    support = PodTemplateSupport(crds, timeout_s=1)
    with structlog.testing.capture_logs():
        assert not await support.is_given(NOW)
        crds.error = None
        assert not await support.is_given(NOW)
    assert await support.is_given(LATER)


class SlowCrds:
    """Answers when it is told to."""

    def __init__(self) -> None:
        self.asked = 0
        self.answer = anyio.Event()

    async def has_field(self, kind: Kind, path: str) -> bool:
        self.asked += 1
        await self.answer.wait()
        return True


async def test_those_who_need_it_at_once_ask_once() -> None:
    crds = SlowCrds()
    support = PodTemplateSupport(crds, timeout_s=60)
    answers: list[bool] = []

    async def ask(now: datetime) -> None:
        answers.append(await support.is_given(now))

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(ask, NOW)
            await anyio.wait_all_tasks_blocked()
            crds.answer.set()
    assert (answers, crds.asked) == ([True] * 5, 1)


async def test_who_has_an_answer_does_not_wait_for_a_newer_one() -> None:
    crds = SlowCrds()
    crds.answer.set()
    support = PodTemplateSupport(crds, timeout_s=60)
    assert await support.is_given(NOW)
    crds.answer = anyio.Event()
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(support.is_given, LATER)
            await anyio.wait_all_tasks_blocked()
            assert await support.is_given(LATER)
            crds.answer.set()


async def test_cluster_that_does_not_answer_is_not_waited_for() -> None:
    support = PodTemplateSupport(SlowCrds(), timeout_s=0)
    with structlog.testing.capture_logs() as logs:
        assert not await support.is_given(NOW)
    assert logs[0]["error"] == "no answer within 0 s"
