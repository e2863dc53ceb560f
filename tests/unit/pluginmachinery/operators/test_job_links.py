"""Links of several pods at once are those of each alone, and rendered no oftener than they change."""

from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest

from propfan._speedups.links import rfc3339, unix_seconds
from propfan.pluginmachinery.kubernetes_plugin import ObjectMeta
from propfan.pluginmachinery.loglinks import LinkPlan, LinkTemplate, LogInput, LogLinks, LogsConfig
from propfan.pluginmachinery.operators.job_links import PodLinks
from propfan.pluginmachinery.testing import FakeTaskContext, task_template
from propfan.pluginmachinery.testing.builders import NOW

CREATED = NOW - timedelta(hours=1)
PODS = (("job-worker-0", ""), ("job-master-0", "master"))
WHERE = "{{ .podName }}/{{.logName}}/{{ .containerName }}/{{ .generatedName }}/{{ .executionName }}"
WHEN = "{{ .podUnixStartTime }}-{{ .podUnixFinishTime }}/{{.podRFC3339StartTime}}/{{.podRFC3339FinishTime}}"


@pytest.mark.parametrize("container", ["main", "{{ .runName }}", "{{ .podUnixStartTime }}"])
@pytest.mark.parametrize(
    "templates",
    [
        [WHERE],
        [WHERE, WHEN],
        [WHERE + "/{{ .taskConfig.{{ .podName }} }}", WHEN],
        [],
    ],
    ids=["without times", "with times", "nested braces", "none"],
)
def test_links_of_pods_are_those_of_each_alone(templates: list[str], container: str) -> None:
    ctx = FakeTaskContext(task_template("x", image="i"))
    plan = LogLinks(LogsConfig(templates=[LinkTemplate(display_name="L {{.logName}}", template_uris=templates)])).plan(
        ctx.template
    )
    given = LogInput(
        namespace=ctx.metadata.namespace,
        container_name=container,
        pod_rfc3339_start_time=rfc3339(CREATED),
        pod_rfc3339_finish_time=rfc3339(NOW),
        pod_unix_start_time=unix_seconds(CREATED),
        pod_unix_finish_time=unix_seconds(NOW),
        task_execution_id=ctx.metadata.task_execution_id,
    )
    alone = [
        link for pod, log in PODS for link in plan.render(msgspec.structs.replace(given, pod_name=pod, log_name=log))
    ]
    renderer = PodLinks(lambda _: plan)
    for uid in ("", "a", "a"):
        job = ObjectMeta(name="job", uid=uid, creation_timestamp=CREATED)
        assert renderer.render(ctx, job, container, PODS) == tuple(alone)
    assert len(alone) == len(PODS) * (len(templates) + 1)


def plan_of(*templates: str) -> LinkPlan:
    return LogLinks(LogsConfig(kubernetes_enabled=False, templates=[LinkTemplate(template_uris=templates)])).plan(None)


def test_links_without_times_are_rendered_once_for_the_same_pods_of_a_job() -> None:
    ctx, renderer = FakeTaskContext(task_template("x", image="i")), PodLinks(lambda _: plan_of(WHERE))
    job = ObjectMeta(name="job", uid="a")
    first = renderer.render(ctx, job, "main", PODS)
    assert renderer.render(ctx, job, "main", PODS) is first
    assert renderer.render(ctx, job, "main", PODS[:1]) == first[:1]
    other = ObjectMeta(name="job", uid="b")
    assert renderer.render(ctx, other, "main", PODS) is not first


def test_links_with_times_follow_the_clock() -> None:
    ctx, renderer = FakeTaskContext(task_template("x", image="i")), PodLinks(lambda _: plan_of(WHEN))
    job = ObjectMeta(name="job", uid="a", creation_timestamp=CREATED)
    first = renderer.render(ctx, job, "main", PODS)
    assert renderer.render(ctx.next_round(60.0), job, "main", PODS) != first


def test_links_are_not_kept_for_ever() -> None:
    ctx, renderer = FakeTaskContext(task_template("x", image="i")), PodLinks(lambda _: plan_of(WHERE))
    first = renderer.render(ctx, ObjectMeta(uid="first"), "main", PODS)
    for number in range(2000):
        renderer.render(ctx, ObjectMeta(uid=f"uid-{number}"), "main", PODS)
    assert renderer.render(ctx, ObjectMeta(uid="first"), "main", PODS) is not first
