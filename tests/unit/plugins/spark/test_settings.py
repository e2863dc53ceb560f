from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from propfan.pluginmachinery.testing import FakeTaskContext
from propfan.plugins.spark.settings import sizes
from tests.unit.plugins.spark.tasks import FILE, spark_plugin, spark_task, spec_of

pytestmark = pytest.mark.anyio

FEATURES = [
    {"name": "delta", "spark-config": {"spark.sql.extensions": "io.delta", "spark.x": "feature"}},
    {"name": "delta", "spark-config": {"spark.sql.extensions": "another"}},
]


async def conf_of(spark_conf: dict[str, str], custom: dict[str, Any] | None = None, **section: Any) -> dict[str, str]:
    template = spark_task({"mainApplicationFile": FILE, "sparkConf": spark_conf, **(custom or {})})
    spec = await spec_of(spark_plugin(**section), FakeTaskContext(template))
    found: dict[str, str] = spec["sparkConf"]
    return found


async def test_task_overrides_defaults() -> None:
    conf = await conf_of({"a": "task"}, spark_config_default={"a": "default", "b": "default"})
    assert (conf["a"], conf["b"]) == ("task", "default")


async def test_executor_path_is_the_python_of_both_roles_unless_the_task_says_otherwise() -> None:
    conf = await conf_of({"spark.pyspark.driver.python": "own"}, {"executorPath": "/venv/bin/python"})
    assert conf["spark.pyspark.python"] == "/venv/bin/python"
    assert conf["spark.pyspark.driver.python"] == "own"


@pytest.mark.parametrize("key", ["spark.flyte.delta.enabled", "spark.flyteorg.delta.enabled"])
async def test_feature_brings_its_settings_instead_of_its_switch(key: str) -> None:
    conf = await conf_of({key: " True "}, features=FEATURES)
    assert key not in conf
    assert conf["spark.sql.extensions"] == "io.delta"


async def test_task_overrides_a_feature_that_it_switches_on() -> None:
    conf = await conf_of({"spark.flyte.delta.enabled": "true", "spark.a": "1", "spark.x": "task"}, features=FEATURES)
    assert (conf["spark.x"], conf["spark.a"], conf["spark.sql.extensions"]) == ("task", "1", "io.delta")


@pytest.mark.parametrize(
    ("key", "value"),
    [("spark.flyte.delta.enabled", "false"), ("spark.flyte.other.enabled", "true"), ("spark.flyte.enabled", "true")],
)
async def test_switch_of_no_configured_feature_is_a_setting(key: str, value: str) -> None:
    conf = await conf_of({key: value}, features=FEATURES)
    assert conf[key] == value
    assert "spark.sql.extensions" not in conf


@pytest.mark.parametrize(
    ("given", "limit"),
    [
        ({"spark.driver.cores": "2"}, "2"),
        ({"spark.driver.cores": "2", "spark.kubernetes.driver.request.cores": "500m"}, "500m"),
        ({"spark.driver.cores": "2", "spark.kubernetes.driver.limit.cores": "3"}, "3"),
        ({"spark.driver.cores": "2", "spark.kubernetes.driver.limit.cores": ""}, "2"),
        ({}, None),
    ],
)
async def test_cpu_limit_follows_request_or_cores(given: dict[str, str], limit: str | None) -> None:
    assert (await conf_of(given)).get("spark.kubernetes.driver.limit.cores") == limit


async def test_names_and_start_time_are_the_engines() -> None:
    conf = await conf_of(
        {"spark.kubernetes.executor.podNamePrefix": "mine", "spark.kubernetes.driverEnv.FLYTE_START_TIME": "0"}
    )
    ctx = FakeTaskContext(spark_task())
    name = ctx.metadata.task_execution_id.generated_name
    assert conf["spark.kubernetes.executor.podNamePrefix"] == name
    assert conf["spark.kubernetes.driverEnv.FLYTE_START_TIME"] == str(int(ctx.now.timestamp() * 1000))


@given(st.one_of(st.integers(-(2**33), 2**33).map(str), st.text(max_size=6)))
def test_only_whole_numbers_of_32_bits_are_sizes(text: str) -> None:
    found = sizes({"spark.executor.instances": text}, "executor").get("instances")
    try:
        number = int(text) if text.isascii() and text.strip() == text and "_" not in text else 0
    except ValueError:
        number = 0
    assert found == (number if number and -(2**31) <= number < 2**31 else None)


def test_a_driver_has_no_instances() -> None:
    conf = {"spark.driver.cores": "+2", "spark.driver.memory": "1g", "spark.executor.instances": "4"}
    assert sizes(conf, "driver") == {"cores": 2, "memory": "1g"}
