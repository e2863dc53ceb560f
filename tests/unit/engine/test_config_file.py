"""The configuration file, right and wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from propfan.engine import config_file
from propfan.engine.config import EngineConfig
from propfan.engine.processes import Capacity
from propfan.pluginmachinery.errors import ConfigError


def written(folder: Path, content: str | bytes) -> Path:
    path = folder / "engine.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def refusal(path: Path | None, overrides: dict[str, Any] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        config_file.load(path, overrides or {})
    return str(caught.value)


@pytest.mark.parametrize("content", ["", "# nothing\n", "---\n", "\n\n"])
def test_no_settings_are_the_defaults(tmp_path: Path, content: str) -> None:
    assert config_file.load(written(tmp_path, content), {}) == config_file.load(None, {}) == EngineConfig()


def test_settings_are_read(tmp_path: Path) -> None:
    text = """
data-dir: /var/lib/propfan
capacity: {cpu: "2", memory: 4Gi}
gc-ttl-s: 60
default-for-task-types: {python: pod}
plugins:
  k8s: {default-cpus: 200m}
  mine: {anything: [1, 2]}
"""
    config = config_file.load(written(tmp_path, text), {})
    assert config.data_dir == Path("/var/lib/propfan")
    assert (config.capacity.cpu, config.capacity.memory) == ("2", "4Gi")
    assert config.gc_ttl_s == 60.0
    assert config.default_for_task_types == {"python": "pod"}
    assert config.plugins["mine"] == {"anything": [1, 2]}


def test_every_setting_can_be_written(tmp_path: Path) -> None:
    names = [field.encode_name for field in msgspec.structs.fields(EngineConfig)]
    defaults = msgspec.to_builtins(EngineConfig())
    text = "\n".join(f"{name}: {msgspec.json.encode(defaults[name]).decode()}" for name in names)
    assert config_file.load(written(tmp_path, text), {}) == EngineConfig()


def test_overrides_lie_over_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, "namespace: file\nworkers: 7\ncapacity: {cpu: '2', pods: 3}\n")
    config = config_file.load(path, {"namespace": "flag", "workers": None, "capacity": {"cpu": "1"}})
    assert (config.namespace, config.workers) == ("flag", 7)
    assert config.capacity == Capacity(cpu="1", pods=3)


def test_all_that_is_wrong_is_named_at_once(tmp_path: Path) -> None:
    problem = refusal(written(tmp_path, "workres: 1\ngc-ttl-s: soon\nstorage: {s3: {regoin: x}}\n"))
    assert "workres: no such setting, did you mean workers?" in problem
    assert "gc-ttl-s: must be a number, is 'soon'" in problem
    assert "storage.s3.regoin: no such setting, did you mean region?" in problem


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("workers: 0", "workers"),
        ("workers: 1000000", "workers"),
        ("workers: true", "workers"),
        ("resync-s: .inf", "resync-s"),
        ("resync-s: .nan", "resync-s"),
        ("resync-s: 0", "resync-s"),
        ("gc-ttl-s: 1.0e+18", "gc-ttl-s"),
        ("gc-ttl-s: -1", "gc-ttl-s"),
        ("gc-interval-s: .inf", "gc-interval-s"),
        ("max-payload-bytes: 1.5", "max-payload-bytes"),
        ("capacity: {cpu: much}", "capacity.cpu"),
        ("capacity: {cpu: -1}", "capacity.cpu"),
        ("plugins: [pod]", "plugins"),
        ("plugins: {pod: null}", "plugins.pod"),
        ("plugins: {k8s: {default-cpu: 1}}", "plugins.k8s.default-cpu"),
        ("plugins: {logs: {cloudwatch: 1}}", "plugins.logs.cloudwatch"),
        ("1: 2", "1"),
        ("~: 2", "~"),
    ],
)
def test_wrong_value_names_its_setting(tmp_path: Path, text: str, named: str) -> None:
    assert refusal(written(tmp_path, text)).startswith(f"{named}: ")


@pytest.mark.parametrize(
    "content",
    [
        "- a list",
        "just a text",
        "a: [1",
        "a: b: c",
        "a: 1\n---\nb: 2",
        "workers: 1\nworkers: 2",
        "a: !!bool perhaps",
        "a: !!int many",
        "a: !!timestamp then",
        "a: !!python/object/apply:os.getcwd []",
        "a: &a [*a]",
        "? [a]\n: b",
        "a: " + "[" * 5000,
        "&a " + "[" * 50 + "x" + "]" * 50 + "\n",
        b"a: \xff\xfe",
        b"\x00",
        "a: *unknown",
    ],
)
def test_file_that_is_no_configuration_is_named(tmp_path: Path, content: str | bytes) -> None:
    path = written(tmp_path, content)
    assert str(path) in refusal(path) or "a: no such setting" in refusal(path)


def test_file_that_can_not_be_read_is_named(tmp_path: Path) -> None:
    assert str(tmp_path) in refusal(tmp_path)
    assert str(tmp_path / "none.yaml") in refusal(tmp_path / "none.yaml")


def test_aliases_can_not_grow_without_bound(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    assert "more than" in refusal(written(tmp_path, "\n".join(lines)))


@given(st.text(max_size=60) | st.text("&*!?|>[]{}:,#-'\"% \n\tab1~.", max_size=40))
def test_any_text_is_a_configuration_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    try:
        config = config_file.load(path, {})
    except ConfigError:
        return
    assert isinstance(config, EngineConfig)
