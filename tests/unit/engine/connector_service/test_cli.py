"""``propfan connector`` as processes of their own."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.unit.engine.cli.command import propfan, running

MODULE = """
import threading
from propfan.pluginmachinery.connector import *
from propfan.pluginmachinery.errors import PermanentError

class Meta(ResourceMeta, frozen=True):
    id: str

class Waiting(AsyncConnector[Meta]):
    "Its jobs run until they are deleted."
    name, categories, meta_type = "Waiting", (TaskCategory("wait"), TaskCategory("wait", 2)), Meta

    async def create(self, task):
        return Meta(task.unique_name())

    async def get(self, meta, job):
        return Resource(RemotePhase.RUNNING, "waiting")

    async def delete(self, meta, job):
        print("deleted", flush=True)

class Greeter(SyncConnector):
    name, categories = "Greeter", (TaskCategory("greet"),)

    async def do(self, task):
        name = task.inputs().get("name", "you")
        if name == "nobody":
            return Resource(RemotePhase.FAILED, "there is nobody")
        return Resource(RemotePhase.SUCCEEDED, outputs={"text": f"hello {name}, {await self.get_secret('x', task.connection)}"})

class Stuck(Greeter):
    "Can not be stopped."
    name, categories = "Stuck", (TaskCategory("stuck"),)

    def do(self, task):
        print("entered", flush=True)
        threading.Event().wait()

connectors = [Waiting, Greeter]
"""

GREETING = """
type: greet
id: {name: greeting}
custom: {secrets: {x: GREETING_SECRET}}
interface:
  inputs: {variables: [{key: name, value: {type: {simple: STRING}}}]}
  outputs: {variables: [{key: text, value: {type: {simple: STRING}}}]}
"""
WAITING = "type: wait\nid: {name: waiting}\ntask_type_version: 2\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(MODULE)
    (tmp_path / "greeting.yaml").write_text(GREETING)
    (tmp_path / "waiting.yaml").write_text(WAITING)
    (tmp_path / "inputs.json").write_text('{"name": "peer"}')
    return tmp_path


HERE = ("-m", "mine", "--no-installed")


def test_connectors_are_listed(folder: Path) -> None:
    done = propfan("connector", "list", *HERE, cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.rstrip().split(maxsplit=2) for line in done.stdout.splitlines()] == [
        ["CONNECTOR", "KIND", "TASK TYPES"],
        ["Greeter", "sync", "greet (0)"],
        ["Waiting", "async", "wait (0), wait (2)"],
    ]
    lines = [json.loads(line) for line in propfan("connector", "list", "--json", *HERE, cwd=folder).stdout.splitlines()]
    assert lines[0] == {"name": "Greeter", "categories": [{"name": "greet", "version": 0}], "is_sync": True}


def test_what_can_not_be_loaded_is_told(folder: Path) -> None:
    done = propfan("connector", "list", *HERE, "-m", "absent", cwd=folder)
    assert done.returncode == 1
    assert "Greeter" in done.stdout
    assert done.stderr == (
        "Error: connector 'absent:connectors': import: ModuleNotFoundError: No module named 'absent'\n"
    )
    done = propfan("connector", "serve", "--no-installed", "-m", "absent", cwd=folder)
    assert done.returncode == 2
    assert "Error: connector 'absent:connectors': import: ModuleNotFoundError" in done.stderr


def test_a_task_is_run_here_and_now(folder: Path) -> None:
    done = propfan(
        *("connector", "run", "greeting.yaml", "--inputs", "inputs.json", *HERE), cwd=folder, GREETING_SECRET="s3cret"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"text": "hello peer, s3cret"}
    assert "succeeded" in done.stderr


def test_a_task_that_fails_is_told(folder: Path) -> None:
    (folder / "inputs.json").write_text('{"name": "nobody"}')
    done = propfan(
        *("connector", "run", "greeting.yaml", "--inputs", "inputs.json", *HERE), cwd=folder, GREETING_SECRET="s3cret"
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1] == "Error: greeting: there is nobody"


def test_a_missing_secret_is_named(folder: Path) -> None:
    done = propfan("connector", "run", "greeting.yaml", "--inputs", "inputs.json", *HERE, cwd=folder)
    assert done.returncode == 2
    assert "Secret GREETING_SECRET not found in environment (it is 'x' in custom.secrets)" in done.stderr


def test_a_task_that_takes_too_long_loses_its_job(folder: Path) -> None:
    done = propfan("connector", "run", "waiting.yaml", "--timeout", "0.5", *HERE, cwd=folder)
    assert done.returncode == 1
    assert done.stdout == "deleted\n"
    assert done.stderr.splitlines()[-1] == "Error: task 'waiting' took longer than 0.5 s; its job was deleted"


def test_ctrl_c_deletes_the_job(folder: Path) -> None:
    with running("connector", "run", "waiting.yaml", *HERE, cwd=folder) as command:
        command.wait_for(lambda _, err: any("running: waiting" in line for line in err))
        command.process.send_signal(signal.SIGINT)
        assert command.end() == 130
        assert command.out == ["deleted"]


def test_a_task_without_a_connector_is_refused(folder: Path) -> None:
    (folder / "waiting.yaml").write_text(WAITING.replace("wait\n", "no-such-type\n"))
    done = propfan("connector", "run", "waiting.yaml", *HERE, cwd=folder)
    assert done.returncode == 2
    assert done.stderr == (
        "Error: Cannot find connector for task type: no-such-type and version: 2; there are: greet, wait\n"
    )


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port: int = bound.getsockname()[1]
        return port


def test_a_service_serves_until_it_is_told_to_stop(folder: Path) -> None:
    metrics = free_port()
    options = ("--port", "0", "--metrics-port", metrics, "--log-format", "json", *HERE)
    with running("connector", "serve", *options, cwd=folder) as command:
        command.wait_for(lambda out, err: bool(out) and any('"serving"' in line for line in err))
        said, _, address = command.out[0].rpartition(" ")
        assert said == "serving Greeter, Waiting on"
        listed = propfan("connector", "list", "--endpoint", address, cwd=folder)
        assert listed.returncode == 0, listed.stderr
        assert "Waiting    async  wait (0), wait (2)" in listed.stdout
        with urlopen(f"http://127.0.0.1:{metrics}/metrics", timeout=10) as answer:
            assert b'flyte_connector_calls_in_flight{connector="Waiting"} 0.0' in answer.read()
        command.process.send_signal(signal.SIGTERM)
        assert command.end() == 0
        events = [json.loads(line) for line in command.err if line.startswith("{")]
        assert [event["event"] for event in events] == ["serving", "draining", "stopped"]
        assert events[0] | {"timestamp": ""} == {
            "event": "serving",
            "level": "info",
            "timestamp": "",
            "address": address,
            "metrics_port": metrics,
            "tls": False,
            "connectors": ["Greeter", "Waiting"],
            "flyte_1": True,
        }


CALL = """
import grpc, sys
from flyteidl2.connector import connector_pb2, service_pb2_grpc
request = connector_pb2.CreateTaskRequest()
request.template.type = "stuck"
stub = service_pb2_grpc.AsyncConnectorServiceStub(grpc.insecure_channel(sys.argv[1]))
call = stub.CreateTask.future(request)
print(call.exception().code().name)
"""


def test_a_second_signal_does_not_wait(folder: Path) -> None:
    options = ("--port", "0", "--metrics-port", "0", "-m", "mine:Stuck", "--no-installed")
    with running("connector", "serve", *options, cwd=folder) as command:
        command.wait_for(lambda out, _: bool(out))
        address = command.out[0].rpartition(" ")[2]
        with subprocess.Popen([sys.executable, "-c", CALL, address], stdout=subprocess.PIPE, text=True) as caller:
            try:
                command.wait_for(lambda out, _: "entered" in out)
                command.process.send_signal(signal.SIGTERM)
                command.wait_for(lambda _, err: any("draining" in line for line in err))
                command.process.send_signal(signal.SIGTERM)
                assert command.end(5) == 130
                assert caller.communicate(timeout=30)[0] == "UNAVAILABLE\n"
            finally:
                caller.kill()


def test_a_service_that_is_not_there_is_told(folder: Path) -> None:
    done = propfan("connector", "list", "--endpoint", f"127.0.0.1:{free_port()}", cwd=folder)
    assert done.returncode == 2
    assert "Error: connector service 127.0.0.1:" in done.stderr
    assert "UNAVAILABLE" in done.stderr


def test_a_wrong_setting_is_told(folder: Path) -> None:
    (folder / "service.yaml").write_text("prot: 1\n")
    done = propfan("connector", "serve", "-c", "service.yaml", cwd=folder)
    assert done.returncode == 2
    assert "prot" in done.stderr


def test_without_the_extra_it_is_told_what_to_install(folder: Path) -> None:
    (folder / "grpc.py").write_text("raise ModuleNotFoundError(\"No module named 'grpc'\", name='grpc')")
    done = propfan("connector", "serve", *HERE, "--port", "0", cwd=folder, PYTHONPATH=str(folder))
    assert done.returncode == 2
    assert "needs the extra 'connectors': pip install 'propfan[connectors]' (grpc is missing)" in done.stderr
