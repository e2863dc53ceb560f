from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from propfan.pluginmachinery.config import Duration
from propfan.pluginmachinery.core_plugin import CorePlugin, CoreProperties
from propfan.pluginmachinery.errors import ConfigError, PluginError, PluginNotFoundError
from propfan.pluginmachinery.kubernetes_plugin import POD, Kind, Properties
from propfan.pluginmachinery.registry import (
    CorePluginEntry,
    KubernetesPluginEntry,
    LoadedClusterPlugin,
    LoadedCorePlugin,
    LoadedKubernetesPlugin,
    LoadedWebPlugin,
    PluginEntry,
    Registry,
    SetupContext,
    WebPluginEntry,
)
from propfan.pluginmachinery.testing import setup_context
from propfan.pluginmachinery.web_plugin import Caching, RateLimit, WebPluginConfig

WRONG: Any = object()
"""A value of no type that anything takes."""

RAY_CLUSTER = Kind("ray.io", "v1", "RayCluster", "rayclusters")


class KubernetesExample:
    properties: Any = Properties()

    def build_identity_resource(self, metadata: Any) -> Any: ...

    async def build_resource(self, ctx: Any) -> Any: ...

    async def get_task_phase(self, ctx: Any, resource: Any) -> Any: ...

    def get_properties(self) -> Any:
        return self.properties

    def is_terminal(self, resource: Any) -> bool:
        return False

    def get_completion_time(self, resource: Any) -> datetime | None: ...


class ClusterExample:
    def get_cluster_name(self, ctx: Any) -> str:
        return "c"

    async def build_cluster_resource(self, ctx: Any) -> Any: ...

    def build_cluster_identity_resource(self, metadata: Any) -> Any: ...

    def is_cluster_ready(self, resource: Any) -> bool:
        return True

    async def check_cluster(self, ctx: Any, resource: Any) -> str:
        return ""

    async def build_job_resource(self, ctx: Any, cluster_name: str) -> Any: ...

    def build_job_identity_resource(self, metadata: Any) -> Any: ...

    async def get_job_phase(self, ctx: Any, resource: Any) -> Any: ...

    def get_properties(self) -> Properties:
        return Properties()

    def is_terminal(self, resource: Any) -> bool:
        return False

    def get_completion_time(self, resource: Any) -> datetime | None: ...

    def is_idle(self, resource: Any, now: datetime) -> bool:
        return False


class CoreExample:
    properties: Any = CoreProperties()

    async def handle(self, ctx: Any) -> Any: ...

    async def abort(self, ctx: Any) -> None: ...

    async def finalize(self, ctx: Any) -> None: ...

    def get_properties(self) -> Any:
        return self.properties


class WebExample:
    config: Any = WebPluginConfig()

    def get_config(self) -> Any:
        return self.config

    async def resource_requirements(self, ctx: Any) -> Any: ...

    async def create(self, ctx: Any) -> Any: ...

    async def get(self, meta: bytes) -> Any: ...

    async def delete(self, meta: bytes, reason: str) -> None: ...

    async def status(self, ctx: Any, meta: bytes, resource: Any) -> Any: ...


class SyncWebExample:
    def get_config(self) -> WebPluginConfig:
        return WebPluginConfig()

    async def do(self, ctx: Any) -> Any: ...


def make_example(setup: SetupContext) -> KubernetesExample:
    return KubernetesExample()


def kubernetes(id: Any = "pod", *task_types: str, **changes: Any) -> KubernetesPluginEntry:
    values = {"id": id, "task_types": task_types or (id,), "watched": POD, "load": make_example}
    return KubernetesPluginEntry(**values | changes)


def core(**changes: Any) -> CorePluginEntry:
    values: dict[str, Any] = {"id": "core", "task_types": ("core",), "load": CoreExample()}
    return CorePluginEntry(**values | changes)


def web(**changes: Any) -> WebPluginEntry:
    values: dict[str, Any] = {"id": "web", "task_types": ("web",), "load": WebExample()}
    return WebPluginEntry(**values | changes)


def registry_of(*entries: PluginEntry, **options: Any) -> Registry:
    registry = Registry(**options)
    for entry in entries:
        registry.register(entry)
    return registry


def loaded(*entries: PluginEntry, **options: Any) -> Registry:
    registry = registry_of(*entries, **options)
    assert registry.load(setup_context()) == ()
    return registry


def id_of(registry: Registry, task_type: str) -> str:
    return registry.resolve(task_type).entry.id


def test_every_contract_is_loaded_as_what_it_is() -> None:
    registry = loaded(
        kubernetes("pod"),
        kubernetes("ray", load=None, load_cluster=lambda _: ClusterExample(), cluster_watched=RAY_CLUSTER),
        core(),
        web(),
        web(id="sync", task_types=("sync",), load=SyncWebExample()),
    )
    kinds = [LoadedKubernetesPlugin, LoadedClusterPlugin, LoadedCorePlugin, LoadedWebPlugin, LoadedWebPlugin]
    assert [type(plugin) for plugin in registry.plugins] == kinds
    assert isinstance(registry.resolve("sync").plugin, SyncWebExample)


def test_a_class_is_what_makes_a_plugin() -> None:
    class Configured(KubernetesExample):
        def __init__(self, setup: SetupContext) -> None:
            self.setup = setup

    registry = registry_of(kubernetes("pod", load=Configured))
    setup = setup_context()
    registry.load(setup)
    plugin = registry.resolve("pod").plugin
    assert isinstance(plugin, Configured)
    assert plugin.setup is setup


@pytest.mark.parametrize(
    ("entry", "field", "rule"),
    [
        (kubernetes(""), "id", "is required"),
        (kubernetes(" "), "id", "is required"),
        (kubernetes(3), "id", "is required"),
        (kubernetes(task_types=()), "task_types", "at least one"),
        (kubernetes(task_types="container"), "task_types", "collection of strings, is str"),
        (kubernetes(task_types=None), "task_types", "collection of strings, is NoneType"),
        (kubernetes(task_types=("",)), "task_types", "one is ''"),
        (kubernetes(task_types=("a", 3)), "task_types", "one is 3"),
        (kubernetes(task_types=("a", "a")), "task_types", "twice"),
        (kubernetes(is_default="yes"), "is_default", "must be a bool"),
        (kubernetes(watched=None), "watched", "is required"),
        (kubernetes(watched="pods"), "watched", "is str"),
        (kubernetes(watched=Kind("", "v1", "Pod", "")), "watched.plural", "must be a name"),
        (kubernetes(watched=Kind("", WRONG, "Pod", "pods")), "watched.version", "must be a name"),
        (kubernetes(watched=Kind(WRONG, "v1", "Pod", "pods")), "watched.group", "must be a string"),
        (kubernetes(load=None), "load", "is required"),
        (kubernetes(load_cluster=ClusterExample()), "load_cluster", "together"),
        (kubernetes(load=None, load_cluster=ClusterExample()), "cluster_watched", "is required"),
        (kubernetes(cluster_watched=POD), "cluster_watched", "only for load_cluster"),
        (kubernetes(load=3), "load", "must be a plugin, or what makes one, is int"),
        (kubernetes(load=lambda: None), "load", "callable with one SetupContext"),
        (kubernetes(load=lambda _a, _b: None), "load", "callable with one SetupContext"),
        (core(id=""), "id", "is required"),
        (core(task_types=[]), "task_types", "at least one"),
        (core(load=None), "load", "is required"),
        (web(id=""), "id", "is required"),
        (web(task_types={}), "task_types", "at least one"),
        (web(load=None), "load", "is required"),
        (object(), "entry", "must be a plugin entry, is object"),
    ],
)
def test_entry_that_breaks_a_rule_is_refused(entry: Any, field: str, rule: str) -> None:
    registry = Registry()
    with pytest.raises(PluginError, match=re.escape(rule)) as raised:
        registry.register(entry)
    assert raised.value.field == field
    assert registry.describe() == ()


def test_async_loader_is_refused() -> None:
    async def load(setup: SetupContext) -> Any: ...

    with pytest.raises(PluginError, match="must not be async"):
        Registry().register(kubernetes(load=load))


def variant(base: type, **members: Any) -> Any:
    return type("Variant", (base,), members)()


async def _anything(*_: Any) -> Any: ...


def _anything_at_once(*_: Any) -> Any: ...


def _nothing_at_once(self: Any) -> Any: ...


def _more_at_once(self: Any, resource: Any, more: Any) -> Any: ...


@pytest.mark.parametrize(
    ("entry", "field", "rule"),
    [
        (kubernetes(load=variant(KubernetesExample, build_resource=None)), "build_resource", "lacks"),
        (kubernetes(load=variant(KubernetesExample, is_terminal=True)), "is_terminal", "must be a method"),
        (
            kubernetes(load=variant(KubernetesExample, build_resource=_anything_at_once)),
            "build_resource",
            "must be async: 'async def build_resource(self, ctx)'",
        ),
        (kubernetes(load=variant(KubernetesExample, is_terminal=_anything)), "is_terminal", "must not be async"),
        (
            kubernetes(load=variant(KubernetesExample, is_terminal=_nothing_at_once)),
            "is_terminal",
            "must be callable as 'def is_terminal(self, resource)'",
        ),
        (
            kubernetes(load=variant(KubernetesExample, is_terminal=_more_at_once)),
            "is_terminal",
            "must be callable",
        ),
        (kubernetes(load=variant(KubernetesExample, on_abort=_nothing_at_once)), "on_abort", "must be async"),
        (kubernetes(load=variant(KubernetesExample, properties=None)), "get_properties", "must return Properties"),
        (
            kubernetes(load=variant(KubernetesExample, properties=Properties(generated_name_max_length=7))),
            "generated_name_max_length",
            "must be at least 8, is 7",
        ),
        (
            kubernetes(load=variant(KubernetesExample, properties=Properties(generated_name_max_length=WRONG))),
            "generated_name_max_length",
            "must be an int or None, is object",
        ),
        (
            kubernetes(load=variant(KubernetesExample, properties=Properties(disable_inject_finalizer=WRONG))),
            "disable_inject_finalizer",
            "must be a bool, is object",
        ),
        (
            kubernetes(load=None, load_cluster=variant(ClusterExample, is_idle=None), cluster_watched=POD),
            "is_idle",
            "lacks",
        ),
        (core(load=variant(CoreExample, finalize=None)), "finalize", "lacks"),
        (core(load=variant(CoreExample, properties=Properties())), "get_properties", "must return CoreProperties"),
        (
            core(load=variant(CoreExample, properties=CoreProperties(generated_name_max_length=0))),
            "generated_name_max_length",
            "must be at least 8",
        ),
        (
            core(load=variant(CoreExample, properties=CoreProperties(disable_node_level_caching=WRONG))),
            "disable_node_level_caching",
            "must be a bool",
        ),
        (web(load=variant(WebExample, delete=None)), "delete", "lacks"),
        (web(load=variant(WebExample, do=_anything)), "do", "either"),
        (web(load=variant(SyncWebExample, do=_anything_at_once)), "do", "must be async"),
        (web(load=variant(WebExample, config={})), "get_config", "must return WebPluginConfig, is dict"),
    ],
)
def test_plugin_that_is_none_is_refused_as_instance_and_when_made(entry: Any, field: str, rule: str) -> None:
    with pytest.raises(PluginError, match=re.escape(rule)) as raised:
        Registry().register(entry)
    assert (raised.value.plugin, raised.value.field) == (entry.id, field)

    name = "load_cluster" if getattr(entry, "load_cluster", None) else "load"
    broken = getattr(entry, name)
    registry = registry_of(msgspec.structs.replace(entry, **{name: lambda _: broken}))
    [failure] = registry.load(setup_context())
    assert (failure.plugin, failure.field) == (entry.id, field)
    assert rule in str(failure)


def test_method_that_is_only_inherited_from_the_protocol_is_missing() -> None:
    class Explicit(CoreExample, CorePlugin):
        pass

    class Forgetful(CorePlugin):
        async def handle(self, ctx: Any) -> Any: ...

        async def abort(self, ctx: Any) -> None: ...

        def get_properties(self) -> CoreProperties:
            return CoreProperties()

    loaded(core(load=Explicit()))
    make: type[Any] = Forgetful
    with pytest.raises(PluginError, match="Forgetful lacks the method 'async def finalize"):
        Registry().register(core(load=make()))


def test_eight_is_the_shortest_length_of_names() -> None:
    loaded(kubernetes(load=variant(KubernetesExample, properties=Properties(generated_name_max_length=8))))


def test_async_methods_may_be_wrapped() -> None:
    class AsyncCallable:
        async def __call__(self, ctx: Any) -> Any: ...

    loaded(kubernetes(load=variant(KubernetesExample, build_resource=AsyncCallable())))
    loaded(kubernetes(load=variant(KubernetesExample, build_resource=functools.partialmethod(_anything))))


def _raise(error: Exception) -> Callable[[SetupContext], Any]:
    def load(setup: SetupContext) -> Any:
        raise error

    return load


class Section(msgspec.Struct, frozen=True):
    size: int = 0


@pytest.mark.parametrize(
    ("load", "rule"),
    [
        (lambda _: None, "returned None instead of a plugin"),
        (_raise(ValueError("no")), "raised ValueError: no"),
        (lambda setup: setup.section("broken", Section), "raised ConfigError: plugins.broken.size: must be an integer"),
    ],
)
def test_failing_plugin_stops_no_other_and_is_never_replaced(load: Any, rule: str) -> None:
    registry = registry_of(kubernetes("broken", load=load), kubernetes("good", is_default=True))
    failures = registry.load(setup_context(sections={"broken": {"size": "x"}}))
    assert [(failure.plugin, failure.field) for failure in failures] == [("broken", "load")]
    assert rule in str(failures[0])
    assert id_of(registry, "good") == "good"
    with pytest.raises(PluginError, match="plugin 'broken'"):
        registry.resolve("broken")


def test_loading_again_makes_plugins_anew() -> None:
    registry = registry_of(
        kubernetes("section", load=lambda setup: variant(KubernetesExample, size=setup.section("s", Section).size))
    )
    assert registry.load(setup_context(sections={"s": {"size": "x"}})) != ()
    assert registry.load(setup_context(sections={"s": {"size": 3}})) == ()
    plugin: Any = registry.resolve("section").plugin
    assert plugin.size == 3


def test_resolving_before_loading_says_so() -> None:
    with pytest.raises(PluginError, match=r"call Registry\.load first"):
        registry_of(kubernetes()).resolve("pod")


def test_unknown_task_type_is_refused() -> None:
    with pytest.raises(PluginNotFoundError) as raised:
        loaded(kubernetes("pod", "container")).resolve("other")
    assert raised.value.message == 'no plugin registered for task type "other" and no default plugin available'
    assert (raised.value.code, raised.value.task_type) == ("PluginNotFound", "other")


def test_unknown_task_type_goes_to_the_default_plugin() -> None:
    assert id_of(loaded(kubernetes("a"), kubernetes("b", is_default=True)), "other") == "b"


def test_configured_default_plugin_comes_before_that_of_an_entry() -> None:
    registry = loaded(kubernetes("a"), kubernetes("b", is_default=True), default_plugin="a")
    assert id_of(registry, "other") == "a"
    assert [description.is_default for description in registry.describe()] == [True, False]


def test_two_defaults_are_refused() -> None:
    registry = registry_of(kubernetes("a", is_default=True))
    with pytest.raises(PluginError, match="plugin 'b': is_default: plugin 'a' is the default already"):
        registry.register(core(id="b", is_default=True))


def test_duplicate_id_is_refused() -> None:
    registry = registry_of(kubernetes("a", "x"))
    with pytest.raises(PluginError, match="plugin 'a': id: is taken"):
        registry.register(core(id="a", task_types=("y",)))
    assert [description.contract for description in registry.describe()] == ["kubernetes"]


def test_duplicate_task_type_is_refused_and_leaves_nothing_behind() -> None:
    registry = registry_of(kubernetes("a", "x", "y"))
    with pytest.raises(PluginError, match=r"'y' is served by plugin 'a' already; choose .* default_for_task_types.y"):
        registry.register(kubernetes("b", "z", "y"))
    registry.load(setup_context())
    with pytest.raises(PluginNotFoundError):
        registry.resolve("z")


@pytest.mark.parametrize("chosen", ["a", "b"])
def test_configuration_chooses_between_two_plugins_of_a_type(chosen: str) -> None:
    registry = loaded(kubernetes("a", "x", "y"), kubernetes("b", "y"), default_for_task_types={"y": chosen})
    assert id_of(registry, "y") == chosen
    assert id_of(registry, "x") == "a"


def test_configuration_routes_a_type_that_the_plugin_does_not_name() -> None:
    assert id_of(loaded(kubernetes("a"), default_for_task_types={"other": "a"}), "other") == "a"


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"default_for_task_types": {"x": "nobody"}}, "default_for_task_types.x"),
        ({"default_plugin": "nobody"}, "default_plugin"),
    ],
)
def test_configuration_that_names_an_unknown_plugin_is_refused(options: Any, field: str) -> None:
    with pytest.raises(ConfigError, match="there is no plugin 'nobody'; registered are: a, b") as raised:
        registry_of(kubernetes("b"), kubernetes("a"), **options).load(setup_context())
    assert raised.value.field == field


def test_description_tells_what_runs_where_and_what_is_broken() -> None:
    registry = registry_of(
        kubernetes("ray", load=None, load_cluster=ClusterExample(), watched=RAY_CLUSTER, cluster_watched=RAY_CLUSTER),
        core(load=lambda _: None),
        default_for_task_types={"extra": "ray"},
    )
    registry.load(setup_context())
    ray, broken = registry.describe()
    assert (ray.id, ray.contract, ray.watched, ray.is_loaded) == ("ray", "cluster", "rayclusters.ray.io", True)
    assert (ray.task_types, ray.error, ray.origin) == (("extra", "ray"), "", "")
    assert (broken.contract, broken.watched, broken.is_loaded) == ("core", "", False)
    assert broken.error == "plugin 'core': load: returned None instead of a plugin"


def test_every_value_out_of_range_is_named() -> None:
    config = WebPluginConfig(
        read_rate_limiter=RateLimit(qps=0, burst=4),
        write_rate_limiter=RateLimit(qps=100_001, burst=10_001),
        caching=Caching(size=9, resync_interval=Duration.parse("1h1s"), workers=0),
    )
    with pytest.raises(PluginError) as raised:
        Registry().register(web(load=variant(WebExample, config=config)))
    assert raised.value.rule == "config validation failed. Error: " + "; ".join(
        f"{field} is expected to be between {low} and {high}. Provided value is {value}"
        for field, low, high, value in (
            ("readRateLimiter.qps", 1, 100000, 0),
            ("readRateLimiter.burst", 5, 10000, 4),
            ("writeRateLimiter.qps", 1, 100000, 100001),
            ("writeRateLimiter.burst", 5, 10000, 10001),
            ("caching.size", 10, 500000, 9),
            ("caching.resyncInterval", "5s", "1h0m0s", "1h0m1s"),
            ("caching.workers", 1, 10000, 0),
        )
    )


def test_ends_of_the_ranges_and_the_defaults_are_allowed() -> None:
    low = WebPluginConfig(
        read_rate_limiter=RateLimit(1, 5),
        write_rate_limiter=RateLimit(1, 5),
        caching=Caching(size=10, resync_interval=Duration.parse("5s"), workers=1),
    )
    high = WebPluginConfig(
        read_rate_limiter=RateLimit(100_000, 10_000),
        write_rate_limiter=RateLimit(100_000, 10_000),
        caching=Caching(size=500_000, resync_interval=Duration.parse("1h"), workers=10_000),
    )
    assert [config.violations() for config in (low, high, WebPluginConfig())] == [(), (), ()]


def distribution(directory: Path, name: str, module: str, *points: str) -> None:
    """An installed distribution, as far as its metadata and one module go."""
    metadata = directory / f"{name}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[propfan.plugins]\n" + "\n".join(points))
    (directory / f"{name}.py").write_text(module)


GOOD = """
from propfan.plugins.sleep import entry as sleep
import msgspec
one = msgspec.structs.replace(sleep, id="{0}-one", task_types=("{0}-1",))
two = msgspec.structs.replace(sleep, id="{0}-two", task_types=("{0}-2",))
both = (one, two)
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(
        sys, "path", [str(tmp_path), *(path for path in sys.path if not (Path(path) / "propfan").exists())]
    )
    for name in [name for name in sys.modules if name.startswith("dist_")]:
        monkeypatch.delitem(sys.modules, name)
    return tmp_path


def ids(registry: Registry) -> list[str]:
    return [description.id for description in registry.describe() if description.origin.startswith("dist_")]


def ours(refused: tuple[PluginError, ...]) -> list[str]:
    return [str(error) for error in refused if "dist_" in str(error)]


def test_installed_plugins_are_found_one_or_several_to_an_entry_point(installed: Path) -> None:
    distribution(installed, "dist_b", GOOD.format("b"), "x = dist_b:one")
    distribution(installed, "dist_a", GOOD.format("a"), "x = dist_a:both")
    registry = Registry()
    assert ours(registry.discover()) == []
    assert ids(registry) == ["a-one", "a-two", "b-one"]
    assert {description.origin for description in registry.describe()} >= {"dist_a 1.0", "dist_b 1.0"}


@pytest.mark.parametrize(
    ("module", "problem"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("raise RuntimeError('boom')", "RuntimeError: boom"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("syntax error", "SyntaxError"),
        ("x = 1", "AttributeError"),
        ("entry = 3", "TypeError"),
        ("entry = None", "TypeError"),
        ("entry = ['pod']", "must be plugin entries, is str"),
    ],
)
def test_broken_distribution_is_named_and_stops_no_other(installed: Path, module: str, problem: str) -> None:
    distribution(installed, "dist_a", module, "broken = dist_a:entry")
    distribution(installed, "dist_b", GOOD.format("b"), "x = dist_b:both")
    registry = Registry()
    [error] = ours(registry.discover())
    assert error.startswith("plugin 'broken (dist_a 1.0)': dist_a:entry: ")
    assert problem in error
    assert ids(registry) == ["b-one", "b-two"]


def test_refused_entry_of_a_distribution_stops_no_other(installed: Path) -> None:
    module = GOOD.format("a") + "three = (msgspec.structs.replace(one, id=''), one, one, two)"
    distribution(installed, "dist_a", module, "x = dist_a:three")
    registry = Registry()
    refused = registry.discover()
    assert [error.rule for error in refused if error.plugin == "a-one"] == ["is taken by a plugin of dist_a 1.0"]
    assert ids(registry) == ["a-one", "a-two"]
