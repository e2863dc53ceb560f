"""What a sensor is, and those that propfan has."""

from __future__ import annotations

import abc
from collections.abc import Awaitable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, TypeVar

import anyio.to_thread
import msgspec
from msgspec import Meta
from yarl import URL

from propfan.pluginmachinery.connector import Blob, Connection, ConnectorSetup
from propfan.pluginmachinery.errors import BadTaskSpecificationError, TransientError
from propfan.plugins.connectors.offered_secrets import OfferedSecrets
from propfan.plugins.connectors.placeholders import Placeholders, secret_names
from propfan.plugins.connectors.sensor.config import SECTION, SensorConfig

T = TypeVar("T")

MODULE: Final = "propfan.sensors"
"""What tasks call the module of propfan's own sensors, wherever it is."""

_NO_CONNECTION: Final = Connection()


class Look(msgspec.Struct, frozen=True):
    """What a sensor saw.

    Attributes:
        is_over: Whether what it waits for has happened.
        message: For people: how it stands.
    """

    is_over: bool
    message: str = ""


class Sensor(abc.ABC):
    """Waits for one kind of thing. Made anew for each look, so it keeps nothing.

    ::

        class RowsSensor(Sensor):
            async def poke(self, table: str, at_least: int = 1) -> bool:
                return await count(table) >= at_least

    Attributes:
        names: Pairs of module and name by which tasks may ask for it, beside its own.
        setup: What connectors are given; ``http`` asks only hosts that the configuration allows.
        config: What the task has as ``sensor_config``.
        connection: What the task brings to reach a service.
    """

    names: ClassVar[Sequence[tuple[str, str]]] = ()

    def __init__(self, setup: ConnectorSetup, config: Any = None, connection: Connection = _NO_CONNECTION) -> None:
        self.setup: Final = setup
        self.config: Final = config
        self.connection: Final = connection

    @abc.abstractmethod
    def poke(self, *args: Any, **inputs: Any) -> Awaitable[bool | Look]:
        """Looks once and does not wait. The parameters are the task's inputs, by name.

        Raises:
            PermanentError: it will never happen; the task fails with the message.
            TransientError: it can not be seen now; looked at again.
        """

    def check(self, *args: Any, **inputs: Any) -> None:
        """Called when the task begins, with what ``poke`` will get. Raises ``BadTaskSpecificationError``."""
        return

    def configured(self, shape: type[T]) -> T:
        """``config`` as a Struct; its defaults when there is none.

        Raises:
            BadTaskSpecificationError: a value is missing or of another type; the message says which.
        """
        try:
            return msgspec.convert({} if self.config is None else self.config, shape)
        except msgspec.ValidationError as error:
            raise BadTaskSpecificationError(f"sensor_config of {type(self).__name__}: {error}") from None


class FileSensor(Sensor):
    """Until there is a file, a folder of the machine, or an object of a store; flytekit's of the same name."""

    names = (
        (MODULE, "FileSensor"),
        ("flytekit.sensor.file_sensor", "FileSensor"),
        ("flytekit.sensor", "FileSensor"),
    )

    def check(self, path: Any) -> None:
        uri = _uri(path)
        if _is_web(uri):
            return
        if not uri.startswith("/") and "://" not in uri:
            way_out = "give an absolute path or a URI such as s3://bucket/key"
            raise BadTaskSpecificationError(f"input 'path': '{uri}' is relative, to nothing that is known: {way_out}")
        if ".." in uri.split("/"):
            raise BadTaskSpecificationError(f"input 'path': '{uri}' has '..': write the path that is meant")
        if not uri.startswith("/") and uri.endswith("/"):
            problem = "stores have objects and no folders: name an object, such as the _SUCCESS that is written last"
            raise BadTaskSpecificationError(f"input 'path': '{uri}': {problem}")
        allowed = self.setup.section(SECTION, SensorConfig).paths
        if allowed and not any(_is_below(uri, each) for each in allowed):
            raise BadTaskSpecificationError(f"input 'path': '{uri}' is not below connectors.{SECTION}.paths")

    async def poke(self, path: Any) -> Look:
        self.check(path)
        uri = _uri(path)
        if _is_web(uri):
            return await HttpSensor(self.setup).poke(uri)
        found = await self.setup.store.size(uri.rstrip("/") or "/")
        if found is None and uri.startswith("/") and await anyio.to_thread.run_sync(Path(uri).is_dir):
            return Look(is_over=True, message=f"{uri} is there, a folder")
        if found is None:
            return Look(is_over=False, message=f"{uri} is not there")
        return Look(is_over=True, message=f"{uri} is there, {found} bytes")


class HttpWatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``sensor_config`` of ``HttpSensor``.

    Attributes:
        url: Where the task has no input ``url``.
        statuses: Those that are waited for; empty for any from 200 to 299.
        headers: Values may have ``{secrets.name}``.
        contains: A text that the answer must have besides.
    """

    url: str = ""
    method: Literal["GET", "HEAD", "POST"] = "GET"
    headers: Mapping[str, str] = {}
    statuses: Sequence[Annotated[int, Meta(ge=100, le=599)]] = ()
    contains: str = ""


class HttpSensor(Sensor):
    """Until a URL answers as it should; while nobody answers it waits."""

    names = ((MODULE, "HttpSensor"),)

    def check(self, url: str = "") -> None:
        watch = self.configured(HttpWatch)
        names = secret_names(watch.headers)
        _headers(watch, dict.fromkeys(names, ""))
        try:
            asked = URL(url or watch.url)
        except (ValueError, TypeError):
            asked = URL()
        if asked.scheme not in ("http", "https") or not asked.raw_host:
            problem = "is no URL with http:// or https:// and a host"
            raise BadTaskSpecificationError(f"input 'url' (or 'url' of sensor_config) {problem}")
        self._secrets().check(names, asked.raw_host.lower(), self.connection)

    async def poke(self, url: str = "") -> Look:
        self.check(url)
        watch = self.configured(HttpWatch)
        secrets = await self._secrets().values(secret_names(watch.headers), self.connection, self.setup.secrets)
        headers = _headers(watch, secrets)
        try:
            answer = await self.setup.http.request(watch.method, url or watch.url, headers=headers)
        except TransientError as error:
            return Look(is_over=False, message=error.message)
        is_wanted = answer.status in watch.statuses if watch.statuses else answer.is_success
        told = f"{answer.url} answers status {answer.status}"
        if is_wanted and watch.contains not in answer.text():
            return Look(is_over=False, message=f"{told}, without the text that is waited for")
        return Look(is_over=is_wanted, message=told)

    def _secrets(self) -> OfferedSecrets:
        return OfferedSecrets(self.setup.section(SECTION, SensorConfig).secrets, f"connectors.{SECTION}.secrets")


def _headers(watch: HttpWatch, secrets: Mapping[str, str]) -> Mapping[str, str]:
    """With secrets, and no inputs: those of a sensor are what ``poke`` takes."""
    headers: Mapping[str, str] = Placeholders({"inputs": {}, "secrets": secrets}).filled(
        watch.headers, "sensor_config.headers"
    )
    return headers


class TimeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``sensor_config`` of ``TimeSensor``: where the task has no input ``until``."""

    until: str = ""


class TimeSensor(Sensor):
    """Until a time has come: a datetime, or a text in ISO 8601; UTC where it has no zone."""

    names = ((MODULE, "TimeSensor"),)

    def check(self, until: str | datetime = "") -> None:
        self._until(until)

    async def poke(self, until: str | datetime = "") -> Look:
        moment = self._until(until)
        left_s = (moment - self.setup.now()).total_seconds()
        if left_s <= 0:
            return Look(is_over=True, message=f"it is {moment.isoformat()}")
        return Look(is_over=False, message=f"waits until {moment.isoformat()}")

    def _until(self, given: str | datetime) -> datetime:
        value = given or self.configured(TimeConfig).until
        try:
            moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
        except (ValueError, TypeError):
            problem = "is no time such as 2030-01-31T12:00:00Z"
            raise BadTaskSpecificationError(f"input 'until' (or 'until' of sensor_config) {problem}") from None
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


OWN: Final = (FileSensor, HttpSensor, TimeSensor)


def _uri(path: Any) -> str:
    """A path of this machine without its scheme."""
    uri = path.uri if isinstance(path, Blob) else path
    if not isinstance(uri, str) or not uri:
        raise BadTaskSpecificationError(f"input 'path' must be a path or a URI, is a {type(path).__name__}")
    scheme, separator, rest = uri.partition("://")
    if separator and scheme.lower() == "file":
        return "/" + rest.removeprefix("localhost").lstrip("/")
    return f"{scheme.lower()}://{rest}" if separator else uri


def _is_web(uri: str) -> bool:
    return uri.startswith(("http://", "https://"))


def _is_below(uri: str, folder: str) -> bool:
    root = _uri(folder).rstrip("/")
    return uri == root or uri.startswith(root + "/")
