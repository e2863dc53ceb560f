"""Links of several pods at once are those of each alone."""

from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest

from propfan._speedups.links import rfc3339, unix_seconds
from propfan.pluginmachinery.loglinks import LinkTemplate, LogInput, LogLinks, LogsConfig
from propfan.pluginmachinery.operators.job_links import links_of_pods
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
    assert links_of_pods(plan, ctx, CREATED, container, PODS) == tuple(alone)
    assert len(alone) == len(PODS) * (len(templates) + 1)
