"""EmptyDirs of pods that run as processes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from propfan.engine.cluster import POD
from propfan.engine.processes import volumes
from tests.unit.engine.processes.machine import (
    NAMESPACE,
    condition,
    has_ended,
    is_gone,
    machine,
    shell,
    terminated,
)

pytestmark = pytest.mark.anyio

EMPTY_DIR: dict[str, Any] = {"volumes": [{"name": "v", "emptyDir": {}}]}

needs_mounts = pytest.mark.skipif(not volumes.can_mount(), reason="processes can have no mounts on this machine")


def mount(path: str, name: str = "v") -> dict[str, Any]:
    return {"volumeMounts": [{"name": name, "mountPath": path}]}


def exists(path: str) -> bool:
    return Path(path).exists()


@needs_mounts
@pytest.mark.parametrize("path", ["/var/inputs", "/data/deep/in", "/mnt", "/usr/local/there/"])
async def test_containers_share_a_folder_at_the_path_that_they_mount_it_at(tmp_path: Path, path: str) -> None:
    bare = path.rstrip("/")
    was_there = exists(bare)
    async with machine(tmp_path) as m:
        first = shell("echo made > /elsewhere/note", name="first", **mount("/elsewhere"))
        program = f"import os; print(open(os.sep.join(['', *{bare.strip('/').split('/')!r}, 'note'])).read(), end='')"
        second = {"name": "main", "command": [sys.executable, "-c", program], **mount(path)}
        found = await m.run("shared", second, initContainers=[first], **EMPTY_DIR)
        assert found["status"]["phase"] == "Succeeded", m.log("shared")
        assert m.log("shared") == "made\n"
    assert exists(bare) == was_there
    assert not exists("/elsewhere")


@needs_mounts
async def test_all_else_is_as_on_the_machine(tmp_path: Path) -> None:
    (tmp_path / "note").write_text("here")
    script = f"cat {tmp_path}/note /proc/self/comm; ls /var /etc > /dev/null && id -u; pwd; echo x > {tmp_path}/made"
    async with machine(tmp_path) as m:
        found = await m.run("seen", shell(script, workingDir="/var/deep", **mount("/var/deep")), **EMPTY_DIR)
        assert found["status"]["phase"] == "Succeeded", m.log("seen")
        assert m.log("seen").startswith("herecat\n")
        assert m.log("seen").endswith("\n/var/deep\n")
    assert (tmp_path / "made").read_text() == "x\n"


async def test_without_mounts_paths_are_replaced_where_they_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(volumes, "can_mount", lambda: False)
    async with machine(tmp_path) as m:
        script = "echo made > /var/inputs/note; cat $FROM/note; pwd"
        variables = [{"name": "FROM", "value": "/var/inputs"}]
        found = await m.run(
            "shared", shell(script, env=variables, workingDir="/var/inputs", **mount("/var/inputs")), **EMPTY_DIR
        )
        assert found["status"]["phase"] == "Succeeded", m.log("shared")
        said, place = m.log("shared").splitlines()
        assert (said, Path(place).name) == ("made", "v")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/var/in", "/x"),
        ("/var/in/a.txt", "/x/a.txt"),
        ("cat /var/in/a >'/var/out'", "cat /x/a >'/y'"),
        ("--dir=/var/in:/var/out/", "--dir=/x:/y/"),
        ("/var/inputs /var/in-2 /var/in.d", "/var/inputs /var/in-2 /var/in.d"),
        ("/my/var/in file:///var/in ./var/in", "/my/var/in file:///var/in ./var/in"),
        ("/var/in/deep/b", "/z/b"),
    ],
)
async def test_only_whole_paths_are_replaced(text: str, expected: str) -> None:
    assert volumes.replaced(text, {"/var/in": "/x", "/var/out": "/y", "/var/in/deep": "/z"}) == expected


@needs_mounts
async def test_a_file_in_the_place_of_a_folder_is_told(tmp_path: Path) -> None:
    async with machine(tmp_path) as m:
        await m.create("no", shell("true", **mount("/etc/passwd/in")), **EMPTY_DIR)
        found = await m.until("no", has_ended)
        assert terminated(found)["reason"] == "StartError"
        assert "mount: Not a directory" in terminated(found)["message"]
        assert condition(found, "PodScheduled")["status"] == "True"
        await m.cluster.delete(POD, NAMESPACE, "no")
        await m.until("no", is_gone)
