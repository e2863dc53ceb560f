"""The sensor connector, with real files and a real HTTP server."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest
from aiohttp import web
from flyteidl2.core import literals_pb2

from propfan.engine.storage import ObjectStore, S3Config, StorageConfig
from propfan.pluginmachinery.connector import (
    Blob,
    Connection,
    ConnectorSetup,
    HttpResponse,
    JobContext,
    RemotePhase,
    Resource,
    TaskRequest,
    resources,
    values,
)
from propfan.pluginmachinery.errors import BadTaskSpecificationError, ConfigError, StorageError, TransientError
from propfan.pluginmachinery.testing import (
    ConnectorContract,
    FakeHttp,
    HttpCall,
    InMemoryStore,
    JobStory,
    connector_setup,
    connector_task,
    http_answer,
    task_template,
)
from propfan.plugins.connectors.sensor.connector import SensorConnector, SensorMeta
from tests.unit.engine.s3_server import create_bucket, s3_server
from tests.unit.plugins.connectors.receivers import Receiver, http_client, receiving

pytestmark = pytest.mark.anyio

FLYTEKIT = ("flytekit.sensor.file_sensor", "FileSensor")
OWN = "propfan.sensors"
WAITING = "tests.unit.plugins.connectors.sensor.waiting"
NOW = datetime(2030, 6, 1, 12, tzinfo=UTC)


def sensor(
    module: str, name: str, given: Mapping[str, Any] | None = None, /, config: Any = None, **more: Any
) -> TaskRequest:
    """As flytekit writes it, with its nulls."""
    custom = {"sensor_module": module, "sensor_name": name, "sensor_config": config, "inputs": None, **more}
    made = values.to_outputs("tests", given or {}).literals
    literals = literals_pb2.LiteralMap(literals={each.name: each.value for each in made})
    return connector_task(task_template("sensor", custom=custom), literals)


def with_secret(url: str) -> TaskRequest:
    task = sensor(OWN, "HttpSensor", {"url": url}, {"headers": {"authorization": "{secrets.token}"}})
    return msgspec.structs.replace(task, connection=Connection({"token": "s3cret"}))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def looked(connector: SensorConnector, task: TaskRequest) -> Resource:
    """One look, by what the meta says."""
    content = resources.encode_meta(connector.name, await connector.create(task))
    job = JobContext(connection=task.connection)
    return await connector.get(resources.decode_meta(connector.name, SensorMeta, content), job)


def of(setup: ConnectorSetup | None = None, /, **section: Any) -> SensorConnector:
    base = setup or connector_setup()
    return SensorConnector(
        connector_setup(http=base.http, store=base.store, now=lambda: NOW, sections={"sensor": section})
    )


class TestContract(ConnectorContract):
    connector_class = SensorConnector
    stories: ClassVar[Sequence[JobStory]] = (
        JobStory(
            "sees an answer that needs a secret", with_secret("http://service.example/ready"), RemotePhase.SUCCEEDED
        ),
        JobStory("sees an object", sensor(*FLYTEKIT, {"path": "memory:///there"}), RemotePhase.SUCCEEDED),
        JobStory(
            "sees an answer",
            sensor(OWN, "HttpSensor", {"url": "http://service.example/ready"}),
            RemotePhase.SUCCEEDED,
            message="http://service.example/ready answers status 200",
        ),
        JobStory(
            "is over", sensor(OWN, "TimeSensor", {"until": datetime(2020, 1, 1, tzinfo=UTC)}), RemotePhase.SUCCEEDED
        ),
        JobStory(
            "will never see it",
            sensor(OWN, "HttpSensor", {"url": "http://169.254.169.254/"}),
            RemotePhase.FAILED,
            message="where clouds tell machines their credentials",
        ),
    )

    @pytest.fixture
    async def setup_ctx(self, anyio_backend: str) -> ConnectorSetup:
        store = InMemoryStore()
        await store.put("memory:///there", b"x")

        def answer(call: HttpCall) -> HttpResponse:
            return http_answer(200 if call.headers.get("authorization", "s3cret") == "s3cret" else 401)

        return connector_setup(http=FakeHttp(answer), store=store)


async def test_flytekits_file_sensor_waits_for_a_file(tmp_path: Path) -> None:
    connector = of(connector_setup(store=ObjectStore()))
    path = tmp_path / "new.txt"
    for written in (str(path), f"file://{path}", f"FILE://localhost{path}"):
        path.unlink(missing_ok=True)
        task = sensor(*FLYTEKIT, {"path": written})
        resource = await looked(connector, task)
        assert (resource.phase, resource.message) == (RemotePhase.RUNNING, f"{path} is not there")
        path.write_text("12345")
        resource = await looked(connector, task)
        assert (resource.phase, resource.message) == (RemotePhase.SUCCEEDED, f"{path} is there, 5 bytes")
        assert resource.outputs is None


async def test_flytekits_file_sensor_waits_for_an_object_of_s3() -> None:
    with s3_server() as endpoint:
        create_bucket(endpoint, "inputs")
        section = S3Config(endpoint=endpoint, access_key_id="id", secret_access_key="secret", region="us-east-1")
        store = ObjectStore(StorageConfig(s3=section, max_retries=0))
        connector = of(connector_setup(store=store))
        task = sensor(*FLYTEKIT, {"path": "s3://inputs/day/_SUCCESS"})
        assert (await looked(connector, task)).phase is RemotePhase.RUNNING
        await store.put("s3://inputs/day/_SUCCESS", b"")
        resource = await looked(connector, task)
        assert resource.message == "s3://inputs/day/_SUCCESS is there, 0 bytes"
        with pytest.raises(StorageError, match="no-such-bucket"):
            await looked(connector, sensor(*FLYTEKIT, {"path": "s3://no-such-bucket/x"}))


async def test_a_folder_is_there_as_well(tmp_path: Path) -> None:
    connector = of(connector_setup(store=ObjectStore()))
    for written in (str(tmp_path), f"{tmp_path}/", f"file://{tmp_path}/"):
        assert (await looked(connector, sensor(*FLYTEKIT, {"path": written}))).phase is RemotePhase.SUCCEEDED


async def test_a_file_may_come_as_a_file(tmp_path: Path) -> None:
    connector = of(connector_setup(store=ObjectStore()))
    task = sensor(*FLYTEKIT, {"path": Blob(str(tmp_path))})
    assert (await looked(connector, task)).phase is RemotePhase.SUCCEEDED


async def test_files_outside_of_the_stores_root_are_not_seen(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "folder").mkdir()
    store = ObjectStore(StorageConfig(file_root=str(tmp_path / "root")))
    with pytest.raises(StorageError, match="outside of the file store's root"):
        await looked(of(connector_setup(store=store)), sensor(*FLYTEKIT, {"path": str(tmp_path / "folder")}))


async def test_objects_are_seen_below_the_allowed_paths_only() -> None:
    store = InMemoryStore()
    connector = of(connector_setup(store=store), paths=["memory:///in/", "s3://bucket/a", "file:///data"])
    await store.put("memory:///in/x", b"")
    assert (await looked(connector, sensor(*FLYTEKIT, {"path": "memory:///in/x"}))).phase is RemotePhase.SUCCEEDED
    for path in ("memory:///into/x", "s3://bucket/ab", "S3://bucket/b", "/data2/x", "/data/../etc/passwd", "s3://b"):
        with pytest.raises(BadTaskSpecificationError, match=r"is not below connectors\.sensor\.paths|has '\.\.'"):
            await connector.create(sensor(*FLYTEKIT, {"path": path}))
    for path in ("/data/x", "FILE:///data/x", "s3://bucket/a/b", "s3://bucket/a"):
        await connector.create(sensor(*FLYTEKIT, {"path": path}))


async def test_the_http_sensor_waits_for_the_answer_that_it_wants() -> None:
    answers = iter([503, 404, 200])
    receiver = Receiver(lambda _: web.Response(status=next(answers), text="ready: no"))
    async with http_client() as http:
        connector = of(connector_setup(http=http), hosts={"allow-loopback": True})
        async with receiving(receiver):
            task = sensor(OWN, "HttpSensor", {"url": f"{receiver.url}/x?token=t"}, {"headers": {"X-A": "b"}})
            phases = [(await looked(connector, task)).phase for _ in range(3)]
            assert phases == [RemotePhase.RUNNING, RemotePhase.RUNNING, RemotePhase.SUCCEEDED]
            assert receiver.last.headers["x-a"] == "b"
            receiver.answer = lambda _: web.Response(status=404, text="ready: no")
            gone = sensor(OWN, "HttpSensor", config={"url": receiver.url, "statuses": [404, 410], "method": "HEAD"})
            assert (await looked(connector, gone)).phase is RemotePhase.SUCCEEDED
            texts = sensor(OWN, "HttpSensor", config={"url": receiver.url, "statuses": [404], "contains": "ready: yes"})
            resource = await looked(connector, texts)
            assert resource.message == f"{receiver.url} answers status 404, without the text that is waited for"
            receiver.answer = lambda _: web.Response(status=404, text="ready: yes")
            assert (await looked(connector, texts)).phase is RemotePhase.SUCCEEDED
            file = sensor(*FLYTEKIT, {"path": f"{receiver.url}/x"})
            assert (await looked(connector, file)).phase is RemotePhase.RUNNING
        resource = await looked(connector, task)
        assert resource.phase is RemotePhase.RUNNING
        assert "Cannot connect" in resource.message
        assert "token" not in resource.message


async def test_the_http_sensor_sends_secrets_to_their_hosts_only() -> None:
    headers = {"headers": {"Authorization": "Bearer {secrets.token}"}}
    receiver = Receiver()
    async with http_client() as http, receiving(receiver):
        base = connector_setup(http=http)
        open_ = {"hosts": {"allow-loopback": True}}
        task = sensor(OWN, "HttpSensor", {"url": receiver.url}, headers)
        with pytest.raises(BadTaskSpecificationError, match=r"offer it to hosts in connectors\.sensor\.secrets\.token"):
            await of(base, **open_).create(task)
        with pytest.raises(BadTaskSpecificationError, match=r"host is none that \{secrets\.token\} is for"):
            await of(base, **open_, secrets={"token": ["example.com"]}).create(task)
        offered = SensorConnector(
            connector_setup(
                http=http,
                secrets={"token": "offered"},
                sections={"sensor": {**open_, "secrets": {"token": ["127.0.0.1"]}}},
            )
        )
        assert (await looked(offered, task)).phase is RemotePhase.SUCCEEDED
        assert receiver.last.headers["authorization"] == "Bearer offered"
        brought = msgspec.structs.replace(task, connection=Connection({"token": "brought"}))
        assert (await looked(of(base, **open_), brought)).phase is RemotePhase.SUCCEEDED
        assert receiver.last.headers["authorization"] == "Bearer brought"


async def test_hosts_that_may_not_be_asked_fail_the_task() -> None:
    async with http_client() as http:
        resource = await looked(
            of(connector_setup(http=http)), sensor(OWN, "HttpSensor", {"url": "http://localhost:1"})
        )
    assert resource.phase is RemotePhase.FAILED
    assert "connectors.sensor.hosts.allow-loopback is not set" in resource.message


@pytest.mark.parametrize(
    ("until", "phase"),
    [
        (NOW, RemotePhase.SUCCEEDED),
        (NOW + timedelta(seconds=1), RemotePhase.RUNNING),
        ("2030-06-01T12:00:00Z", RemotePhase.SUCCEEDED),
        ("2030-06-01T12:00:01", RemotePhase.RUNNING),
        ("2030-06-01T14:00:00+02:00", RemotePhase.SUCCEEDED),
    ],
)
async def test_the_time_sensor_waits_until_a_time(until: Any, phase: RemotePhase) -> None:
    assert (await looked(of(), sensor(OWN, "TimeSensor", {"until": until}))).phase is phase
    if isinstance(until, str):
        assert (await looked(of(), sensor(OWN, "TimeSensor", config={"until": until}))).phase is phase


async def test_a_module_that_nobody_named_is_not_imported() -> None:
    connector = of()
    for module, name in (("antigravity", "Sensor"), ("os", "system"), (WAITING, "Counting"), ("builtins", "object")):
        with pytest.raises(
            BadTaskSpecificationError, match=r"name the module in connectors\.sensor\.modules"
        ) as caught:
            await connector.create(sensor(module, name))
        assert "propfan.sensors:FileSensor" in str(caught.value)
    assert "antigravity" not in sys.modules


async def test_sensors_of_a_named_module_are_poked() -> None:
    connector = of(modules=[WAITING])
    task = sensor(WAITING, "Counting", {"n": 2})
    assert (await looked(connector, task)).message == "2 of 3"
    enough = sensor(WAITING, "Counting", {"n": 2}, inputs={"n": 7, "at_least": 2})
    resource = await looked(connector, enough)
    assert (resource.phase, resource.message) == (RemotePhase.SUCCEEDED, "2 of 2")
    assert resource.custom_info == {"sensor": f"{WAITING}:Counting"}


async def test_a_sensor_made_as_flytekits_are_gets_what_it_would_get_there() -> None:
    connector = of(modules=[WAITING])
    inputs = {"path": Blob("s3://bucket/x"), "since": datetime(2030, 1, 1, tzinfo=UTC)}
    for path, phase in (("s3://bucket/x", RemotePhase.SUCCEEDED), ("s3://bucket/y", RemotePhase.RUNNING)):
        resource = await looked(connector, sensor(WAITING, "LikeFlytekits", inputs, {"path": path}))
        assert resource.phase is phase


async def test_a_plain_poke_runs_in_a_thread() -> None:
    resource = await looked(of(modules=[WAITING]), sensor(WAITING, "Blocking"))
    assert resource.phase is RemotePhase.SUCCEEDED


async def test_how_a_look_fails_is_how_the_task_does() -> None:
    connector = of(modules=[WAITING], **{"poke-timeout-s": 0.01})
    resource = await looked(connector, sensor(WAITING, "Counting", {"n": -1}))
    assert (resource.phase, resource.message) == (RemotePhase.FAILED, "it will never be")
    with pytest.raises(TransientError, match="not now"):
        await looked(connector, sensor(WAITING, "Counting", {"n": -2}))
    with pytest.raises(TransientError, match=r"no look within 0\.01 s \(connectors\.sensor\.poke-timeout-s\)"):
        await looked(connector, sensor(WAITING, "Counting", {"n": -3}))


async def test_another_sensor_stands_in_for_a_class_of_a_task() -> None:
    connector = of(names={"acme.workflows:Until": "propfan.sensors:TimeSensor"})
    assert (await looked(connector, sensor("acme.workflows", "Until", {"until": NOW}))).phase is RemotePhase.SUCCEEDED


async def test_sensors_of_installed_distributions_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    group = "propfan.sensors"
    points = metadata.EntryPoints(
        metadata.EntryPoint(name, f"{WAITING}:{name}", group) for name in ("Counting", "NoSensor", "Missing")
    )
    monkeypatch.setattr(metadata, "entry_points", points.select)
    connector = of()
    assert (await looked(connector, sensor(WAITING, "Counting", {"n": 3}))).phase is RemotePhase.SUCCEEDED
    with pytest.raises(BadTaskSpecificationError):
        await connector.create(sensor(WAITING, "Blocking"))


@pytest.mark.parametrize(
    ("task", "problem"),
    [
        (sensor(*FLYTEKIT, {"path": "data/x"}), "'data/x' is relative"),
        (sensor(*FLYTEKIT, {"path": ""}), "input 'path' must be a path or a URI"),
        (sensor(*FLYTEKIT, {"path": 7}), "input 'path' must be a path or a URI, is a int"),
        (sensor(*FLYTEKIT, {"path": "s3://bucket/folder/"}), "stores have objects and no folders"),
        (sensor(*FLYTEKIT), "not those of FileSensor.poke: missing a required argument: 'path'"),
        (sensor(*FLYTEKIT, {"path": "/x", "more": 1}), "got an unexpected keyword argument 'more'"),
        (sensor(OWN, "HttpSensor"), "input 'url'"),
        (sensor(OWN, "HttpSensor", {"url": "file:///etc/passwd"}), "is no URL with http"),
        (sensor(OWN, "HttpSensor", {"url": "http://[x"}), "is no URL with http"),
        (
            sensor(OWN, "HttpSensor", {"url": "http://x"}, {"statuses": ["ok"]}),
            "sensor_config of HttpSensor: Expected `int`",
        ),
        (
            sensor(OWN, "HttpSensor", {"url": "http://x"}, {"headers": {"a": "{inputs.n}"}}),
            r"sensor_config\.headers\.\S+: there is no 'inputs\.n'; inputs are: none",
        ),
        (sensor(OWN, "TimeSensor", {"until": "soon"}), "is no time such as"),
        (sensor(OWN, "TimeSensor"), "is no time such as"),
        (sensor(WAITING, "NoSensor"), r"the module has no class 'NoSensor' with poke\(\)"),
        (sensor(WAITING, "poke"), r"the module has no class 'poke' with poke\(\)"),
        (sensor("", "x"), r"at `\$\.sensor_module`"),
    ],
)
async def test_what_can_not_be_waited_for_is_refused(task: TaskRequest, problem: str) -> None:
    with pytest.raises(BadTaskSpecificationError, match=problem) as caught:
        await of(modules=[WAITING]).create(task)
    assert str(caught.value).startswith("[BadTaskSpecification] task 'sample' (sensor): ")


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        ({"modules": ["no.such.module"]}, r"connectors\.sensor\.modules: no\.such\.module can not be imported"),
        ({"names": {"a:B": "propfan.sensors:Nothing"}}, r"connectors\.sensor\.names\.a:B: there is no sensor"),
        ({"names": {"a.B": "propfan.sensors:FileSensor"}}, "'a.B' must be written as module:name"),
    ],
)
def test_a_wrong_section_is_told_when_the_service_starts(section: Mapping[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        of(**section)
