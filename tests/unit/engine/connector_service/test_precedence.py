"""What users install or name goes before the connectors that propfan brings, in the service as in local runs."""

from __future__ import annotations

import sys
import types
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest
import structlog

from propfan.engine.connector_service import local_runs, server
from propfan.engine.connector_service.config import ConnectorServiceConfig
from propfan.pluginmachinery.connector import (
    ConnectorMetadata,
    ConnectorSetup,
    RemotePhase,
    Resource,
    SyncConnector,
    TaskCategory,
    TaskRequest,
)
from propfan.pluginmachinery.connector.registry import NotOffered
from propfan.pluginmachinery.errors import ConnectorError
from tests.unit.engine.cli.command import propfan
from tests.unit.engine.connector_service.rig import CONFIG

pytestmark = pytest.mark.anyio


class Native(SyncConnector):
    name = "Native"
    categories: ClassVar[Sequence[TaskCategory]] = (TaskCategory("mail"), TaskCategory("sheet"))

    async def do(self, task: TaskRequest) -> Resource:
        return Resource(RemotePhase.SUCCEEDED, self.name)


class Mine(Native):
    name = "Mine"
    categories = (TaskCategory("mail"),)


class Broken(Mine):
    def __init__(self, setup: ConnectorSetup) -> None:
        raise LookupError("no licence")


Opened = Callable[[ConnectorServiceConfig], AbstractAsyncContextManager[tuple[ConnectorMetadata, ...]]]


@asynccontextmanager
async def served(config: ConnectorServiceConfig) -> AsyncIterator[tuple[ConnectorMetadata, ...]]:
    async with server.opened(config, {}) as service:
        assert service.refused == []
        yield service.connectors


@asynccontextmanager
async def used_here(config: ConnectorServiceConfig) -> AsyncIterator[tuple[ConnectorMetadata, ...]]:
    async with local_runs.opened(config, {}) as connectors:
        assert connectors.refused == []
        yield connectors.registry.list_connectors()


@pytest.fixture(params=[served, used_here])
def opened(request: pytest.FixtureRequest) -> Opened:
    way: Opened = request.param
    return way


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., ConnectorServiceConfig]:
    """Puts connectors into a distribution of that name; as ``named`` they are a module's, which the settings name."""

    def put(**connectors: Any) -> ConnectorServiceConfig:
        points = []
        for name, value in connectors.items():
            module = types.ModuleType(f"connectors_of_{name}")
            module.__dict__["connectors"] = value
            monkeypatch.setitem(sys.modules, module.__name__, module)
            if name == "named":
                continue
            info = tmp_path / f"{name}-1.0.dist-info"
            info.mkdir()
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
            (info / "entry_points.txt").write_text(f"[propfan.connectors]\nx = {module.__name__}:connectors\n")
            points += list(metadata.Distribution.at(info).entry_points)
        monkeypatch.setattr(metadata, "entry_points", lambda **_: points)
        return msgspec.structs.replace(CONFIG, modules=("connectors_of_named",) if "named" in connectors else ())

    return put


@pytest.mark.parametrize("other", ["named", "a_company", "z_company"])
async def test_a_connector_of_the_users_wins_quietly(
    other: str, opened: Opened, install: Callable[..., ConnectorServiceConfig]
) -> None:
    config = msgspec.structs.replace(install(propfan=[Native], **{other: [Mine]}), must_load=True)
    with structlog.testing.capture_logs() as logs:
        async with opened(config) as connectors:
            found = {line.name: [category.name for category in line.categories] for line in connectors}
    assert found == {"Mine": ["mail"], "Native": ["sheet"]}
    told = [entry for entry in logs if "gives way" in entry["event"]]
    assert told == [{"event": "a native connector gives way", "connector": "Native", "to": "Mine", "log_level": "info"}]
    assert [entry for entry in logs if entry["log_level"] in ("warning", "error")] == []


async def test_two_of_users_that_collide_are_told(install: Callable[..., ConnectorServiceConfig]) -> None:
    config = install(propfan=[Native], a_company=[Mine], z_company=[type("Second", (Mine,), {"name": "Second"})])
    async with server.opened(config, {}) as service:
        assert [str(error) for error in service.refused] == [
            (
                "connector 'Second': categories: Duplicate connector for task type: mail and version: 0; "
                "'Mine' has it already"
            )
        ]


async def test_native_connectors_alone_do_not_stand_in_for_a_module_that_was_named(
    opened: Opened, install: Callable[..., ConnectorServiceConfig]
) -> None:
    config = install(propfan=[Native], named=[Broken])
    with pytest.raises(ConnectorError, match="no licence"):
        async with opened(config):
            pytest.fail("it is open")


async def test_an_installed_connector_at_fault_leaves_native_ones(
    install: Callable[..., ConnectorServiceConfig],
) -> None:
    async with server.opened(install(propfan=[Native], a_company=[Broken]), {}) as service:
        assert [line.name for line in service.connectors] == ["Native"]
        assert ["no licence" in str(error) for error in service.refused] == [True]


async def test_what_lacks_a_library_is_told_once_and_is_no_fault(
    opened: Opened, install: Callable[..., ConnectorServiceConfig]
) -> None:
    config = install(propfan=NotOffered((Native,), "pip install 'propfan[mail]'"), a_company=[Mine])
    async with opened(msgspec.structs.replace(config, must_load=True)) as connectors:
        assert [line.name for line in connectors] == ["Mine"]


NEEDY = """
from propfan.pluginmachinery.connector import *
from propfan.pluginmachinery.connector.registry import NotOffered

class Mail(SyncConnector):
    name, categories = "Mail", (TaskCategory("mail"),)

    async def do(self, task):
        return Resource(RemotePhase.SUCCEEDED)

class Sheet(Mail):
    name, categories = "Sheet", (TaskCategory("sheet"), TaskCategory("sheet", 1))

connectors = [Mail]
sheets = NotOffered([Sheet], "pip install 'propfan[sheet]'")
"""


def test_what_lacks_a_library_is_listed_with_what_installs_it(tmp_path: Path) -> None:
    (tmp_path / "needy.py").write_text(NEEDY)
    options = ("connector", "list", "--no-installed", "-m", "needy", "-m", "needy:sheets")
    done = propfan(*options, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    rows = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in done.stdout.splitlines()]
    assert rows == [
        ["CONNECTOR", "KIND", "TASK TYPES", "NEEDS"],
        ["Mail", "sync", "mail (0)"],
        ["Sheet", "sync", "sheet (0), sheet (1)", "pip install 'propfan[sheet]'"],
    ]
    assert "Sheet" not in propfan(*options, "--json", cwd=tmp_path).stdout
