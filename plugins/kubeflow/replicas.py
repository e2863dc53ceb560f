"""The roles of a Kubeflow job: from what a task's message says of one to its ``ReplicaSpec``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import msgspec

from propfan.pluginmachinery.contexts import ResourceRequirements, TaskOverrides
from propfan.pluginmachinery.errors import BadTaskSpecificationError, DecodeError, PermanentError
from propfan.pluginmachinery.operators.job_objects import pod_metadata
from propfan.pluginmachinery.podspec import resources
from propfan.pluginmachinery.podspec.build import extended_resources

if TYPE_CHECKING:
    from flyteidl2.core.tasks_pb2 import Resources
    from flyteidl2.plugins.kubeflow.common_pb2 import RunPolicy
    from flyteidl2.plugins.kubeflow.mpi_pb2 import DistributedMPITrainingReplicaSpec
    from flyteidl2.plugins.kubeflow.pytorch_pb2 import DistributedPyTorchTrainingReplicaSpec
    from flyteidl2.plugins.kubeflow.tensorflow_pb2 import DistributedTensorflowTrainingReplicaSpec

    from propfan.pluginmachinery.podspec.build import BuiltPod, PodSpecBuilder, PodTask

    RoleMessage = (
        DistributedMPITrainingReplicaSpec
        | DistributedPyTorchTrainingReplicaSpec
        | DistributedTensorflowTrainingReplicaSpec
    )

NO_SPEC: Final = "Unable to create replica spec"

_RESTART_POLICIES: Final = {0: "Never", 1: "OnFailure", 2: "Always"}
"""``plugins.RestartPolicy`` to that of a ``ReplicaSpec``."""

_CLEAN_POD_POLICIES: Final = {0: "None", 1: "Running", 2: "All"}
"""``plugins.kubeflow.CleanPodPolicy`` to that of a ``RunPolicy``."""


class Role(msgspec.Struct, frozen=True):
    """One role as the task describes it.

    Attributes:
        resources: In place of the execution's; ``None`` leaves those.
        command: In place of the arguments of its containers; an empty one leaves those.
    """

    replicas: int = 0
    image: str = ""
    resources: Resources | None = None
    restart_policy: int = 0
    command: Sequence[str] = ()


def role_of(message: RoleMessage, command: Sequence[str] = ()) -> Role:
    """What newer SDKs say in ``common`` counts, all of it; else the fields of older ones.

    The SDK sends empty resources for a role that asks for none.
    """
    said = message.common if message.HasField("common") else message
    asked = said.resources if said.resources.requests or said.resources.limits else None
    return Role(said.replicas, said.image, asked, said.restart_policy, command)


class ReplicaSpecs:
    """Builds the replica specs of one framework, whose operator looks for a container called ``container``."""

    def __init__(self, builder: PodSpecBuilder, container: str) -> None:
        self._builder = builder
        self._container = container

    def pod(self, task: PodTask) -> BuiltPod:
        """Raises ``BadTaskSpecificationError`` whatever it is that a pod can not be made of."""
        with refused("Unable to create pod spec"):
            return self._builder.to_pod_spec(task)

    def template(self, task: PodTask) -> dict[str, Any]:
        """The pod template of a role without wishes of its own.

        Raises:
            BadTaskSpecificationError: as `pod`.
        """
        pod = self.pod(task)
        containers = list(pod.spec["containers"])
        index = [container["name"] for container in containers].index(pod.primary_container_name)
        containers[index] = {**containers[index], "name": self._container}
        metadata = pod_metadata(self._builder.k8s, task.metadata, pod.metadata)
        return {"metadata": metadata, "spec": {**pod.spec, "containers": containers}}

    def spec(self, task: PodTask, role: Role, outer: str) -> dict[str, Any]:
        """The replica spec of a role.

        Args:
            outer: Begins the message when there can be none.

        Raises:
            BadTaskSpecificationError: as `pod`.
        """
        with refused(outer):
            if role.resources is not None:
                task = self._with_resources(task, role.resources)
            template = self.template(task)
        spec = template["spec"]
        spec["containers"] = [self._overridden(container, role) for container in spec["containers"]]
        return replica_spec(role.replicas, template, _RESTART_POLICIES.get(role.restart_policy))

    def _overridden(self, container: dict[str, Any], role: Role) -> dict[str, Any]:
        if container["name"] != self._container:
            return container
        if role.image:
            container = {**container, "image": role.image}
        return {**container, "args": list(role.command)} if role.command else container

    def _with_resources(self, task: PodTask, asked: Resources) -> PodTask:
        """The task as if its execution had asked for these resources and no others."""
        metadata = task.metadata
        try:
            own = resources.of_template(asked)
        except PermanentError as error:
            shown = " ".join(str(asked).split())
            problem = f"invalid TaskSpecification on Resources [{shown}], Err: [{error}]"
            raise BadTaskSpecificationError(problem) from None
        own.rename_gpu(self._builder.classes.find(extended_resources(task).accelerator).resource_name)
        resolved = self._builder.platform_of(metadata.platform_resources).resolve(own, {}, assign=True)
        overrides = msgspec.structs.replace(
            metadata.overrides or TaskOverrides(), resources=msgspec.convert(resolved, ResourceRequirements)
        )
        return msgspec.structs.replace(task, metadata=msgspec.structs.replace(metadata, overrides=overrides))


def replica_spec(replicas: int, template: dict[str, Any], restart_policy: str | None = "Never") -> dict[str, Any]:
    spec: dict[str, Any] = {"replicas": replicas, "template": template}
    return spec if restart_policy is None else {**spec, "restartPolicy": restart_policy}


def run_policy(message: RunPolicy | None) -> dict[str, Any]:
    """The ``RunPolicy`` of a job; times in seconds."""
    if message is None:
        return {}
    numbers = {
        "backoffLimit": message.backoff_limit,
        "activeDeadlineSeconds": message.active_deadline_seconds,
        "ttlSecondsAfterFinished": message.ttl_seconds_after_finished,
    }
    policy: dict[str, Any] = {name: number for name, number in numbers.items() if number}
    clean = _CLEAN_POD_POLICIES.get(message.clean_pod_policy)
    return policy if clean is None else {"cleanPodPolicy": clean, **policy}


def need(count: int, what: str) -> None:
    """Raises ``PermanentError``, without a code, where there is not at least one."""
    if count <= 0:
        raise PermanentError("", f"number of {what} must be greater than 0")


def unsupported(version: int) -> BadTaskSpecificationError:
    return BadTaskSpecificationError(f"Invalid TaskSpecification, unsupported task template version [{version}] key")


@contextmanager
def refused(what: str) -> Iterator[None]:
    """Turns whatever is wrong with a task for good into its refusal, which begins with ``what``."""
    try:
        yield
    except (PermanentError, DecodeError) as error:
        raise BadTaskSpecificationError(f"{what}: [{error}]") from error
