"""The conversion itself: from a task template to a pod spec, plainly and step by step.

Pod specs are dicts in the written form of ``_speedups.apitypes``. Each step replaces what it changes at the
spec's top level and shares the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec
from flyteidl2.core import tasks_pb2
from google.protobuf import text_format
from google.protobuf.message import DecodeError as ProtobufDecodeError

from propfan._speedups import apitypes, structs
from propfan.pluginmachinery import names
from propfan.pluginmachinery.config import DEFAULT_STORAGE, ApiObject, K8sConfig, StorageConfig
from propfan.pluginmachinery.contexts import (
    IOPaths,
    NoPodTemplates,
    PodTemplateStore,
    ResourceRequirements,
    TaskContext,
    TaskExecutionMetadata,
)
from propfan.pluginmachinery.errors import BadTaskSpecificationError, DecodeError, PermanentError, StorageError
from propfan.pluginmachinery.podspec import accelerators, environment, pod_templates, resources, scheduling, schema
from propfan.pluginmachinery.podspec.copilot import Copilot
from propfan.pluginmachinery.templates import TemplateParameters, compile_templates

if TYPE_CHECKING:
    from flyteidl2.core.literals_pb2 import LiteralMap
    from flyteidl2.core.tasks_pb2 import (
        Container,
        DataLoadingConfig,
        GPUAccelerator,
        K8sPod,
        SharedMemory,
        TaskTemplate,
    )
    from google.protobuf.message import Message
    from google.protobuf.struct_pb2 import Struct

M = TypeVar("M", bound="Message")

PRIMARY_CONTAINER_NAME: Final = "primary_container_name"
"""Key of a task's configuration, and annotation of its pod."""

_SHOWN_BYTES: Final = 400
"""Of a Struct in an error message; of a larger one only the size is told."""

_NAME_ALPHABET: Final = "bcdfghjklmnpqrstvwxz2456789"


def _no_value(name: str) -> str:
    raise LookupError(f"the task has no value {name!r}")


class PodTask(msgspec.Struct, frozen=True):
    """One execution of a template, all that a pod is made of.

    Attributes:
        parameters: What the placeholders in its command line stand for.
        container_name: Of the container that a ``container`` target becomes.
        environment: Variables of the execution; the metadata's own are looked at no more.
        own: Values of a plugin's own by name, see ``plan.Plans``.
    """

    template: TaskTemplate
    metadata: TaskExecutionMetadata
    parameters: TemplateParameters
    container_name: str
    environment: list[dict[str, Any]]
    own: Callable[[str], str] = _no_value


class BuiltPod(msgspec.Struct):
    """A pod spec on its way: ``metadata`` holds annotations and labels."""

    spec: dict[str, Any]
    metadata: dict[str, Any]
    primary_container_name: str


def container_name(generated_name: str) -> str:
    """``generated_name`` where a container can be called that, else four letters made of it."""
    if names.is_dns1123_label(generated_name):
        return generated_name
    number = int.from_bytes(names.fnv1a(generated_name.encode()))
    letters = ""
    for _ in range(4):
        number, index = divmod(number, len(_NAME_ALPHABET))
        letters += _NAME_ALPHABET[index]
    return letters


async def read_task(ctx: TaskContext, own: Callable[[str], str] = _no_value) -> PodTask:
    """The task of a context; its inputs are read only when a template may ask for one."""
    overrides = ctx.metadata.overrides
    pod_template = None if overrides is None else overrides.pod_template
    inputs: LiteralMap | Exception | None = None
    if asks_for_inputs(ctx.template_bytes) or (pod_template and asks_for_inputs(pod_template)):
        try:
            inputs = await ctx.inputs.read()
        except (StorageError, DecodeError) as error:
            inputs = error
    return task_of(ctx.template, ctx.metadata, ctx.paths, inputs, own)


def asks_for_inputs(serialised: bytes) -> bool:
    """Whether some text in a serialised template may hold ``{{.inputs.x}}``."""
    lowered = serialised.lower()
    # The long s counts as one, see `templates`; it alone is found faster than the word.
    return b"inputs." in lowered or (b"\xc5\xbf" in lowered and b"input\xc5\xbf." in lowered)


def task_of(
    template: TaskTemplate,
    metadata: TaskExecutionMetadata,
    paths: IOPaths | None,
    inputs: LiteralMap | Exception | None = None,
    own: Callable[[str], str] = _no_value,
) -> PodTask:
    name = metadata.task_execution_id.generated_name
    return PodTask(
        template,
        metadata,
        TemplateParameters(name, metadata.namespace, paths, inputs),
        container_name(name),
        environment.variables(metadata.environment_variables),
        own,
    )


def decode_pod_spec(struct: Struct) -> dict[str, Any]:
    """A pod spec given as a ``google.protobuf.Struct``, in written form.

    Raises:
        StructError, MismatchError: it is none.
    """
    return apitypes.decode(structs.to_value(struct.SerializeToString()), schema.POD_SPEC)


class PodSpecBuilder:
    """Turns tasks into pods under one configuration.

    Args:
        storage: The engine's, for the co-pilot.
        logger_level: For the co-pilot.
        process_env: The engine's own environment, for ``default-env-vars-from-env``.
        workflow_id: Of the context that the engine itself runs in; may be empty.
    """

    def __init__(
        self,
        k8s: K8sConfig,
        templates: PodTemplateStore | None = None,
        *,
        storage: StorageConfig = DEFAULT_STORAGE,
        logger_level: int = 3,
        process_env: Mapping[str, str] | None = None,
        workflow_id: str = "",
    ) -> None:
        self.k8s = k8s
        self.templates = pod_templates.PodTemplates(templates or NoPodTemplates())
        self.classes = accelerators.DeviceClasses.of(k8s)
        self._platform: tuple[ResourceRequirements | None, resources.Platform] | None = None
        self._bounded_resources = self.classes.resource_names | {resources.EPHEMERAL_STORAGE}
        self._copilot = Copilot(k8s.co_pilot, storage, logger_level)
        self._workflow = [environment.variable("FLYTE_INTERNAL_EXECUTION_WORKFLOW", workflow_id)] if workflow_id else []
        self._platform_env = environment.of_platform(k8s, process_env or {})
        self._env_from = environment.sources(k8s)

    def to_pod_spec(self, task: PodTask) -> BuiltPod:
        """The pod that a plugin puts into its own object.

        Raises:
            BadTaskSpecificationError: the task can never be a pod.
            PermanentError: a value of the template or configuration can not be used; without a code.
        """
        pod = self.build_raw_pod(task)
        self.apply_flyte_configuration(task, pod)
        extended = self.k8s.add_tolerations_for_extended_resources
        if extended:
            accelerators.tolerate_extended_resources(pod.spec, extended)
        return pod

    def to_container(self, task: PodTask) -> dict[str, Any]:
        """Only the container, as the primary one of a pod would be.

        Raises: as `to_pod_spec`.
        """
        container = self._raw_container(task)
        if self.k8s.default_security_context is not None:
            container["securityContext"] = self.k8s.default_security_context
        return _Customiser(self, task, has_url=False).customise(container, is_primary=True)

    # Raw pod

    def build_raw_pod(self, task: PodTask) -> BuiltPod:
        """What the task itself says, before any default."""
        target = task.template.WhichOneof("target")
        if target == "container":
            container = self._raw_container(task)
            pod = BuiltPod({"containers": [container]}, {}, container["name"])
        elif target == "k8s_pod":
            pod = _raw_k8s_pod(task.template)
        else:
            raise BadTaskSpecificationError("invalid TaskSpecification, unable to determine Pod configuration")
        overrides = task.metadata.overrides
        if overrides is not None and overrides.pod_template:
            _replace(pod, overrides.pod_template)
        pod.spec["enableServiceLinks"] = False
        return pod

    def _raw_container(self, task: PodTask) -> dict[str, Any]:
        if task.template.WhichOneof("target") != "container":
            raise BadTaskSpecificationError("unable to create container with no definition in TaskTemplate")
        overrides = task.metadata.overrides
        if overrides is None or overrides.resources is None:
            raise BadTaskSpecificationError("resource requirements not found for container task, required!")
        definition: Container = task.template.container
        requirements = resources.of_template(definition.resources)
        container = {
            "name": task.container_name,
            "image": definition.image,
            "args": list(definition.args),
            "command": list(definition.command),
            "env": [environment.variable(pair.key, pair.value) for pair in definition.env],
            "resources": {"limits": requirements.limits, "requests": requirements.requests},
            "imagePullPolicy": self.k8s.image_pull_policy,
            "terminationMessagePolicy": "FallbackToLogsOnError",
        }
        return {field: value for field, value in container.items() if value or field == "name"}

    # Flyte's own configuration

    def apply_flyte_configuration(self, task: PodTask, pod: BuiltPod) -> None:
        """Complete a raw pod; order matters, since each step sees what the ones before it did."""
        template, metadata = task.template, task.metadata
        customiser = _Customiser(self, task)
        extended = customiser.extended
        spec, primary = pod.spec, pod.primary_container_name
        if spec.get("initContainers"):
            spec["initContainers"] = [customiser.customise(c, is_primary=False) for c in spec["initContainers"]]
        containers = [customiser.customise(c, is_primary=c["name"] == primary) for c in spec.get("containers") or ()]
        spec["containers"] = containers
        if primary not in [c["name"] for c in containers]:
            raise BadTaskSpecificationError(f"invalid TaskSpecification, primary container [{primary}] not defined")
        data = _data_config(template)
        paths = task.parameters.paths
        if data is not None and data.enabled and paths is not None:
            interface = template.interface if template.HasField("interface") else None
            wanted = None if metadata.overrides is None else metadata.overrides.resources
            self._copilot.add_to(spec, primary, data, interface, paths, wanted)
        used: set[str] = set()
        if self.k8s.resource_tolerations:
            used.update(
                *[entries for c in containers for entries in c["resources"].values() if isinstance(entries, dict)]
            )
        scheduling.apply_defaults(
            spec,
            self.k8s,
            interruptible=metadata.interruptible,
            service_account=metadata.k8s_service_account,
            resources=used,
        )
        if self.k8s.default_security_context is not None:
            _secure(spec, primary, self.k8s.default_security_context)
        if extended.accelerator is not None and customiser.device_class.pod_template is not None:
            pod.spec = spec = pod_templates.merge(customiser.device_class.pod_template, spec, primary)
        base = self.base_template(template, metadata)
        if base is not None:
            pod.spec = spec = pod_templates.merge(base, spec, primary)
            pod.metadata = apitypes.overlay(base["template"]["metadata"], pod.metadata, schema.OBJECT_META)
        if extended.accelerator is not None:
            accelerators.select_nodes(spec, extended.accelerator, customiser.device_class, self.classes)
            if labels := accelerators.partition_labels(extended.accelerator):
                pod.metadata = {**pod.metadata, "labels": {**(pod.metadata.get("labels") or {}), **labels}}
        if extended.shared_memory is not None:
            accelerators.share_memory(spec, extended.shared_memory, primary)
        if metadata.overrides is not None and metadata.overrides.container_image:
            _replace_image(spec, primary, metadata.overrides.container_image)

    def base_template(self, template: TaskTemplate, metadata: TaskExecutionMetadata) -> ApiObject | None:
        """The pod template that the task or configuration names, in written form.

        Raises:
            BadTaskSpecificationError: the task names one that does not exist.
        """
        name = template.metadata.pod_template_name
        stored = (
            self.templates.find(metadata.namespace, name or self.k8s.default_pod_template_name)
            if (name or self.k8s.default_pod_template_name)
            else None
        )
        if stored is None:
            if name:
                raise BadTaskSpecificationError(f"PodTemplate '{name}' does not exist")
            return None
        return self.templates.written(stored)

    def foreign_container_names(self, task: PodTask) -> frozenset[str]:
        """Names of the containers in the pod templates that the task is merged with."""
        device_class = self.classes.find(extended_resources(task).accelerator)
        found = (device_class.pod_template, self.base_template(task.template, task.metadata))
        specs = [template["template"]["spec"] for template in found if template is not None]
        return frozenset(container["name"] for spec in specs for container in spec.get("containers") or ())

    def platform_of(self, wanted: ResourceRequirements | None) -> resources.Platform:
        """Defaults and ceilings; kept for the next task, which mostly has the same.

        Raises:
            BadTaskSpecificationError: a value is no quantity.
        """
        if self._platform is None or self._platform[0] != wanted:
            own = resources.of_execution(wanted, "platform_resources")
            requests = {"cpu": self.k8s.default_cpus, "memory": self.k8s.default_memory, **own.requests}
            self._platform = (wanted, resources.Platform(requests, own.limits, self._bounded_resources))
        return self._platform[1]

    def environment_of(self, task: PodTask, *, has_url: bool = True) -> list[dict[str, Any]]:
        """What is appended to the variables of each container.

        Args:
            has_url: Whether the URL of the execution is among them, if the task asks for it.
        """
        url = task.metadata.console_url if has_url else ""
        own = environment.of_execution(task.metadata.task_execution_id, url, task.template.config)
        return [*self._workflow, *own, *task.environment, *self._platform_env]

    @property
    def env_from(self) -> list[dict[str, Any]]:
        return self._env_from


class Extended(msgspec.Struct, frozen=True):
    """The extended resources that count: the execution's where it has some, else the template's."""

    accelerator: GPUAccelerator | None
    shared_memory: SharedMemory | None


def extended_resources(task: PodTask) -> Extended:
    template = task.template
    accelerator = shared_memory = None
    if template.HasField("extended_resources"):
        own = template.extended_resources
        accelerator = own.gpu_accelerator if own.HasField("gpu_accelerator") else None
        shared_memory = own.shared_memory if own.HasField("shared_memory") else None
    overrides = task.metadata.overrides
    if overrides is not None and overrides.extended_resources is not None:
        over = parse(tasks_pb2.ExtendedResources, overrides.extended_resources, "overrides.extended_resources")
        accelerator = over.gpu_accelerator if over.HasField("gpu_accelerator") else accelerator
        shared_memory = over.shared_memory if over.HasField("shared_memory") else shared_memory
    return Extended(accelerator, shared_memory)


class _Customiser:
    """What all containers of one pod get."""

    def __init__(self, builder: PodSpecBuilder, task: PodTask, *, has_url: bool = True) -> None:
        metadata = task.metadata
        self.extended = extended_resources(task)
        self.device_class = builder.classes.find(self.extended.accelerator)
        self._gpu = self.device_class.resource_name
        overrides = None if metadata.overrides is None else metadata.overrides.resources
        self._overrides = resources.of_execution(overrides, "overrides.resources")
        self._overrides.rename_gpu(self._gpu)
        self._platform = builder.platform_of(metadata.platform_resources)
        self._parameters = task.parameters
        self._env = builder.environment_of(task, has_url=has_url)
        self._env_from = builder.env_from

    def customise(self, container: Mapping[str, Any], *, is_primary: bool) -> dict[str, Any]:
        """Render the templates, add the environment and settle the resources."""
        out = dict(container)
        for field in ("command", "args"):
            if strings := out.get(field):
                out[field] = _rendered(strings, self._parameters)
        if self._env:
            out["env"] = (out.get("env") or []) + self._env
        if self._env_from:
            out["envFrom"] = (out.get("envFrom") or []) + self._env_from
        own = resources.of_container(container)
        own.rename_gpu(self._gpu)
        if is_primary:
            own = resources.merge(own, self._overrides)
        out["resources"] = self._platform.resolve(own, container, assign=is_primary)
        return out


_compiled = lru_cache(maxsize=1024)(compile_templates)


def _rendered(strings: Sequence[str], parameters: TemplateParameters) -> list[str]:
    """The strings with their placeholders replaced.

    Those that have some are the same in most templates, so that they are searched once.
    """
    templated = tuple([string for string in strings if "{{" in string])
    if parameters.paths is not None and not templated:
        return list(strings)
    rendered = iter(_compiled(templated or tuple(strings)).render(parameters))
    return [next(rendered) if "{{" in string else string for string in strings]


def _raw_k8s_pod(template: TaskTemplate) -> BuiltPod:
    definition: K8sPod = template.k8s_pod
    if not definition.HasField("pod_spec"):
        raise BadTaskSpecificationError(
            "Pod tasks with task type version > 1 should specify their target as a K8sPod with a defined pod spec"
        )
    try:
        spec = decode_pod_spec(definition.pod_spec)
    except (structs.StructError, apitypes.MismatchError) as error:
        problem = f"Unable to unmarshal task k8s pod [{text_of(definition.pod_spec)}], Err: [{error}]"
        raise BadTaskSpecificationError(problem) from None
    return BuiltPod(spec, metadata_of(definition), primary_from_config(template))


def primary_from_config(template: TaskTemplate) -> str:
    """The primary container as the task's configuration names it.

    Raises:
        BadTaskSpecificationError: it does not.
    """
    config = template.config
    if PRIMARY_CONTAINER_NAME not in config:
        shown = " ".join(f"{key}:{config[key]}" for key in sorted(config))
        raise BadTaskSpecificationError(
            f"invalid TaskSpecification, config missing [{PRIMARY_CONTAINER_NAME}] key in [map[{shown}]]"
        )
    return config[PRIMARY_CONTAINER_NAME]


def metadata_of(definition: K8sPod) -> dict[str, Any]:
    """Annotations and labels of a pod as the task gives them."""
    found = {"annotations": dict(definition.metadata.annotations), "labels": dict(definition.metadata.labels)}
    return {kind: entries for kind, entries in found.items() if entries}


def _replace(pod: BuiltPod, serialised: bytes) -> None:
    """Put the execution's own pod in place of the task's."""
    override = parse(tasks_pb2.K8sPod, serialised, "overrides.pod_template")
    if not override.HasField("pod_spec"):
        return
    try:
        pod.spec = decode_pod_spec(override.pod_spec)
    except (structs.StructError, apitypes.MismatchError) as error:
        raise PermanentError("", f"overrides.pod_template: {error}") from None
    for kind, entries in metadata_of(override).items():
        pod.metadata = {**pod.metadata, kind: {**(pod.metadata.get(kind) or {}), **entries}}
    pod.primary_container_name = override.primary_container_name


def parse(kind: type[M], serialised: bytes, what: str) -> M:
    """A protobuf message out of its bytes.

    Raises:
        DecodeError: it is none; the message names ``what``.
    """
    try:
        return kind.FromString(serialised)
    except ProtobufDecodeError as error:
        raise DecodeError(what, f"is no {kind.DESCRIPTOR.name}: {error}") from None


def _data_config(template: TaskTemplate) -> DataLoadingConfig | None:
    target = template.container if template.WhichOneof("target") == "container" else template.k8s_pod
    return target.data_config if target.HasField("data_config") else None


def _secure(spec: dict[str, Any], primary: str, security_context: ApiObject) -> None:
    containers = list(spec["containers"])
    index = max(i for i, container in enumerate(containers) if container["name"] == primary)
    if "securityContext" not in containers[index]:
        containers[index] = {**containers[index], "securityContext": security_context}
        spec["containers"] = containers


def _replace_image(spec: dict[str, Any], primary: str, image: str) -> None:
    containers = list(spec["containers"])
    index = next(i for i, container in enumerate(containers) if container["name"] == primary)
    containers[index] = {**containers[index], "image": image}
    spec["containers"] = containers


def text_of(struct: Struct) -> str:
    """A Struct for an error message."""
    size_bytes = struct.ByteSize()
    if size_bytes > _SHOWN_BYTES:
        return f"{size_bytes} bytes"
    return text_format.MessageToString(struct, as_one_line=True)
