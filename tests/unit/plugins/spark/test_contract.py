from __future__ import annotations

from typing import Any, ClassVar

from propfan.pluginmachinery.phases import Phase
from propfan.pluginmachinery.testing import KubernetesPluginContract, StatusSample
from propfan.plugins.spark import entry
from tests.unit.plugins.spark.tasks import spark_task

POD = {
    "podSpec": {"containers": [{"name": "spark-kubernetes-driver", "image": "own"}], "nodeSelector": {"disk": "ssd"}}
}


def state(name: str, **members: Any) -> dict[str, Any]:
    return {"applicationState": {"state": name, **members}, "driverInfo": {"podName": "r1-a0-0-driver"}}


class TestSparkPlugin(KubernetesPluginContract):
    entry = entry
    templates = (
        spark_task(),
        spark_task(custom={"mainClass": "org.example.Main", "applicationType": "SCALA", "driverPod": POD}),
    )
    samples = (
        StatusSample("new", {}, Phase.QUEUED),
        StatusSample("submitted", state("SUBMITTED"), Phase.INITIALIZING),
        StatusSample("running", state("RUNNING"), Phase.RUNNING),
        StatusSample("suspended", state("SUSPENDED"), Phase.QUEUED),
        StatusSample("resumed", state("RESUMING"), Phase.QUEUED),
        StatusSample("of a state that nobody knows yet", state("DREAMING"), Phase.RUNNING),
        StatusSample("completed", state("COMPLETED"), Phase.SUCCESS),
        StatusSample(
            "failed", state("FAILED", errorMessage="no"), Phase.RETRYABLE_FAILURE, error_code="DownstreamSystemError"
        ),
        StatusSample("refused", state("SUBMISSION_FAILED"), Phase.RETRYABLE_FAILURE),
    )
    sections: ClassVar = {"spark": {"spark-history-server-url": "https://history"}}
