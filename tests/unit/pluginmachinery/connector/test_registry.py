from __future__ import annotations

import sys
import types
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from propfan.pluginmachinery.connector import (
    AsyncConnector,
    Connector,
    ConnectorRegistry,
    ConnectorSetup,
    JobContext,
    RemotePhase,
    Resource,
    ResourceMeta,
    SyncConnector,
    TaskCategory,
    TaskRequest,
)
from propfan.pluginmachinery.connector import registry as registries
from propfan.pluginmachinery.errors import ConnectorError, ConnectorNotFoundError, PluginError
from propfan.pluginmachinery.testing import connector_setup


class Meta(ResourceMeta, frozen=True):
    id: str


class Query(AsyncConnector[Meta]):
    name = "Query Connector"
    categories = (TaskCategory("query"), TaskCategory("query", 1))
    meta_type = Meta

    async def create(self, task: TaskRequest) -> Meta:
        return Meta("x")

    def get(self, meta: Meta, job: JobContext) -> Resource:
        return Resource(RemotePhase.RUNNING)

    async def delete(self, meta: Meta, job: JobContext) -> None:
        return


class Mail(SyncConnector):
    name = "Mail Connector"
    categories = (TaskCategory("mail"),)

    async def do(self, task: TaskRequest) -> Resource:
        return Resource(RemotePhase.SUCCEEDED)


def made(kind: type[Connector], **attributes: Any) -> Connector:
    """A connector of a class like ``kind`` with other attributes."""
    connector: Connector = type(kind.__name__, (kind,), attributes)(connector_setup())
    return connector


def test_a_connector_is_found_by_type_and_version() -> None:
    query = made(Query)
    registry = ConnectorRegistry([query, made(Mail)])
    assert registry.get_connector("query") is query
    assert registry.get_connector("query", 1) is query
    assert [connector.name for connector in registry] == ["Query Connector", "Mail Connector"]


def test_versions_do_not_stand_in_for_each_other() -> None:
    registry = ConnectorRegistry([made(Query)])
    with pytest.raises(ConnectorNotFoundError) as caught:
        registry.get_connector("query", 2)
    assert str(caught.value) == "Cannot find connector for task type: query and version: 2; there is version 0, 1"
    assert caught.value.subject == "task type: query and version: 2"


def test_what_is_not_there_is_told_with_what_is() -> None:
    registry = ConnectorRegistry()
    with pytest.raises(ConnectorNotFoundError, match="task type: x and version: 0; no connector is registered"):
        registry.get_connector("x")
    registry.register(made(Mail))
    with pytest.raises(ConnectorNotFoundError, match="task type: x and version: 0; there are: mail"):
        registry.get_connector("x")
    with pytest.raises(ConnectorNotFoundError, match=r"^Cannot find connector for name: X; there are: Mail Connector$"):
        registry.get_connector_metadata("X")


def test_a_duplicate_is_refused_and_changes_nothing() -> None:
    first = made(Query)
    registry = ConnectorRegistry([first])
    second = made(Query, name="Other", categories=(TaskCategory("new"), TaskCategory("query", 1)))
    with pytest.raises(ConnectorError) as caught:
        registry.register(second)
    assert str(caught.value) == (
        "connector 'Other': categories: Duplicate connector for task type: query and version: 1; "
        "'Query Connector' has it already"
    )
    assert isinstance(caught.value, PluginError)
    with pytest.raises(ConnectorNotFoundError):
        registry.get_connector("new")
    assert registry.get_connector("query", 1) is first


def test_an_override_takes_over_and_is_listed_once() -> None:
    registry = ConnectorRegistry([made(Query)])
    second = made(Query, categories=(TaskCategory("query", 1),))
    registry.register(second, override=True)
    assert registry.get_connector("query", 1) is second
    assert registry.get_connector("query", 0) is not second
    (line,) = registry.list_connectors()
    assert line.categories == (TaskCategory("query"), TaskCategory("query", 1))


def test_connectors_of_one_name_are_one_line() -> None:
    registry = ConnectorRegistry([made(Query), made(Query, categories=(TaskCategory("spark"),)), made(Mail)])
    lines = registry.list_connectors()
    assert [(line.name, line.is_sync) for line in lines] == [("Mail Connector", True), ("Query Connector", False)]
    assert [category.name for category in lines[1].categories] == ["query", "query", "spark"]
    assert registry.get_connector_metadata("Mail Connector").is_sync


def test_one_name_is_not_both_synchronous_and_asynchronous() -> None:
    registry = ConnectorRegistry([made(Query)])
    with pytest.raises(ConnectorError, match="is the name of a connector that is asynchronous, and this one is sync"):
        registry.register(made(Mail, name="Query Connector"))


def offered(monkeypatch: pytest.MonkeyPatch, value: Any, name: str = "my_connectors") -> registries.Offers:
    module = types.ModuleType(name)
    module.__dict__["connectors"] = value
    monkeypatch.setitem(sys.modules, name, module)
    return registries.offers([name], entry_points=False)


def test_a_module_offers_classes_instances_and_what_makes_connectors(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(setup: ConnectorSetup) -> Connector:
        return Query(setup)

    found = offered(monkeypatch, [Mail, made(Mail), make])
    assert found.refused == []
    names = [offer.make(connector_setup()).name for offer in found.found]
    assert names == ["Mail Connector", "Mail Connector", "Query Connector"]
    assert {(offer.origin, offer.where) for offer in found.found} == {("my_connectors", "my_connectors:connectors")}
    (single,) = offered(monkeypatch, Query).found
    assert single.make(connector_setup()).name == "Query Connector"


def test_what_can_not_be_loaded_is_told_and_stops_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "leaves_at_once.py").write_text("raise SystemExit('no licence')")
    (tmp_path / "has_nothing.py").write_text("")
    (tmp_path / "has_a_number.py").write_text("connectors = [17]")
    (tmp_path / "not_iterable.py").write_text("connectors = 17")
    (tmp_path / "good_connectors.py").write_text(
        f"import sys; sys.path.append({str(Path(__file__).parent)!r}); import test_registry as t; mail = t.Mail"
    )
    monkeypatch.syspath_prepend(tmp_path)
    names = ["nowhere", "leaves_at_once", "has_nothing", "has_a_number", "not_iterable", "good_connectors:mail", ""]
    found = registries.offers(names, entry_points=False)
    assert [offer.where for offer in found.found] == ["good_connectors:mail"]
    assert [str(error) for error in found.refused] == [
        "connector '': import: is no 'package.module' or 'package.module:attribute'",
        "connector 'nowhere:connectors': import: ModuleNotFoundError: No module named 'nowhere'",
        "connector 'leaves_at_once:connectors': import: SystemExit: no licence",
        "connector 'has_nothing:connectors': import: AttributeError: module 'has_nothing' has no attribute 'connectors'",
        "connector 'has_a_number:connectors': offer: must be a connector class, or what makes a connector, is int",
        "connector 'not_iterable:connectors': import: TypeError: 'int' object is not iterable",
    ]


def test_what_can_not_be_made_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(setup: ConnectorSetup) -> Connector:
        raise LookupError("no such region")

    def nothing(setup: ConnectorSetup) -> None:
        return

    for value, problem in ((broken, "load: raised LookupError: no such region"), (nothing, "is NoneType")):
        (offer,) = offered(monkeypatch, value).found
        with pytest.raises(ConnectorError, match=problem):
            offer.make(connector_setup())


def test_installed_distributions_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("installed_connectors")
    module.__dict__["mail"] = Mail
    monkeypatch.setitem(sys.modules, "installed_connectors", module)
    asked: list[str] = []

    def entry_points(*, group: str) -> list[metadata.EntryPoint]:
        asked.append(group)
        return [
            metadata.EntryPoint("z", "installed_connectors:mail", group),
            metadata.EntryPoint("a", "missing_connectors:mail", group),
        ]

    monkeypatch.setattr(metadata, "entry_points", entry_points)
    found = registries.offers()
    assert asked == ["propfan.connectors"]
    assert [offer.where for offer in found.found] == ["installed_connectors:mail"]
    assert [error.plugin for error in found.refused] == ["missing_connectors:mail"]
    assert registries.offers(entry_points=False).found == []


class Sheet(SyncConnector):
    name = "Sheet Connector"
    categories = (TaskCategory("sheet"), TaskCategory("mail"))

    async def do(self, task: TaskRequest) -> Resource:
        return Resource(RemotePhase.SUCCEEDED)


def chosen(*made: Connector | ConnectorError, native: int, **settings: Any) -> registries.Choice:
    """What is chosen of connectors, of which the last ``native`` ones came with propfan."""
    count = len(made)
    found = [registries.ConnectorOffer(None, "", "", is_native=index >= count - native) for index in range(count)]
    # Propfan's entry points may come before those of others and after them: the order must not matter.
    offered = registries.Offers([*reversed(found)], [], **settings)
    return registries.choose(offered, [*reversed(made)])


def test_a_native_connector_gives_way_for_what_another_one_runs() -> None:
    mail, sheet = made(Mail), made(Sheet)
    choice = chosen(mail, sheet, native=1)
    assert choice.registry.get_connector("mail") is mail
    assert choice.registry.get_connector("sheet") is sheet
    assert choice.refused == []
    assert choice.given_way == [registries.GivenWay(sheet, mail)]
    assert not choice.is_native
    lines = {line.name: [category.name for category in line.categories] for line in choice.registry.list_connectors()}
    assert lines == {"Mail Connector": ["mail"], "Sheet Connector": ["sheet"]}


def test_a_native_connector_that_has_nothing_left_is_not_listed() -> None:
    mail = made(Mail)
    choice = chosen(mail, made(Mail, name="Native Mail"), native=1)
    assert [line.name for line in choice.registry.list_connectors()] == ["Mail Connector"]
    assert list(choice.registry) == [mail]


def test_a_native_connector_gives_way_to_one_of_its_name_and_another_kind() -> None:
    mail = made(Mail, name="Query Connector")
    choice = chosen(mail, made(Query), native=1)
    assert list(choice.registry) == [mail]
    assert choice.refused == []
    assert [(each.native.name, each.other) for each in choice.given_way] == [("Query Connector", mail)]


def test_two_that_collide_are_refused_where_both_or_none_are_native() -> None:
    for native in (0, 2):
        choice = chosen(made(Sheet), made(Mail), native=native)
        assert [str(error) for error in choice.refused] == [
            (
                "connector 'Sheet Connector': categories: Duplicate connector for task type: mail and version: 0; "
                "'Mail Connector' has it already"
            )
        ]
        assert choice.given_way == []
        assert choice.is_native == (native == 2)


def test_a_connector_that_could_not_be_made_takes_nothing_away() -> None:
    problem = ConnectorError("mine", "load", "no licence")
    native = made(Mail)
    choice = chosen(problem, native, native=1)
    assert choice.registry.get_connector("mail") is native
    assert choice.refused == [problem]


def test_what_needs_to_be_installed_is_told_to_whoever_asks_for_it() -> None:
    absent = registries.NotOffered((Mail,), "pip install 'propfan[mail]'")
    assert list(absent) == []
    registry = chosen(made(Query), native=0, not_offered=[absent]).registry
    with pytest.raises(ConnectorNotFoundError) as caught:
        registry.get_connector("mail")
    assert str(caught.value) == (
        "Cannot find connector for task type: mail and version: 0; its connector needs pip install 'propfan[mail]'"
    )
    with pytest.raises(ConnectorNotFoundError, match="there are: query"):
        registry.get_connector("mail", 1)


def test_what_is_not_offered_is_found_by_entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = registries.NotOffered((Mail,), "pip install 'propfan[mail]'")
    found = offered(monkeypatch, absent)
    assert (found.found, found.refused, found.not_offered) == ([], [], [absent])


def test_connectors_of_propfan_itself_are_native() -> None:
    natives = [offer for offer in registries.offers().found if offer.is_native]
    assert {offer.where.partition(":")[0].rpartition(".")[0] for offer in natives} == {"propfan.plugins.connectors"}
    named = registries.offers(["propfan.plugins.connectors.webhook"], entry_points=False).found
    assert [offer.is_native for offer in named] == [False] * len(named)
