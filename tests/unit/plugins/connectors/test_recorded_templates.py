"""Tasks as the SDKs' plugins serialise them are taken by a native connector: it asks its service, which is away."""

from __future__ import annotations

import inspect
import json
import socket
import sqlite3
import sys
import types
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final

import anyio.to_thread
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from flyteidl2.core import literals_pb2, types_pb2

from propfan.pluginmachinery.connector import (
    AsyncConnector,
    Blob,
    Connector,
    ConnectorRegistry,
    ConnectorSetup,
    TaskRequest,
)
from propfan.pluginmachinery.connector import registry as registries
from propfan.pluginmachinery.connector.values import to_outputs
from propfan.pluginmachinery.errors import BadTaskSpecificationError, ConnectorNotFoundError, TransientError
from propfan.pluginmachinery.testing import connector_setup, connector_task
from propfan.plugins.connectors.sensor import Look, Sensor
from tests.peers.sdk_templates.recorded import Recorded, recorded

pytestmark = pytest.mark.anyio

OPERATORS: Final = {"spark", "ray", "dask", "pytorch", "python-task", "tensorflow", "mpi", "clustered-task"}
"""Run by plugins of the engine."""

NOT_NATIVE: Final = {
    "sagemaker-hyperparameter-tuning-job",
    "sagemaker-inference-recommender-job",
    "sagemaker-processing-job",
    "sagemaker-processing-task",
    "sagemaker-training-job",
    "sagemaker-training-task",
    "sagemaker-transform-job",
}
"""For connectors that users bring; docs/connectors/aws.md says so."""

REFUSED: Final = {"flyte1-databricks-federation": r"custom\.databricksAuthType is 'oidc_federation'; known here are"}
"""What a native connector does not do, and how it says so."""

TEMPLATES: Final = [one for one in recorded() if one.message.type not in OPERATORS | NOT_NATIVE]

MEANT: Final = {"path": "/x", "region": "us-east-2"}
"""Inputs that are not just any text."""


class BucketSensor(Sensor):
    """In the place of the user's own."""

    async def poke(self, key: str, minimum: int) -> Look:
        return Look(is_over=True)


@pytest.fixture(scope="module")
def secrets() -> Mapping[str, str]:
    """Those of the service; tasks that name their own bring the same."""
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    made = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    key = made.private_bytes(encoding, form, serialization.NoEncryption()).decode()
    account = {
        "type": "service_account",
        "project_id": "proj",
        "private_key": key,
        "client_email": "a@proj.iam.gserviceaccount.com",
        "token_uri": "https://oauth2.googleapis.com/token",
    }
    return {
        "aws_access_key_id": "id",
        "aws_secret_access_key": "secret",
        "FLYTE_OPENAI_API_KEY": "sk-1",
        "openai/api_key": "sk-1",
        "FLYTE_SLURM_PRIVATE_KEY": key,
        "FLYTE_DATABRICKS_ACCESS_TOKEN": "token",
        "databricks_token": "token",
        "databricks-team-a/token": "token",
        "databricks-oauth/client_id": "client",
        "databricks-oauth/client_secret": "secret",
        "google_application_credentials": json.dumps(account),
        "snowflake_private_key": key,
        "db/password": "secret",
    }


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A port that refuses connections, on a machine that can look no names up."""
    known = socket.getaddrinfo

    def look_up(host: Any, *more: Any, **others: Any) -> Any:
        if host in (None, "127.0.0.1", "localhost", "::1"):
            return known(host, *more, **others)
        raise socket.gaierror(socket.EAI_AGAIN, f"there is no network here to look {host!r} up")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    with socket.socket() as bound:  # but not listening
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@pytest.fixture
def setup_ctx(
    nowhere: int, secrets: Mapping[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> ConnectorSetup:
    sensors = types.ModuleType("flyte1_connector_tasks")  # as the recorded task names it
    sensors.__dict__["BucketSensor"] = BucketSensor
    monkeypatch.setitem(sys.modules, sensors.__name__, sensors)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "id_rsa").write_text(secrets["FLYTE_SLURM_PRIVATE_KEY"])
    monkeypatch.chdir(tmp_path)
    with closing(sqlite3.connect("file.db")) as database:
        database.execute("create table t (n integer)")
    (tmp_path / "ssh_config").write_text(f"Host *\n  HostName 127.0.0.1\n  Port {nowhere}\n")
    url = f"http://127.0.0.1:{nowhere}"
    return connector_setup(
        secrets=secrets,
        sections={
            "aws": {"endpoint-url": url, "region": "us-east-2", "attempts": 1, "credentials": "secrets"},
            "databricks": {
                "token-secrets": ["databricks-team-a", "databricks-oauth"],
                "instances": ["acc.cloud.databricks.com"],
            },
            "openai": {"base-url": url},
            "sensor": {"modules": [sensors.__name__]},
            "slurm": {"ssh-config": str(tmp_path / "ssh_config"), "insecure-skip-host-keys": True},
            "sqlalchemy": {"sqlite-folders": [str(tmp_path)]},
        },
    )


def inputs_of(one: Recorded) -> literals_pb2.LiteralMap:
    """A value for each input, of its type."""
    simple = {
        types_pb2.INTEGER: 3,
        types_pb2.FLOAT: 0.5,
        types_pb2.BOOLEAN: True,
        types_pb2.STRING: "x",
        types_pb2.STRUCT: {"id": "batch_1", "output_file_id": "file-1", "error_file_id": None},
    }

    def value(kind: types_pb2.LiteralType) -> Any:
        match kind.WhichOneof("type"):
            case "collection_type":
                return [value(kind.collection_type)] * 2
            case "blob":
                return Blob("memory:///in.jsonl")
            case _:
                return simple[kind.simple]

    declared = one.message.interface.inputs.variables
    values = {variable.key: value(variable.value.type) for variable in declared}
    literals = to_outputs("inputs", {**values, **{name: MEANT[name] for name in values if name in MEANT}}).literals
    return literals_pb2.LiteralMap(literals={literal.name: literal.value for literal in literals})


def task_of(one: Recorded, secrets: Mapping[str, str]) -> TaskRequest:
    """The task with the secrets that it names, as the engine looks them up."""
    custom = one.message.custom
    named = custom.fields["secrets"].struct_value.fields if "secrets" in custom else {}
    brought = [name for name, value in named.items() if value.WhichOneof("kind") == "string_value"]
    return connector_task(one.message, inputs_of(one), secrets={name: secrets.get(name, "") for name in brought})


def native_connectors(setup: ConnectorSetup) -> ConnectorRegistry:
    found = registries.offers()
    natives = [offer for offer in found.found if offer.is_native]
    return ConnectorRegistry([offer.make(setup) for offer in natives], found.not_offered)


async def begin(connector: Connector, task: TaskRequest) -> object:
    """The first call for a task."""
    method: Any = connector.create if isinstance(connector, AsyncConnector) else connector.do  # type: ignore[attr-defined]
    if inspect.iscoroutinefunction(method):
        return await method(task)
    return await anyio.to_thread.run_sync(method, task)


@pytest.mark.parametrize("one", [one for one in TEMPLATES if one.name not in REFUSED], ids=lambda one: one.name)
async def test_a_native_connector_takes_it(
    one: Recorded, setup_ctx: ConnectorSetup, secrets: Mapping[str, str]
) -> None:
    registry = native_connectors(setup_ctx)
    connector = registry.get_connector(one.message.type, one.message.task_type_version)
    try:
        with suppress(TransientError):  # its service is away; a task that is wrong raises something else
            await begin(connector, task_of(one, secrets))
    finally:
        for each in registry:
            await each.close()


@pytest.mark.parametrize("one", [one for one in TEMPLATES if one.name in REFUSED], ids=lambda one: one.name)
async def test_what_it_does_not_do_is_told(
    one: Recorded, setup_ctx: ConnectorSetup, secrets: Mapping[str, str]
) -> None:
    connector = native_connectors(setup_ctx).get_connector(one.message.type)
    with pytest.raises(BadTaskSpecificationError, match=REFUSED[one.name]):
        await begin(connector, task_of(one, secrets))
    await connector.close()


@pytest.mark.parametrize("task_type", sorted(NOT_NATIVE))
def test_a_type_that_is_left_to_users_has_no_native_connector(task_type: str, setup_ctx: ConnectorSetup) -> None:
    with pytest.raises(ConnectorNotFoundError):
        native_connectors(setup_ctx).get_connector(task_type)
