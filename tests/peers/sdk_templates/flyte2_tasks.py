"""Tasks of the Flyte 2 SDK and its plugins, one for each way to configure a plugin; run by ``recorder.py``."""

from __future__ import annotations

import importlib
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import absent

absent.stand_in(*absent.COMPUTE)
importlib.import_module("torch.distributed.run").parse_min_max_nnodes = absent.min_and_max_nodes  # type: ignore[attr-defined]

import flyte  # noqa: E402
from flyte._internal.runtime import task_serde  # noqa: E402
from flyte.clustered import ClusteredTaskEnvironment, ClusterFailurePolicy, TorchRun  # noqa: E402
from flyte.models import SerializationContext  # noqa: E402
from flyteplugins.dask import Dask, Scheduler, WorkerGroup  # noqa: E402
from flyteplugins.pytorch import Elastic  # noqa: E402
from flyteplugins.ray import HeadNodeConfig, RayJobConfig, WorkerNodeConfig  # noqa: E402
from flyteplugins.spark import Spark  # noqa: E402
from kubernetes.client import V1Container, V1PodSpec, V1Toleration  # noqa: E402

SMALL = flyte.Resources(cpu=1, memory="500Mi")
LARGE = flyte.Resources(cpu=(2, 4), memory=("1Gi", "2Gi"))
CONTEXT = SerializationContext(version="v1", project="p", domain="d", root_dir=Path(__file__).parent)


def pod(container: str) -> flyte.PodTemplate:
    toleration = V1Toleration(key="spot", operator="Exists", effect="NoSchedule")
    spec = V1PodSpec(containers=[V1Container(name=container, image="own:1")], tolerations=[toleration])
    return flyte.PodTemplate(pod_spec=spec, primary_container_name=container, labels={"team": "a"})


CONFIGURATIONS: tuple[tuple[str, str, Any], ...] = (
    ("flyteplugins-spark", "spark-default", Spark()),
    (
        "flyteplugins-spark",
        "spark-full",
        Spark(
            spark_conf={"spark.driver.memory": "1g", "spark.executor.instances": "2", "spark.executor.cores": "1"},
            hadoop_conf={"fs.s3a.endpoint": "http://minio:9000"},
            executor_path="/usr/bin/python3",
            applications_path="local:///opt/app.py",
        ),
    ),
    (
        "flyteplugins-spark",
        "spark-pods",
        Spark(
            spark_conf={"spark.executor.instances": "2"},
            driver_pod=pod("spark-kubernetes-driver"),
            executor_pod=pod("spark-kubernetes-executor"),
        ),
    ),
    ("flyteplugins-ray", "ray-default", RayJobConfig(worker_node_config=[WorkerNodeConfig("workers", 2)])),
    (
        "flyteplugins-ray",
        "ray-full",
        RayJobConfig(
            head_node_config=HeadNodeConfig(ray_start_params={"num-cpus": "0"}, requests=SMALL, limits=SMALL),
            worker_node_config=[
                WorkerNodeConfig("small", 1, min_replicas=1, max_replicas=4, requests=SMALL),
                WorkerNodeConfig("own", 2, ray_start_params={"num-gpus": "1"}, pod_template=pod("ray-worker")),
            ],
            enable_autoscaling=True,
            runtime_env={"pip": ["numpy"], "env_vars": {"A": "1"}},
            shutdown_after_job_finishes=True,
            ttl_seconds_after_finished=60,
        ),
    ),
    ("flyteplugins-dask", "dask-default", Dask()),
    (
        "flyteplugins-dask",
        "dask-full",
        Dask(
            scheduler=Scheduler(image="dask:1", resources=SMALL),
            workers=WorkerGroup(number_of_workers=3, image="dask:2", resources=LARGE),
        ),
    ),
    ("flyteplugins-pytorch", "pytorch-elastic", Elastic(nnodes=2, nproc_per_node=4)),
    ("flyteplugins-pytorch", "pytorch-range", Elastic(nnodes="1:4", nproc_per_node=1, max_restarts=1)),
    ("flyteplugins-pytorch", "pytorch-one-node", Elastic(nnodes=1, nproc_per_node=2)),
)

CLUSTERS = (
    ("clustered-default", ClusteredTaskEnvironment("clustered_default", image="img:1", replicas=2, nproc_per_node=1)),
    (
        "clustered-full",
        ClusteredTaskEnvironment(
            "clustered_full",
            image="img:1",
            resources=LARGE,
            replicas=4,
            nproc_per_node=8,
            runtime=TorchRun(rdzv_backend="c10d", max_restarts=2),
            failure_policy=ClusterFailurePolicy(max_restarts=3, restart_on_host_maintenance=True),
            ttl_seconds_after_finished=300,
        ),
    ),
)


def environments() -> Iterator[tuple[str, str, flyte.TaskEnvironment]]:
    for package, name, config in CONFIGURATIONS:
        yield (
            package,
            name,
            flyte.TaskEnvironment(
                name.replace("-", "_"),
                image="img:1",
                resources=SMALL,
                env_vars={"GREETING": "hello"},
                plugin_config=config,
            ),
        )
    for name, environment in CLUSTERS:
        yield "flyte", name, environment


def double(number: int) -> int:
    return number * 2


def function_for(name: str) -> types.FunctionType:
    """A function of this module with a name of its own, as each task has one."""
    own_name = f"double_{name.replace('-', '_')}"
    made = types.FunctionType(double.__code__, globals(), own_name)
    made.__annotations__ = double.__annotations__
    globals()[own_name] = made
    return made


def templates() -> Iterator[tuple[str, str, bytes]]:
    """Package, name and serialised ``core.TaskTemplate`` of each task."""
    for package, name, environment in environments():
        function = function_for(name)
        task = environment.task(function)
        spec = task_serde.translate_task_to_wire(task, CONTEXT)
        yield package, name, spec.task_template.SerializeToString(deterministic=True)
