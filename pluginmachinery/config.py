"""Configuration sections as frozen Structs, and the strict decoder that reads them.

Keys are the ones of deployment YAML, kebab-case below ``plugins.k8s``. ``null`` leaves a default. Durations are
Go duration strings (``1h30m``). Values that are Kubernetes objects are checked against the API's types and
kept in their written form.
"""

from __future__ import annotations

import difflib
import enum
import re
import types
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

from propfan._speedups import apitypes, quantities
from propfan.pluginmachinery.errors import ConfigError
from propfan.pluginmachinery.podspec import schema

T = TypeVar("T")

_DURATION: Final = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")
_UNITS: Final = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}


class Duration(msgspec.Struct, frozen=True, order=True):
    """A length of time as Go's ``time.Duration``, to the nanosecond."""

    nanoseconds: int = 0

    @classmethod
    def parse(cls, text: str) -> Duration:
        """The duration of a text like ``1h30m``, ``-1.5s`` or ``0``.

        Raises:
            ValueError: it is none, or longer than 292 years.
        """
        body = text[1:] if text[:1] in ("+", "-") else text
        parts = _DURATION.findall(body)
        if body != "0" and (not parts or "".join(number + unit for number, unit in parts) != body or len(text) > 64):
            raise ValueError(f"{text!r} is no duration such as 30s, 1h30m or 500ms")
        total = 0
        for number, unit in parts:
            whole, _, fraction = number.partition(".")
            total += int(whole or 0) * _UNITS[unit] + int(fraction or 0) * _UNITS[unit] // 10 ** len(fraction)
        if total >= 2**63:
            raise ValueError(f"{text!r} is longer than 292 years")
        return cls(-total if text.startswith("-") else total)

    @property
    def seconds(self) -> float:
        return self.nanoseconds / 1_000_000_000

    def __str__(self) -> str:
        """Go's normal form: ``0s``, ``500ms``, ``1m30s``, ``1h0m0s``."""
        rest = abs(self.nanoseconds)
        sign = "-" if self.nanoseconds < 0 else ""
        if rest < 1_000_000_000:
            for unit in ("ms", "µs", "ns"):
                if rest >= _UNITS[unit]:
                    return f"{sign}{_decimal(rest, _UNITS[unit])}{unit}"
            return "0s"
        minutes, rest = divmod(rest, _UNITS["m"])
        hours, minutes = divmod(minutes, 60)
        head = f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else ""
        return f"{sign}{head}{_decimal(rest, _UNITS['s'])}s"


def _decimal(amount: int, unit: int) -> str:
    whole, fraction = divmod(amount, unit)
    digits = f"{fraction:0{len(str(unit)) - 1}d}".rstrip("0")
    return f"{whole}.{digits}" if digits else str(whole)


def _api(name: str) -> msgspec.Meta:
    """Marks a field as an object of the Kubernetes API, by the name of its type."""
    return msgspec.Meta(extra={"api": name})


QUANTITY: Final = msgspec.Meta(extra={"quantity": True})
"""Marks a text that is a Kubernetes quantity; YAML's numbers are taken for it too."""

ApiObject = Mapping[str, Any]
"""A Kubernetes object in written form."""

Tolerations = Sequence[Annotated[ApiObject, _api("Toleration")]]
NodeSelectorRequirement = Annotated[ApiObject, _api("NodeSelectorRequirement")]
PodTemplate = Annotated[ApiObject, _api("PodTemplate")]


class StowConfig(msgspec.Struct, frozen=True):
    kind: str = ""
    config: Mapping[str, str] = {}


class StorageConfig(msgspec.Struct, frozen=True, rename={"enable_multicontainer": "enable-multicontainer"}):
    """Section ``storage``, as far as the co-pilot is told of it; the other keys are the engine's.

    Attributes:
        type: ``stow`` for object stores.
        container: Name of the bucket.
    """

    type: str = ""
    container: str = ""
    enable_multicontainer: bool = False
    stow: StowConfig = StowConfig()
    connection: Mapping[str, Any] = {}
    limits: Mapping[str, Any] = {}
    cache: Mapping[str, Any] = {}
    redis: Mapping[str, Any] = {}
    signedUrl: Mapping[str, Any] = {}  # noqa: N815 - the key in YAML
    defaultHttpClient: Mapping[str, Any] = {}  # noqa: N815 - the key in YAML


DEFAULT_STORAGE: Final = StorageConfig(type="stow", stow=StowConfig("s3", {"region": "us-east-1"}))


class CopilotConfig(msgspec.Struct, frozen=True, rename="kebab"):
    """``plugins.k8s.co-pilot``: the containers that move inputs and outputs of raw containers.

    Attributes:
        name: Prefix of the containers' names.
        timeout: How long the uploader may take once the task's container has ended.
        storage_config_override: Replaces the whole ``storage`` section for the co-pilot.
        storage_config_secret_name: A secret with configuration files, mounted into both containers.
    """

    name: str = "flyte-copilot-"
    image: str = "cr.flyte.org/flyteorg/flyte-binary-v2:latest"
    default_input_path: str = "/var/flyte/inputs"
    default_output_path: str = "/var/flyte/outputs"
    input_vol_name: str = "flyte-inputs"
    output_vol_name: str = "flyte-outputs"
    start_timeout: Duration = Duration()
    timeout: Duration = Duration(3_600_000_000_000)
    cpu: str = "500m"
    memory: str = "128Mi"
    storage: str = ""
    storage_config_override: StorageConfig | None = None
    storage_config_secret_name: str = ""


class AcceleratorDeviceClass(msgspec.Struct, frozen=True, rename="kebab"):
    """One of ``plugins.k8s.accelerator-device-classes``; an empty field takes the global GPU setting."""

    resource_name: str = ""
    device_node_label: str = ""
    partition_size_node_label: str = ""
    unpartitioned_node_selector_requirement: NodeSelectorRequirement | None = None
    unpartitioned_toleration: Annotated[ApiObject, _api("Toleration")] | None = None
    pod_template: PodTemplate | None = None


DEFAULT_DEVICES: Final[Mapping[str, str]] = types.MappingProxyType(
    {
        "A10": "nvidia-a10",
        "A100": "nvidia-tesla-a100",
        "A100 80G": "nvidia-a100-80gb",
        "A100G": "nvidia-a100g",
        "A10G": "nvidia-a10g",
        "B200": "nvidia-b200",
        "GAUDI1": "habana-gaudi-dl1",
        "GB200": "nvidia-gb200",
        "H100": "nvidia-h100",
        "H100 80G": "nvidia-h100-80gb",
        "H100 MEGA 80G": "nvidia-h100-mega-80gb",
        "H200": "nvidia-h200",
        "INF1": "aws-neuron-inf1",
        "INF2": "aws-neuron-inf2",
        "K80": "nvidia-tesla-k80",
        "L4": "nvidia-l4",
        "L40s": "nvidia-l40s",
        "L4_VWS": "nvidia-l4-vws",
        "M60": "nvidia-tesla-m60",
        "MI100": "amd-mi100",
        "MI210": "amd-mi210",
        "MI250": "amd-mi250",
        "MI250X": "amd-mi250x",
        "MI300A": "amd-mi300a",
        "MI300X": "amd-mi300x",
        "MI325X": "amd-mi325x",
        "MI350X": "amd-mi350x",
        "MI355X": "amd-mi355x",
        "P100": "nvidia-tesla-p100",
        "P4": "nvidia-tesla-p4",
        "RTX PRO 6000": "nvidia-rtx-pro-6000",
        "T4": "nvidia-tesla-t4",
        "TRN1": "aws-neuron-trn1",
        "TRN1N": "aws-neuron-trn1n",
        "TRN2": "aws-neuron-trn2",
        "TRN2U": "aws-neuron-trn2u",
        "V100": "nvidia-tesla-v100",
        "V5E": "tpu-v5-lite-podslice",
        "V5P": "tpu-v5p-slice",
        "V6E": "tpu-v6e-slice",
    }
)
"""Node label value of each accelerator that the Flyte SDK names."""

DEFAULT_DEVICE_CLASSES: Final[Mapping[str, AcceleratorDeviceClass]] = types.MappingProxyType(
    {
        "NVIDIA_GPU": AcceleratorDeviceClass("nvidia.com/gpu"),
        "GOOGLE_TPU": AcceleratorDeviceClass(
            "google.com/tpu", "cloud.google.com/gke-tpu-accelerator", "cloud.google.com/gke-tpu-topology"
        ),
        "AMAZON_NEURON": AcceleratorDeviceClass("aws.amazon.com/neuron"),
        "AMD_GPU": AcceleratorDeviceClass("amd.com/gpu"),
        "HABANA_GAUDI": AcceleratorDeviceClass("habana.ai/gaudi"),
    }
)


class K8sConfig(msgspec.Struct, frozen=True, rename="kebab"):
    """Section ``plugins.k8s``.

    Attributes:
        default_cpus: Requested when neither task nor platform says anything; ``default_memory`` likewise.
        default_env_vars_from_env: Variable in the container, to the variable of the engine's process it copies.
        resource_tolerations: Added to pods that request or limit the named resource.
        create_container_error_grace_period: How long a pod may wait with this reason before it has failed;
            the two grace periods after it likewise.
        pod_pending_timeout: How long a pod may be pending; 0 is for ever.
        enable_host_networking_pod: Set on every pod when not ``None``.
        add_tolerations_for_extended_resources: Resources whose name is tolerated as a taint when requested.
        default_pod_template_resync: Accepted and not used: pod templates are watched.
        send_object_events: Accepted and not used: events are always reported.
        update_base_backoff_duration: Milliseconds; with ``update_backoff_retries`` accepted and not used.
    """

    inject_finalizer: bool = False
    default_annotations: Mapping[str, str] = msgspec.field(
        default_factory=lambda: {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false"}
    )
    default_labels: Mapping[str, str] = {}
    default_env_vars: Mapping[str, str] = {}
    default_env_vars_from_env: Mapping[str, str] = {}
    default_env_from_configmaps: Sequence[str] = ()
    default_env_from_secrets: Sequence[str] = ()
    default_cpus: Annotated[str, QUANTITY] = "1000m"
    default_memory: Annotated[str, QUANTITY] = "1024Mi"
    default_tolerations: Tolerations = ()
    default_node_selector: Mapping[str, str] = {}
    default_affinity: Annotated[ApiObject, _api("Affinity")] | None = None
    scheduler_name: str = ""
    interruptible_tolerations: Tolerations = ()
    interruptible_node_selector: Mapping[str, str] = {}
    interruptible_node_selector_requirement: NodeSelectorRequirement | None = None
    non_interruptible_node_selector_requirement: NodeSelectorRequirement | None = None
    resource_tolerations: Mapping[str, Tolerations] = {}
    co_pilot: CopilotConfig = CopilotConfig()
    delete_resource_on_finalize: bool = False
    create_container_error_grace_period: Duration = Duration(180_000_000_000)
    create_container_config_error_grace_period: Duration = Duration()
    image_pull_backoff_grace_period: Duration = Duration(180_000_000_000)
    image_pull_policy: str = ""
    pod_pending_timeout: Duration = Duration()
    gpu_device_node_label: str = "k8s.amazonaws.com/accelerator"
    gpu_partition_size_node_label: str = "k8s.amazonaws.com/gpu-partition-size"
    gpu_unpartitioned_node_selector_requirement: NodeSelectorRequirement | None = None
    gpu_unpartitioned_toleration: Annotated[ApiObject, _api("Toleration")] | None = None
    gpu_resource_name: str = "nvidia.com/gpu"
    accelerator_devices: Mapping[str, str] = msgspec.field(default_factory=lambda: dict(DEFAULT_DEVICES))
    accelerator_device_classes: Mapping[str, AcceleratorDeviceClass] = msgspec.field(
        default_factory=lambda: dict(DEFAULT_DEVICE_CLASSES)
    )
    default_pod_security_context: Annotated[ApiObject, _api("PodSecurityContext")] | None = None
    default_security_context: Annotated[ApiObject, _api("SecurityContext")] | None = None
    default_pod_dns_config: Annotated[ApiObject, _api("PodDNSConfig")] | None = None
    enable_host_networking_pod: bool | None = None
    default_pod_template_name: str = ""
    default_pod_template_resync: Duration = Duration(30_000_000_000)
    send_object_events: bool = False
    update_base_backoff_duration: int = 10
    update_backoff_retries: int = 5
    add_tolerations_for_extended_resources: Sequence[str] = ()
    disable_inject_owner_references: bool = False


def decode_config(kind: type[T], mapping: Mapping[str, Any] | None, where: str) -> T:
    """A configuration section out of what YAML or JSON held.

    Args:
        kind: A Struct; nested Structs, lists, maps, enums, durations and Kubernetes objects are understood.
        mapping: ``None`` is an empty section.
        where: Dotted path of the section, for messages.

    Raises:
        ConfigError: keys are unknown or values have a wrong type; the message names each of them by its path.
    """
    problems: list[ConfigError] = []
    value = _decode(kind, {} if mapping is None else mapping, where, problems)
    if problems:
        first = problems[0]
        raise ConfigError(first.field, "; ".join([first.problem, *map(str, problems[1:])]))
    decoded: T = value
    return decoded


@cache
def _members(kind: type[msgspec.Struct]) -> dict[str, tuple[str, Any]]:
    """Key in the file, to the attribute and its type."""
    hints = get_type_hints(kind, include_extras=True)
    return {field.encode_name: (field.name, hints[field.name]) for field in msgspec.structs.fields(kind)}


def _decode(kind: Any, value: Any, path: str, problems: list[ConfigError]) -> Any:
    origin = get_origin(kind)
    if origin is Annotated:
        base, *marks = get_args(kind)
        return _decode_marked(base, marks, value, path, problems)
    if origin in (Union, types.UnionType):
        options = [option for option in get_args(kind) if option is not types.NoneType]
        return None if value is None else _decode(options[0], value, path, problems)
    if isinstance(kind, type) and issubclass(kind, Duration):
        return _decode_duration(value, path, problems)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return _decode_struct(kind, value, path, problems)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        try:
            return kind(value)
        except ValueError:
            return _refuse(problems, path, f"must be one of {', '.join(repr(e.value) for e in kind)}, is {value!r}")
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            return _refuse(problems, path, f"must be a map, is {_found(value)}")
        inner = get_args(kind)[1]
        return {_key(k, path, problems): _decode(inner, v, f"{path}.{k}", problems) for k, v in value.items()}
    if origin is not None and issubclass(origin, Sequence):
        if not isinstance(value, list | tuple):
            return _refuse(problems, path, f"must be a list, is {_found(value)}")
        inner = get_args(kind)[0]
        return tuple(_decode(inner, v, f"{path}[{index}]", problems) for index, v in enumerate(value))
    return _decode_scalar(kind, value, path, problems)


def _decode_scalar(kind: Any, value: Any, path: str, problems: list[ConfigError]) -> Any:
    if kind is Any or (isinstance(value, kind) and (kind is bool or not isinstance(value, bool))):
        return value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is Path and isinstance(value, str) and value:
        return Path(value)
    wanted = {str: "a string", bool: "true or false", int: "an integer", float: "a number", Path: "a path"}.get(
        kind, kind.__name__
    )
    return _refuse(problems, path, f"must be {wanted}, is {_found(value)}")


def _decode_duration(value: Any, path: str, problems: list[ConfigError]) -> Any:
    if not isinstance(value, str):
        return _refuse(problems, path, f"must be a duration such as 30s, is {_found(value)}")
    try:
        return Duration.parse(value)
    except ValueError as error:
        return _refuse(problems, path, str(error))


def _decode_marked(base: Any, marks: Sequence[Any], value: Any, path: str, problems: list[ConfigError]) -> Any:
    """A value with limits of its own, or one that is a quantity or an API object."""
    extra: Mapping[str, Any] = next((m.extra for m in marks if isinstance(m, msgspec.Meta) and m.extra), {})
    if "api" in extra:
        try:
            return apitypes.decode(value, schema.TYPES[extra["api"]])
        except apitypes.MismatchError as mismatch:
            return _refuse(problems, mismatch.within(path).path, mismatch.problem)
    if "quantity" in extra:
        value = str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
        decoded = _decode_scalar(str, value, path, problems)
        try:
            return None if decoded is None else quantities.settled(decoded)
        except quantities.QuantityError as error:
            return _refuse(problems, path, f"{value!r}: {error}")
    decoded = _decode(base, value, path, problems)
    if decoded is not None:
        try:
            msgspec.convert(decoded, Annotated[(base, *marks)])
        except msgspec.ValidationError as error:
            return _refuse(problems, path, str(error))
    return decoded


def _decode_struct(kind: type[msgspec.Struct], value: Any, path: str, problems: list[ConfigError]) -> Any:
    if not isinstance(value, Mapping):
        return _refuse(problems, path, f"must be a map, is {_found(value)}")
    members = _members(kind)
    arguments = {}
    known_problems = len(problems)
    for key, item in value.items():
        inner = f"{path}.{key}" if path else str(key)
        if key not in members:
            near = difflib.get_close_matches(str(key), members, n=1)
            _refuse(problems, inner, f"no such setting{f', did you mean {near[0]}?' if near else ''}")
        elif item is not None:
            name, hint = members[key]
            arguments[name] = _decode(hint, item, inner, problems)
    if len(problems) > known_problems:
        return None
    try:
        return kind(**arguments)
    except (TypeError, ValueError) as error:
        return _refuse(problems, path, str(error))


def _key(key: Any, path: str, problems: list[ConfigError]) -> Any:
    if not isinstance(key, str):
        _refuse(problems, path, f"has the key {key!r}, which is no string")
    return key


def _refuse(problems: list[ConfigError], path: str, problem: str) -> None:
    problems.append(ConfigError(path, problem))


def _found(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, Mapping):
        return "a map"
    return "a list" if isinstance(value, list | tuple) else repr(value)[:80]
