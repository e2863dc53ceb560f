from __future__ import annotations

import subprocess
import sys
from typing import Any

import anyio
import pytest

from propfan.pluginmachinery.config import decode_config
from propfan.pluginmachinery.errors import ConfigError, PermanentError, TransientError
from propfan.pluginmachinery.testing import FakeSecrets
from propfan.pluginmachinery.web_plugin import Discovery
from propfan.plugins.connector.config import PATH, ConnectorServiceConfig
from propfan.plugins.connector.directory import Directory
from propfan.plugins.connector.wire import Category
from tests.unit.plugins.connector.service import Service, serving

pytestmark = pytest.mark.anyio


def config(**section: Any) -> ConnectorServiceConfig:
    made = decode_config(ConnectorServiceConfig, section, PATH)
    made.check()
    return made


def directory(offers: dict[str, Any], **section: Any) -> Directory:
    """Whose connectors have answered with these task types, versions included; ``None`` has not answered."""
    made = Directory(config(**section), FakeSecrets())
    for name, connector in made.connectors.items():
        offered = offers.get(name)
        connector.categories = None if offered is None else tuple(Category(*each) for each in offered)
    made._has_begun = True
    made._route()
    return made


def at(endpoint: str, **more: str) -> dict[str, Any]:
    return {"endpoint": endpoint, **more}


def test_most_special_scope_wins() -> None:
    made = directory(
        {"any": [("t", 0)], "domain": [("t", 0)], "both": [("t", 0)]},
        connectors={
            "both": at("a:1", project="p", domain="d"),
            "domain": at("b:1", domain="d"),
            "any": at("c:1"),
        },
    )
    found = {scope: made.find("t", 0, *scope).name for scope in (("p", "d"), ("q", "d"), ("p", "e"), ("", ""))}
    assert found == {("p", "d"): "both", ("q", "d"): "domain", ("p", "e"): "any", ("", ""): "any"}


def test_what_is_configured_goes_before_what_was_discovered_and_apps_go_before_all() -> None:
    section = {
        "connectors": {"a": at("a:1"), "b": at("b:1")},
        "connectorApps": {"app": at("c:1")},
        "connectorForTaskTypes": {"t": "b", "u": "b"},
    }
    made = directory({"a": [("t", 0), ("t", 1)], "b": [], "app": [("u", 0)]}, **section)
    assert made.find("t", 0, "", "").name == "b"
    assert made.find("t", 1, "", "").name == "a"
    assert made.find("u", 0, "", "").name == "app"


def test_default_connector_takes_what_it_is_told_to_and_what_nobody_else_has() -> None:
    section = {"defaultConnector": at("a:1"), "connectors": {"b": at("b:1")}, "supportedTaskTypes": ["s", "t"]}
    made = directory({"defaultConnector": [], "b": [("t", 0)]}, **section)
    assert [made.find(name, 0, "", "").name for name in ("s", "t", "x")] == [
        "defaultConnector",
        "b",
        "defaultConnector",
    ]
    assert made.discovered().task_types == {"s", "t"}


def test_without_connectors_nothing_is_discovered_and_nothing_imported() -> None:
    made = directory({})
    assert made.discovered() == Discovery()


def test_miss_names_the_versions_there_are_once_all_have_answered() -> None:
    section = {"connectors": {"a": at("a:1"), "b": at("b:1")}}
    with pytest.raises(TransientError, match=r"version \[2\] yet; not heard of so far: connector 'b'"):
        directory({"a": [("t", 1)]}, **section).find("t", 2, "", "")
    with pytest.raises(PermanentError, match=r"no connector found for task type \[t\] and version \[2\]; .* 0, 1$"):
        directory({"a": [("t", 1), ("t", 0)], "b": []}, **section).find("t", 2, "", "")


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        ({"connectors": {"a": {}}}, "connectors.a.endpoint: is required"),
        ({"connectors": {"defaultConnector": at("a:1")}}, "the name is taken"),
        ({"connectors": {"a": at("a:1")}, "connectorApps": {"a": at("a:1")}}, "connectorApps.a: the name is taken"),
        (
            {"connectorForTaskTypes": {"t": "a"}},
            "connectorForTaskTypes.t: there is no connector 'a'; configured are: none",
        ),
        ({"pollInterval": "10ms"}, "pollInterval: must be at least 1s, is 10ms"),
        ({"pollIntervals": {"t": "2h"}}, "pollIntervals.t: must be between 1s and 1h, is 2h0m0s"),
        ({"defaultConnector": {"timeouts": {"Get": "1s"}}}, "timeouts.Get: no such method; there are: CreateTask"),
        ({"defaultConnector": {"certSecret": "a", "insecure": False}}, "keySecret: must be set together"),
        ({"defaultConnector": {"caSecret": "a"}}, "insecure: must be false where certificates are given"),
        ({"defaultConnector": {"defaultServiceConfig": "{"}}, "defaultServiceConfig: is no JSON"),
        ({"defaultConnector": {"defaultServiceConfig": "[]"}}, "defaultServiceConfig: must be a JSON object"),
        ({"conectors": {}}, "conectors: no such setting, did you mean connectors"),
        ({"webApi": {"caching": {"worker": 3}}}, "webApi.caching.worker: no such setting"),
        ({"defaultConnector": {"family": "grpc"}}, "family"),
    ],
)
def test_wrong_setting_is_named(section: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        config(**section)


def test_part_of_a_setting_leaves_the_defaults_of_the_rest() -> None:
    made = config(
        webApi={"readRateLimiter": {"qps": 500}, "caching": {"workers": 3}}, defaultConnector={"endpoint": "a:1"}
    )
    assert (made.web_api.read_rate_limiter.qps, made.web_api.read_rate_limiter.burst) == (500, 100)
    assert (made.web_api.caching.workers, made.web_api.caching.size) == (3, 500_000)
    assert made.web_api.resource_quotas == {"default": 1000}
    assert (made.default_connector.insecure, made.default_connector.timeout_s("GetTask")) == (True, 10.0)


def test_timeout_is_the_methods_own_or_the_default_and_zero_is_none() -> None:
    made = config(defaultConnector={"endpoint": "a:1", "timeouts": {"GetTask": "2s", "DeleteTask": "0s"}})
    limits = [made.default_connector.timeout_s(method) for method in ("GetTask", "CreateTask", "DeleteTask")]
    assert limits == [2.0, 10.0, None]


async def test_what_was_offered_last_counts_while_a_connector_is_away() -> None:
    async with serving(Service("t")) as server:
        made = Directory(config(defaultConnector=at(server.endpoint), supportedTaskTypes=[]), FakeSecrets())
        connector = made.connectors["defaultConnector"]
        await made._ask(connector)
        await server.stop()
        await made._ask(connector)
        assert made.discovered().task_types == {"t"}
        assert "UNAVAILABLE" in connector.problem
        server.service.task_types = ["u"]
        await server.start()
        with anyio.fail_after(20):
            while connector.problem:
                await made._ask(connector)
        assert made.discovered().task_types == {"u"}
        await connector.channel.close()


async def test_second_of_two_who_ask_takes_over_when_the_first_ends() -> None:
    service = Service("t")
    async with serving(service) as server, anyio.create_task_group() as tasks:
        made = Directory(config(defaultConnector=at(server.endpoint)), FakeSecrets())
        first = anyio.CancelScope()

        async def ask() -> None:
            with first:
                await made.run()

        tasks.start_soon(ask)
        with anyio.fail_after(20):
            await service.until(lambda: service.calls["ListConnectors"] == 1)
            tasks.start_soon(made.run)
            first.cancel()
            await service.until(lambda: service.calls["ListConnectors"] == 2)
        tasks.cancel_scope.cancel()


def test_grpc_is_imported_only_when_something_is_called() -> None:
    program = (
        "from propfan.plugins.connector.plugin import ConnectorPlugin; import sys; assert 'grpc' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
