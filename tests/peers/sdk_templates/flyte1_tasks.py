"""The same as ``flyte2_tasks.py`` with flytekit and its plugins, whose templates are of the generation before."""

from __future__ import annotations

import importlib
import types
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import absent

absent.stand_in(*absent.COMPUTE, *absent.CLIENTS)
importlib.import_module("torch.distributed.run").parse_min_max_nnodes = absent.min_and_max_nodes  # type: ignore[attr-defined]

from flytekit import PodTemplate, Resources, task  # noqa: E402
from flytekit.configuration import Image, ImageConfig, SerializationSettings  # noqa: E402
from flytekit.tools.translator import get_serializable  # noqa: E402
from flytekitplugins import dask, kfmpi, kfpytorch, kftensorflow, ray, spark  # noqa: E402
from kubernetes.client import V1Container, V1PodSpec, V1Toleration  # noqa: E402

SMALL = Resources(cpu="1", mem="500Mi")
LARGE = Resources(cpu="2", mem="1Gi", gpu="1")
SETTINGS = SerializationSettings(
    image_config=ImageConfig(default_image=Image("default", "img", tag="1")), project="p", domain="d", version="v1"
)


def pod(container: str) -> PodTemplate:
    toleration = V1Toleration(key="spot", operator="Exists", effect="NoSchedule")
    spec = V1PodSpec(containers=[V1Container(name=container, image="own:1")], tolerations=[toleration])
    return PodTemplate(pod_spec=spec, primary_container_name=container, labels={"team": "a"})


CONFIGURATIONS: tuple[tuple[str, str, Any], ...] = (
    ("flytekitplugins-spark", "spark-default", spark.Spark()),
    (
        "flytekitplugins-spark",
        "spark-full",
        spark.Spark(
            spark_conf={"spark.driver.memory": "1g", "spark.executor.instances": "2", "spark.executor.cores": "1"},
            hadoop_conf={"fs.s3a.endpoint": "http://minio:9000"},
            executor_path="/usr/bin/python3",
            applications_path="local:///opt/app.py",
        ),
    ),
    (
        "flytekitplugins-spark",
        "spark-pods",
        spark.Spark(
            spark_conf={"spark.executor.instances": "2"},
            driver_pod=pod("spark-kubernetes-driver"),
            executor_pod=pod("spark-kubernetes-executor"),
        ),
    ),
    (
        "flytekitplugins-ray",
        "ray-full",
        ray.RayJobConfig(
            head_node_config=ray.HeadNodeConfig(ray_start_params={"num-cpus": "0"}, requests=SMALL, limits=SMALL),
            worker_node_config=[
                ray.WorkerNodeConfig("small", 1, min_replicas=1, max_replicas=4),
                ray.WorkerNodeConfig("own", 2, pod_template=pod("ray-worker")),
            ],
            enable_autoscaling=True,
            runtime_env={"pip": ["numpy"]},
        ),
    ),
    ("flytekitplugins-dask", "dask-default", dask.Dask()),
    (
        "flytekitplugins-dask",
        "dask-full",
        dask.Dask(
            scheduler=dask.Scheduler(image="dask:1", requests=SMALL, limits=SMALL),
            workers=dask.WorkerGroup(number_of_workers=3, image="dask:2", limits=LARGE),
        ),
    ),
    ("flytekitplugins-kfpytorch", "pytorch-default", kfpytorch.PyTorch(worker=kfpytorch.Worker(replicas=2))),
    (
        "flytekitplugins-kfpytorch",
        "pytorch-full",
        kfpytorch.PyTorch(
            master=kfpytorch.Master(image="master:1", requests=SMALL, restart_policy=kfpytorch.RestartPolicy.FAILURE),
            worker=kfpytorch.Worker(replicas=3, image="worker:1", limits=LARGE),
            run_policy=kfpytorch.RunPolicy(
                clean_pod_policy=kfpytorch.CleanPodPolicy.RUNNING, ttl_seconds_after_finished=60, backoff_limit=2
            ),
        ),
    ),
    ("flytekitplugins-kfpytorch", "pytorch-elastic", kfpytorch.Elastic(nnodes="1:2", nproc_per_node=4)),
    (
        "flytekitplugins-kftensorflow",
        "tensorflow-full",
        kftensorflow.TfJob(
            chief=kftensorflow.Chief(replicas=1, requests=SMALL),
            worker=kftensorflow.Worker(replicas=2, image="worker:1", limits=LARGE),
            ps=kftensorflow.PS(replicas=1),
            evaluator=kftensorflow.Evaluator(replicas=1, restart_policy=kftensorflow.RestartPolicy.ALWAYS),
            run_policy=kftensorflow.RunPolicy(clean_pod_policy=kftensorflow.CleanPodPolicy.ALL, backoff_limit=1),
        ),
    ),
    (
        "flytekitplugins-kfmpi",
        "mpi-full",
        kfmpi.MPIJob(
            launcher=kfmpi.Launcher(replicas=1, requests=SMALL),
            worker=kfmpi.Worker(replicas=2, image="worker:1", limits=LARGE, command=["/usr/sbin/sshd", "-De"]),
            run_policy=kfmpi.RunPolicy(clean_pod_policy=kfmpi.CleanPodPolicy.RUNNING, ttl_seconds_after_finished=60),
            slots=2,
        ),
    ),
    (
        "flytekitplugins-kfmpi",
        "mpi-horovod",
        kfmpi.HorovodJob(worker=kfmpi.Worker(replicas=2), launcher=kfmpi.Launcher(replicas=1)),
    ),
)


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
    for package, name, config in CONFIGURATIONS:
        function = function_for(name)
        made = task(task_config=config, requests=SMALL, environment={"GREETING": "hello"})(function)
        spec = get_serializable(OrderedDict(), SETTINGS, made)
        yield package, name, spec.template.to_flyte_idl().SerializeToString(deterministic=True)
