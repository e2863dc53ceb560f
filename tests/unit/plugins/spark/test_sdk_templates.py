"""What the plugins of real SDKs serialise becomes an application that the operator takes."""

from __future__ import annotations

import pytest

from propfan.pluginmachinery.testing import FakeTaskContext
from tests.peers.sdk_templates.recorded import Recorded, recorded
from tests.unit.plugins.spark.tasks import Crds, spark_plugin, spec_of

pytestmark = pytest.mark.anyio

TASKS = recorded("spark")
REQUIRED = ("driver", "executor", "mainApplicationFile", "sparkVersion", "type")
"""Of ``spec``, by the definition in spark-operator v2."""


def test_both_generations_are_recorded() -> None:
    assert {task.name.partition("-")[0] for task in TASKS} == {"flyte1", "flyte2"}


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
async def test_application_has_what_the_operator_requires(task: Recorded) -> None:
    spec = await spec_of(spark_plugin(crds=Crds()), FakeTaskContext(task.message))
    assert [name for name in REQUIRED if name not in spec] == []
    assert spec["type"] == "Python"
    assert spec["mainApplicationFile"].startswith("local://")
    assert spec["arguments"][0] in {"a0", "pyflyte-execute"}
    assert spec["image"] == "img:1"


@pytest.mark.parametrize("task", [t for t in TASKS if t.name.endswith("spark-full")], ids=lambda task: task.name)
async def test_settings_arrive(task: Recorded) -> None:
    spec = await spec_of(spark_plugin(), FakeTaskContext(task.message))
    assert spec["mainApplicationFile"] == "local:///opt/app.py"
    assert spec["hadoopConf"] == {"fs.s3a.endpoint": "http://minio:9000"}
    assert spec["sparkConf"]["spark.pyspark.python"] == "/usr/bin/python3"
    assert spec["driver"]["memory"] == "1g"
    assert (spec["executor"]["instances"], spec["executor"]["cores"]) == (2, 1)


@pytest.mark.parametrize("task", [t for t in TASKS if t.name.endswith("spark-pods")], ids=lambda task: task.name)
async def test_pods_arrive(task: Recorded) -> None:
    spec = await spec_of(spark_plugin(crds=Crds()), FakeTaskContext(task.message))
    for role in ("driver", "executor"):
        own = spec[role]["template"]["spec"]
        assert [container["image"] for container in own["containers"]] == ["own:1"]
        assert own["tolerations"] == [{"key": "spot", "operator": "Exists", "effect": "NoSchedule"}]
