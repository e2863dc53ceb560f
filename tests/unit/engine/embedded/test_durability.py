from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import pytest

from propfan.engine.cluster import POD, TASK_ACTION
from propfan.engine.embedded import EmbeddedCluster
from propfan.pluginmachinery.errors import ConfigError
from tests.contract.objects import body, content, until_gone
from tests.unit.engine.embedded import writer

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).parents[4]


def start(role: str, path: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, writer.__file__, role, str(path)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)})


def content_of(path: Path) -> bytes:
    return path.read_bytes()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cluster.db"


async def test_everything_is_there_after_a_restart(path: Path) -> None:
    async with EmbeddedCluster.open(path) as cluster:
        owner = await cluster.create(TASK_ACTION, body(TASK_ACTION, "n", "owner", labels={"x": "1"}))
        reference = {"apiVersion": "flyte.org/v1", "kind": "TaskAction", "name": "owner", "uid": owner.metadata.uid}
        await cluster.create(POD, body(POD, "n", "a", finalizers=["example.org/a"], ownerReferences=[reference]))
        await cluster.patch(POD, "n", "a", {"metadata": {"labels": {"y": "ä"[:0]}, "annotations": {"z": "ä"}}})
        await cluster.patch(POD, "n", "a", {"spec": {"nodeName": "node"}})
        await cluster.patch(POD, "n", "a", {"status": {"phase": "Running"}}, subresource="status")
        await cluster.create(POD, body(POD, "n", "gone"))
        await cluster.delete(POD, "n", "gone")
        pods, owners = await cluster.list(POD), await cluster.list(TASK_ACTION)
    async with EmbeddedCluster.open(path) as cluster:
        assert await cluster.list(POD) == pods
        assert await cluster.list(TASK_ACTION, labels={"x": "1"}) == owners
        async with cluster.watch(POD, resource_version=pods.resource_version) as changes:
            patched = await cluster.patch(POD, "n", "a", {"metadata": {"labels": {"y": "2"}}})
            assert [event.object for event in await anext(changes)] == [patched]
        assert int(patched.metadata.resource_version) > int(pods.resource_version)


async def test_garbage_is_collected_after_a_restart(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with EmbeddedCluster.open(path) as cluster:
        owner = await cluster.create(TASK_ACTION, body(TASK_ACTION, "n", "owner"))
        reference = {"apiVersion": "flyte.org/v1", "kind": "TaskAction", "name": "owner", "uid": owner.metadata.uid}
        await cluster.create(POD, body(POD, "n", "child", ownerReferences=[reference]))
        cluster._garbage.close()
        monkeypatch.setattr(cluster._commits, "_collect", lambda *_: None)
        await cluster.delete(TASK_ACTION, "n", "owner")
        await cluster.get(POD, "n", "child")
    async with EmbeddedCluster.open(path) as cluster:
        await until_gone(cluster, POD, "n", "child")


@pytest.mark.parametrize("acknowledgements", [1, 50, 700])
async def test_what_was_acknowledged_survives_a_kill(path: Path, acknowledgements: int) -> None:
    said: list[list[str]] = []
    with start("write", path) as process:
        assert process.stdout is not None
        for line in process.stdout:
            said.append(line.decode().split())
            if len(said) == acknowledgements:
                process.send_signal(signal.SIGKILL)
        # What it said before it died counts too; an unfinished line does not.
    if said and not line.endswith(b"\n"):
        said.pop()
    assert len(said) >= acknowledgements
    async with EmbeddedCluster.open(path) as cluster:
        found = {pod.metadata.name: content(pod) for pod in (await cluster.list(POD, limit=0)).items}
        events = {event.key for event in await cluster.events(limit=100_000)}
    deleted = {name for what, name, *_ in said if what == "deleted"}
    assert not deleted & found.keys()
    for what, name, *more in said:
        if what == "event":
            assert f"n/{name}" in events
        elif name not in found:
            assert name.endswith(tuple("0369")) or int(name.split("-")[1]) % 3 == 0
        elif what == "running":
            assert found[name]["status"]["phase"] == "Running"
        elif what == "sized":
            assert found[name]["spec"]["size"] == int(more[0])


async def test_a_full_disk_costs_only_the_writes_that_do_not_fit(path: Path) -> None:
    with start("fill", path) as process:
        output, _ = process.communicate()
    assert process.returncode == 0
    report: Mapping[str, object] = msgspec.json.decode(output)
    assert str(path) in str(report["message"])
    assert report["listed"] == report["written"]
    assert not report["is_half_done"]
    assert report["after"] == "after"
    async with EmbeddedCluster.open(path) as cluster:
        found = (await cluster.list(POD, limit=0)).items
    assert len(found) == int(str(report["written"])) + 1
    assert content(found[0])["spec"]["x"] == "x" * 20_000


async def test_a_file_is_open_in_one_cluster_only(path: Path) -> None:
    async with EmbeddedCluster.open(path):
        with pytest.raises(ConfigError, match=rf"in use by another cluster \(process {os.getpid()}\)"):
            async with EmbeddedCluster.open(path):
                pass
    async with EmbeddedCluster.open(path):
        pass


def _cut_off(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _overwrite_pages(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (path.stat().st_size - 4096))


def _replace_by_text(path: Path) -> None:
    path.write_text("This is no database.\n" * 100)


def _in_sql(statement: str) -> Callable[[Path], None]:
    def execute(path: Path) -> None:
        connection = sqlite3.connect(path)
        connection.execute(statement)
        connection.commit()
        connection.close()

    return execute


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_cut_off, "is damaged"),
        (_overwrite_pages, "is damaged"),
        (_replace_by_text, "is damaged"),
        (_in_sql("UPDATE object SET metadata = '{'"), "is damaged"),
        (_in_sql("UPDATE object SET kind = '{}'"), "is damaged"),
        (_in_sql("DROP TABLE counter"), "can not be opened"),
        (_in_sql("PRAGMA user_version = 2"), "newer propfan"),
        (_in_sql("PRAGMA application_id = 1"), "another program"),
    ],
)
async def test_a_file_that_can_not_be_used_is_refused_and_kept(
    path: Path, damage: Callable[[Path], None], message: str
) -> None:
    async with EmbeddedCluster.open(path) as cluster:
        for number in range(20):
            await cluster.create(POD, body(POD, "n", f"a{number}", {"x": "x" * 3000}))
    damage(path)
    before = content_of(path)
    with pytest.raises(ConfigError, match=message) as caught:
        async with EmbeddedCluster.open(path):
            pass
    assert str(path) in str(caught.value)
    assert content_of(path) == before
    with pytest.raises(ConfigError, match=message):
        async with EmbeddedCluster.open(path):
            pass


async def test_a_place_that_can_not_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "cluster.db", tmp_path):
        with pytest.raises(ConfigError, match="can not be opened"):
            async with EmbeddedCluster.open(path):
                pass


async def test_the_folder_is_made_when_missing(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "cluster.db"
    async with EmbeddedCluster.open(path):
        assert path.exists()


async def test_deleted_objects_leave_no_rows(path: Path) -> None:
    async with EmbeddedCluster.open(path) as cluster:
        for number in range(10):
            await cluster.create(POD, body(POD, "n", f"a{number}"))
            await cluster.delete(POD, "n", f"a{number}")
    connection = sqlite3.connect(path)
    counts = [connection.execute(f"SELECT count(*) FROM {name}").fetchone() for name in ("object", "body", "status")]
    connection.close()
    assert counts == [(0,)] * 3


async def test_most_of_a_large_file_being_free_gives_it_back(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with EmbeddedCluster.open(path) as cluster:
        await cluster.append_events([(f"a/{number}", b"x" * 1000) for number in range(1000)])
    full = len(content_of(path))
    monkeypatch.setattr("propfan.engine.embedded.store.VACUUM_ABOVE_BYTES", full // 2)
    async with EmbeddedCluster.open(path) as cluster:
        await cluster.forget_events("a/")
    async with EmbeddedCluster.open(path):
        pass
    assert len(content_of(path)) < full // 4
