"""Building and reading an operator's objects: metadata of their pods, the rendered whole, typed partial decoding."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Generic, TypeVar

import msgspec

from propfan.pluginmachinery.config import K8sConfig
from propfan.pluginmachinery.contexts import TaskExecutionMetadata
from propfan.pluginmachinery.entries import SetupContext
from propfan.pluginmachinery.errors import DecodeError
from propfan.pluginmachinery.kubernetes_plugin import Kind, ObjectMeta, ObservedObject, RenderedObject
from propfan.pluginmachinery.podspec.build import PodSpecBuilder

T = TypeVar("T")
U = TypeVar("U")

NO_METADATA: Final = ObjectMeta()

_PLAIN_METADATA: Final = {"labels", "annotations"}


def pod_spec_builder(setup: SetupContext) -> PodSpecBuilder:
    """What turns tasks into the pods of a plugin's objects."""
    return PodSpecBuilder(
        setup.k8s,
        setup.pod_templates,
        storage=setup.storage,
        logger_level=setup.logger_level,
        process_env=setup.environment,
        workflow_id=setup.workflow_id,
    )


def pod_metadata(
    k8s: K8sConfig, execution: TaskExecutionMetadata, own: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Labels and annotations of a pod template: configured defaults, the task's ``own``, the execution's; the last wins.

    Empty members are left out.
    """
    own = own or {}
    labels = {**k8s.default_labels, **(own.get("labels") or {}), **execution.labels}
    annotations = {**k8s.default_annotations, **(own.get("annotations") or {}), **execution.annotations}
    return {name: value for name, value in (("labels", labels), ("annotations", annotations)) if value}


def object_meta(metadata: Mapping[str, Any]) -> ObjectMeta:
    """Metadata of an object that takes over those of a built pod."""
    if metadata.keys() <= _PLAIN_METADATA:
        return ObjectMeta(labels=metadata.get("labels") or {}, annotations=metadata.get("annotations") or {})
    return msgspec.convert(metadata, ObjectMeta)  # a pod template brought more


def identity(kind: Kind) -> RenderedObject:
    """What ``build_identity_resource`` returns."""
    return RenderedObject(kind.api_version, kind.kind, NO_METADATA, b"")


def render(kind: Kind, metadata: ObjectMeta, spec: Mapping[str, Any]) -> RenderedObject:
    """The object as the engine creates it; it has no status, which is the operator's to write.

    A variable that a container has twice is written once, in its first place and with its last value, which is the
    one that counts; of a port that it has twice the first is, and a secret to pull images with once. Kubernetes takes
    all that in Pods, but the definitions of operators do not.
    """
    return RenderedObject(kind.api_version, kind.kind, metadata, b'"spec":' + msgspec.json.encode(_unrepeated(spec)))


def _unrepeated(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {
            name: _UNREPEATED[name](inner) if name in _UNREPEATED and inner is not None else _unrepeated(inner)
            for name, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [_unrepeated(inner) for inner in value]
    return value


_Listed = Sequence[Mapping[str, Any]]


def _containers(listed: _Listed) -> _Listed:
    return [_container(container) for container in listed]


def _container(container: Mapping[str, Any]) -> Mapping[str, Any]:
    changed = dict(container)
    if env := container.get("env"):
        changed["env"] = list({variable["name"]: variable for variable in env}.values())
    if ports := container.get("ports"):
        kept: dict[tuple[int, str], Any] = {}
        for port in ports:
            kept.setdefault((port["containerPort"], port.get("protocol") or "TCP"), port)
        changed["ports"] = list(kept.values())
    return changed


def _secrets(listed: _Listed) -> _Listed:
    return list({secret.get("name", ""): secret for secret in listed}.values())


_UNREPEATED: Final[Mapping[str, Callable[[_Listed], _Listed]]] = {
    "containers": _containers,
    "initContainers": _containers,
    "imagePullSecrets": _secrets,
}
"""What to do with the members of pods of these names."""


def decode(decoder: msgspec.json.Decoder[T], resource: ObservedObject) -> T:
    """The part of an object that ``decoder`` knows.

    Raises:
        DecodeError: a field has another type than its operator writes.
    """
    try:
        return decoder.decode(resource.raw)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise DecodeError(str(resource), str(error)) from error


class SpecDecoder(Generic[T, U]):
    """Reads what of objects changes only with their generation; once, as long as it stays the same.

    Args:
        kind: The part to decode.
        derive: What to keep of it.
    """

    _KEPT: Final = 4096

    def __init__(self, kind: type[T], derive: Callable[[T, ObjectMeta], U]) -> None:
        self._decoder: msgspec.json.Decoder[T] = msgspec.json.Decoder(kind)
        self._derive = derive
        self._known: dict[tuple[str, int], U] = {}

    def decode(self, resource: ObservedObject) -> U:
        """Raises ``DecodeError``, as `decode`."""
        key = (resource.metadata.uid, resource.metadata.generation)
        found = self._known.get(key)
        if found is None:
            found = self._derive(decode(self._decoder, resource), resource.metadata)
            if all(key):  # else nothing says that it is the same object
                if len(self._known) >= self._KEPT:
                    del self._known[next(iter(self._known))]
                self._known[key] = found
        return found


class _WithStatus(msgspec.Struct, Generic[T], frozen=True, gc=False):
    status: T | None = None


class StatusDecoder(Generic[T]):
    """Reads the status of objects, mostly without a look at the rest, which is most of an object.

    API servers write an object's members by name, so that ``status`` comes last: all that follows the last
    ``"status":{``, but for the brace that ends the object, is one JSON object then, and only then.
    """

    _BEGIN: Final = b'"status":{'

    def __init__(self, kind: type[T]) -> None:
        self._status = msgspec.json.Decoder(kind)
        self._whole: msgspec.json.Decoder[_WithStatus[T]] = msgspec.json.Decoder(_WithStatus[kind])  # type: ignore[valid-type]

    def decode(self, resource: ObservedObject) -> T | None:
        """``None`` for an object that has no status.

        Raises:
            DecodeError: as `decode`.
        """
        raw = resource.raw
        begin = raw.rfind(self._BEGIN)
        if begin >= 0:
            try:
                return self._status.decode(raw[begin + len(self._BEGIN) - 1 : -1])
            except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
                pass  # it is not last, or the object is malformed: the whole says which
        return decode(self._whole, resource).status
