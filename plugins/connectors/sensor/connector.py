"""Runs tasks of type ``sensor``, as flytekit's ``BaseSensor`` makes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

import anyio
import msgspec
from flyteidl2.task import common_pb2
from google.protobuf.message import DecodeError as ProtobufDecodeError
from msgspec import Meta

from propfan.pluginmachinery.connector import (
    AsyncConnector,
    Connection,
    ConnectorSetup,
    JobContext,
    RemotePhase,
    Resource,
    ResourceMeta,
    TaskCategory,
    TaskRequest,
    values,
)
from propfan.pluginmachinery.errors import BadTaskSpecificationError, DecodeError, PermanentError, TransientError
from propfan.plugins.connectors.sensor.config import SECTION, SensorConfig
from propfan.plugins.connectors.sensor.known import KnownSensors, Poking

Name = Annotated[str, Meta(min_length=1, max_length=1000)]


class SensorSpec(msgspec.Struct, frozen=True):
    """``custom`` of a task.

    Attributes:
        inputs: Of the sensor, beside those of the task, which go before them.
    """

    sensor_module: Name
    sensor_name: Name
    sensor_config: Any = None
    inputs: Mapping[str, Any] | None = None


class SensorMeta(ResourceMeta, frozen=True):
    """All that a look needs: nothing is kept anywhere else.

    Attributes:
        literals: The task's inputs (``flyteidl2.task.Inputs``), with their types.
    """

    module: str
    name: str
    config: Any = None
    inputs: Mapping[str, Any] = {}
    literals: bytes = b""


class SensorConnector(AsyncConnector[SensorMeta]):
    """Each look pokes the sensor once; there is no job anywhere, so creating and deleting leave nothing behind."""

    name = "Sensor"
    categories = (TaskCategory("sensor"),)
    meta_type = SensorMeta

    def __init__(self, setup: ConnectorSetup) -> None:
        """Raises ``ConfigError`` when the section is wrong, or a module that it names can not be imported."""
        super().__init__(setup)
        self._config: Final = setup.section(SECTION, SensorConfig)
        restricted = setup.http.restricted(self._config.hosts.rule(f"connectors.{SECTION}.hosts"))
        self._sensors_setup: Final = msgspec.structs.replace(setup, http=restricted)
        self._known: Final = KnownSensors(self._config)

    async def create(self, task: TaskRequest) -> SensorMeta:
        spec = task.custom(SensorSpec)
        meta = SensorMeta(
            module=spec.sensor_module,
            name=spec.sensor_name,
            config=spec.sensor_config,
            inputs=spec.inputs or {},
            literals=task.literals.SerializeToString(deterministic=True),
        )
        try:
            self._poking(meta, task.connection).check()
        except BadTaskSpecificationError as error:
            raise BadTaskSpecificationError(f"task '{task.template.id.name}' (sensor): {error.message}") from None
        return meta

    async def get(self, meta: SensorMeta, job: JobContext) -> Resource:
        poking = self._poking(meta, job.connection)
        info = {"sensor": f"{meta.module}:{meta.name}"}
        look, limit_s = None, self._config.poke_timeout_s
        try:
            with anyio.move_on_after(limit_s):
                look = await poking.poke()
        except PermanentError as error:
            return Resource(RemotePhase.FAILED, error.message, custom_info=info)
        if look is None:
            setting = f"connectors.{SECTION}.poke-timeout-s"
            raise TransientError("", f"sensor {meta.name}: no look within {limit_s:g} s ({setting})")
        phase = RemotePhase.SUCCEEDED if look.is_over else RemotePhase.RUNNING
        return Resource(phase, look.message or ("" if look.is_over else "waits"), custom_info=info)

    async def delete(self, meta: SensorMeta, job: JobContext) -> None:
        """There is nothing to cancel: who does not look does not wait."""

    def _poking(self, meta: SensorMeta, connection: Connection) -> Poking:
        """Raises ``BadTaskSpecificationError`` when no such sensor takes such inputs, ``DecodeError`` without inputs."""
        kind = self._known.named(meta.module, meta.name)
        try:
            literals = common_pb2.Inputs.FromString(meta.literals)
        except ProtobufDecodeError as error:
            raise DecodeError(f"resource meta for connector '{self.name}'", f"literals: {error}") from error
        inputs = {**meta.inputs, **values.to_natives(literals)}
        return Poking(kind, self._sensors_setup, meta.config, inputs, connection)
