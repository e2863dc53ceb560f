"""What holds for every connector that comes with propfan."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import anyio
import pytest

from propfan.engine.connector_service import server
from propfan.engine.connector_service.config import ConnectorServiceConfig as ServiceConfig
from propfan.pluginmachinery.config import decode_config
from propfan.pluginmachinery.connector import Connector
from propfan.pluginmachinery.connector import registry as registries
from propfan.pluginmachinery.connector.conformance import check_connector
from propfan.pluginmachinery.registry import Registry
from propfan.pluginmachinery.testing import FakeSecrets, connector_setup
from propfan.plugins.connector.config import PATH
from propfan.plugins.connector.config import ConnectorServiceConfig as EngineSide
from propfan.plugins.connector.directory import Directory
from tests.unit.engine.connector_service.rig import until

pytestmark = pytest.mark.anyio

ROOT: Final = Path(__file__).parents[4]
FOLDERS: Final = sorted(path.parent.name for path in (ROOT / "plugins" / "connectors").glob("*/__init__.py"))
LIBRARIES: Final = (
    "aioboto3",
    "asyncpg",
    "asyncssh",
    "boto3",
    "botocore",
    "flyte",
    "flytekit",
    "google.auth",
    "google.cloud",
    "google.oauth2",
    "httpx",
    "jwt",
    "numpy",
    "openai",
    "pandas",
    "psycopg",
    "pyarrow",
    "requests",
)
"""Of vendors and for data: imported when a connector is first asked, which takes seconds and megabytes."""


@cache
def made() -> dict[str, list[Connector]]:
    """The connectors of each folder."""
    found = registries.offers()
    natives = [offer for offer in found.found if offer.is_native]
    by_folder: dict[str, list[Connector]] = {folder: [] for folder in FOLDERS}
    for offer in natives:
        by_folder[offer.where.partition(":")[0].rpartition(".")[2]].append(offer.make(connector_setup()))
    return by_folder


def everyone() -> list[Connector]:
    return [connector for connectors in made().values() for connector in connectors]


def task_types() -> set[str]:
    return {category.name for connector in everyone() for category in connector.categories}


def python(program: str, *arguments: str) -> Any:
    """What a program prints as JSON, run in an interpreter of its own."""
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("folder", FOLDERS)
def test_its_connectors_are_what_connectors_must_be(folder: str) -> None:
    assert made()[folder], "it offers nothing"
    for connector in made()[folder]:
        check_connector(connector)
        assert type(connector).__doc__ or connector.name


def test_no_two_are_for_the_same_tasks() -> None:
    registry = registries.ConnectorRegistry()
    for connector in everyone():
        registry.register(connector)


def test_none_is_for_tasks_that_a_plugin_of_the_engine_runs() -> None:
    plugins = Registry()
    assert plugins.discover() == ()
    taken = {task_type for plugin in plugins.describe() for task_type in plugin.task_types}
    assert {"container", "spark"} <= taken
    assert taken & task_types() == set()


async def test_the_engine_hears_of_all_of_them_from_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = metadata.entry_points

    def of_propfan(*, group: str) -> list[metadata.EntryPoint]:
        return [point for point in installed(group=group) if point.dist is not None and point.dist.name == "propfan"]

    monkeypatch.setattr(metadata, "entry_points", of_propfan)
    config = ServiceConfig(port=0, metrics_port=0, must_load=True)
    async with server.opened(config, {}) as service, anyio.create_task_group() as tasks:
        assert service.refused == []
        deployment = {"endpoint": service.address, "insecure": True}
        engine = Directory(decode_config(EngineSide, {"defaultConnector": deployment}, PATH), FakeSecrets())
        (connector,) = engine.connectors.values()
        tasks.start_soon(engine.run)
        await until(lambda: engine.discovered().task_types >= task_types())
        heard = {(category.name, category.version, category.is_sync) for category in connector.categories or ()}
        tasks.cancel_scope.cancel()
    # Flyte 2 has no service for synchronous connectors: they are called as all others.
    assert heard == {(category.name, category.version, False) for each in everyone() for category in each.categories}


@pytest.mark.parametrize("folder", FOLDERS)
def test_it_has_a_page_that_names_its_task_types(folder: str) -> None:
    page = (ROOT / "docs" / "connectors" / f"{folder}.md").read_text()
    types = {category.name for connector in made()[folder] for category in connector.categories}
    assert {name for name in types if f"`{name}`" not in page} == set()


def test_the_table_of_native_connectors_is_complete() -> None:
    """Of docs/connectors.md: page, task types and extra of each folder."""
    text = (ROOT / "docs" / "connectors.md").read_text()
    rows = re.findall(r"^\| \[[^]]+\]\(connectors/(\w+)\.md\) \|(.*?)\|(.*?)\|.*\|$", text, re.MULTILINE)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    told = {folder: (set(re.findall(r"`([^`]+)`", types)), extra.strip(" `")) for folder, types, extra in rows}
    for folder in FOLDERS:
        types = {category.name for connector in made()[folder] for category in connector.categories}
        assert told[folder] == (types, folder if folder in extras else "")
    assert sorted(told) == FOLDERS
    assert {f"connectors/{folder}.md" for folder in FOLDERS} <= set(
        re.findall(r"\]\((connectors/\w+\.md)\)", (ROOT / "docs" / "README.md").read_text())
    )


@pytest.mark.parametrize("folder", FOLDERS)
def test_it_is_in_the_changelog(folder: str) -> None:
    fragments = [path.read_text() for path in (ROOT / "changelog.d").glob(f"*{folder}*.added.md")]
    assert fragments or folder in (ROOT / "CHANGELOG.md").read_text()


IMPORTING: Final = """
import importlib, json, sys
from importlib.machinery import ModuleSpec

libraries, folder = sys.argv[1].split(","), sys.argv[2]
imported = []

class Finder:
    "Libraries that are there and are told when they are imported."

    def find_spec(self, name, path=None, target=None):
        return ModuleSpec(name, self) if name in libraries else None

    def create_module(self, spec):
        imported.append(spec.name)

    def exec_module(self, module):
        raise ImportError(f"{module.__name__} is imported")

sys.meta_path.insert(0, Finder())
connectors = importlib.import_module(f"propfan.plugins.connectors.{folder}").connectors
from propfan.pluginmachinery.testing import connector_setup
names = [kind(connector_setup()).name for kind in connectors]
engine = [name for name in sys.modules if name.startswith("propfan.engine")]
print(json.dumps({"imported": imported, "connectors": names, "engine": engine}))
"""


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_library_of_a_vendor_is_imported_to_load_and_make_it(folder: str) -> None:
    names = [connector.name for connector in made()[folder]]
    told = python(IMPORTING, ",".join(LIBRARIES), folder)
    assert told == {"imported": [], "connectors": names, "engine": []}


WITHOUT_LIBRARIES: Final = """
import json, sys
from importlib.machinery import PathFinder

libraries = sys.argv[1].split(",")

class Finder(PathFinder):
    "The libraries are not there."

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name in libraries else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Finder
from propfan.pluginmachinery.connector import registry
found = registry.offers()
print(json.dumps({
    "refused": [str(error) for error in found.refused],
    "found": [offer.where.partition(":")[0].rpartition(".")[2] for offer in found.found if offer.is_native],
    "needs": [each.way_out for each in found.not_offered],
}))
"""


def test_where_no_extra_is_installed_the_others_are_offered_and_the_list_says_what_to_install() -> None:
    told = python(WITHOUT_LIBRARIES, ",".join(LIBRARIES))
    needing = {"aws", "bigquery", "openai", "slurm", "snowflake"}  # the others run some tasks without their extras
    assert told["refused"] == []
    assert sorted(told["needs"]) == [f"pip install 'propfan[{folder}]'" for folder in sorted(needing)]
    assert set(told["found"]) == set(FOLDERS) - needing
