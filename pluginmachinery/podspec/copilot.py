"""Co-pilot: the containers that fetch the inputs and store the outputs of a raw container."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import msgspec

from propfan._speedups import quantities
from propfan.pluginmachinery.config import CopilotConfig, StorageConfig
from propfan.pluginmachinery.contexts import IOPaths, ResourceRequirements
from propfan.pluginmachinery.errors import PermanentError
from propfan.pluginmachinery.podspec.resources import STORAGE, printed

if TYPE_CHECKING:
    from flyteidl2.core.interface_pb2 import TypedInterface
    from flyteidl2.core.tasks_pb2 import DataLoadingConfig

_COMMAND: Final = "/bin/flyte-copilot"
_CONFIG_VOLUME: Final = "flyte-copilot-storage-config"
_CONFIG_PATH: Final = "/etc/flyte/copilot"
_FORMATS: Final = {0: "JSON", 1: "YAML", 2: "PROTO"}
"""``core.DataLoadingConfig.LiteralMapFormat``."""

_LAYOUTS: Final = {0: "DIRECT", 1: "NAMED_DIR"}
"""``core.DataLoadingConfig.FileInputLayout``."""

_READ_BY_ALL: Final = 0o444


class Copilot(msgspec.Struct, frozen=True):
    """How co-pilot containers are made here.

    Attributes:
        storage: The engine's own storage, which the co-pilot uses too unless configured otherwise.
        logger_level: Of the co-pilot; 3 is warnings.
    """

    config: CopilotConfig
    storage: StorageConfig
    logger_level: int

    def add_to(
        self,
        spec: dict[str, Any],
        primary: str,
        data: DataLoadingConfig,
        interface: TypedInterface | None,
        paths: IOPaths,
        resources: ResourceRequirements | None,
    ) -> None:
        """Let a pod read its inputs from, and leave its outputs in, local directories.

        Args:
            spec: Changed in place, at its top level only.
            resources: The execution's; its storage bounds the directories.

        Raises:
            PermanentError: the co-pilot's configuration can not be used; without a code.
        """
        has_inputs = interface is not None and len(interface.inputs.variables) > 0
        has_outputs = interface is not None and len(interface.outputs.variables) > 0
        config = self.config
        inputs = {"name": config.input_vol_name, "mountPath": data.input_path or config.default_input_path}
        outputs = {"name": config.output_vol_name, "mountPath": data.output_path or config.default_output_path}
        mounts, volumes = [], []
        if has_inputs:
            mounts.append(inputs)
            volumes.append(_volume(config.input_vol_name, resources))
        if has_outputs:
            mounts.append(outputs)
            volumes.append(_volume(config.output_vol_name, resources))
        containers = list(spec["containers"] or ())
        index = max(i for i, container in enumerate(containers) if container["name"] == primary)
        containers[index] = _prepare(containers[index], mounts)
        spec["containers"] = containers
        if interface is None or not volumes:
            return

        if secret := config.storage_config_secret_name:
            source = {"secret": {"name": secret}}
            volumes.insert(0, {"name": _CONFIG_VOLUME, "projected": {"sources": [source], "defaultMode": _READ_BY_ALL}})
        spec["volumes"] = [*(spec.get("volumes") or ()), *volumes]
        init = list(spec.get("initContainers") or ())
        if has_inputs:
            arguments = [
                "download",
                "--from-remote",
                paths.input,
                "--to-output-prefix",
                paths.output_prefix,
                "--to-local-dir",
                inputs["mountPath"],
                "--format",
                _FORMATS.get(data.format, str(data.format)),
                "--file-input-layout",
                _LAYOUTS.get(data.file_input_layout, str(data.file_input_layout)),
                "--input-interface",
                base64.b64encode(interface.inputs.SerializeToString()).decode(),
            ]
            init.append(self._container("downloader", arguments, inputs))
        if has_outputs:
            arguments = [
                "sidecar",
                "--timeout",
                str(config.timeout),
                "--to-raw-output",
                paths.raw_output_prefix,
                "--to-output-prefix",
                paths.output_prefix,
                "--from-local-dir",
                outputs["mountPath"],
                "--interface",
                base64.b64encode(interface.SerializeToString()).decode(),
            ]
            init.insert(0, {**self._container("uploader", arguments, outputs), "restartPolicy": "Always"})
            spec["terminationGracePeriodSeconds"] = int(config.timeout.seconds)
        spec["initContainers"] = init

    def _container(self, name: str, arguments: list[str], mount: Mapping[str, str]) -> dict[str, Any]:
        config = self.config
        try:
            resources = {"cpu": quantities.canonical(config.cpu), "memory": quantities.canonical(config.memory)}
        except quantities.QuantityError as error:
            raise PermanentError("", str(error)) from None
        mounts: list[Mapping[str, Any]] = [mount]
        if config.storage_config_secret_name:
            mounts.append({"name": _CONFIG_VOLUME, "mountPath": _CONFIG_PATH, "readOnly": True})
        container = {
            "name": config.name + name,
            "image": config.image,
            "command": self._command(),
            "args": arguments,
            "workingDir": "/",
            "resources": {"limits": resources, "requests": resources},
            "volumeMounts": mounts,
            "terminationMessagePolicy": "FallbackToLogsOnError",
            "imagePullPolicy": "IfNotPresent",
        }
        if not config.image:
            del container["image"]
        return container

    def _command(self) -> list[str]:
        override = self.config.storage_config_override
        storage = override or self.storage
        command = [_COMMAND, "--storage.limits.maxDownloadMBs=0", f"--logger.level={self.logger_level}"]
        if storage.enable_multicontainer:
            command.append("--storage.enable-multicontainer")
        if storage.container:
            command.append(f"--storage.container={storage.container}")
        command.append(f"--storage.type={storage.type}")
        if self.config.storage_config_secret_name:
            command += ["--config", f"{_CONFIG_PATH}/*.yaml"]
            if override is None:
                return command
        if not storage.stow.config or not storage.stow.kind:
            raise PermanentError("", "no stow.config or stow.kind specified")
        for entry in sorted(f"{key}={value}" for key, value in storage.stow.config.items()):
            command += ["--storage.stow.config", entry]
        return [*command, f"--storage.stow.kind={storage.stow.kind}"]


def _prepare(container: Mapping[str, Any], mounts: list[dict[str, str]]) -> dict[str, Any]:
    security = container.get("securityContext") or {}
    prepared = {**container, "securityContext": {"capabilities": {}, **security}}
    if mounts:
        prepared["volumeMounts"] = [*(container.get("volumeMounts") or ()), *mounts]
    return prepared


def _volume(name: str, resources: ResourceRequirements | None) -> dict[str, Any]:
    empty_dir = {}
    if resources is not None:
        size = resources.limits.get(STORAGE) or resources.requests.get(STORAGE)
        if size:
            empty_dir["sizeLimit"] = printed(size)
    return {"name": name, "emptyDir": empty_dir}
