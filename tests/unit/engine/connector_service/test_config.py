from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from propfan.engine.connector_service import config as configs
from propfan.pluginmachinery.errors import ConfigError


def test_settings_of_a_file_are_overridden_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "service.yaml"
    path.write_text(
        "port: 9000\nmodules: [a.b]\ntls: {certificate: c.pem, key: k.pem}\ntimeouts: {create-s: 5}\n"
        "limits: {Slurm Connector: {max-concurrent-calls: 2, timeouts: {get-s: 1}}}\n"
        "connectors: {slurm: {host: login1}}\n"
    )
    config = configs.load(path, {"port": 0, "host": None, "tls": {"client-ca": "ca.pem", "key": None}})
    assert (config.port, config.host, config.modules) == (0, "127.0.0.1", ("a.b",))
    assert (config.tls.certificate, config.tls.key, config.tls.client_ca) == ("c.pem", "k.pem", "ca.pem")
    assert (config.timeouts.create_s, config.timeouts.get_s) == (5, 30)
    limit = config.limits["Slurm Connector"]
    assert limit.max_concurrent_calls == 2
    assert limit.timeouts is not None
    assert limit.timeouts.get_s == 1
    assert config.connectors["slurm"] == {"host": "login1"}


def test_without_a_file_the_defaults_hold() -> None:
    assert configs.load(None, {"metrics-port": None}) == configs.ConnectorServiceConfig()


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"prot": 1}, "prot"),
        ({"port": 70_000}, "port"),
        ({"port": "x"}, "port"),
        ({"max-message-bytes": 3}, "max-message-bytes"),
        ({"timeouts": {"create-s": 0}}, r"timeouts\.create-s"),
        ({"timeouts": {"crate-s": 1}}, r"timeouts\.crate-s"),
        ({"limits": {"x": {"max-concurrent-calls": 0}}}, r"limits.*max-concurrent-calls"),
        ({"http": {"max-answer-bytes": 1}}, r"http\.max-answer-bytes"),
        ({"tls": {"certificate": "c.pem"}}, "tls: certificate and key belong together"),
        ({"tls": {"client-ca": "c.pem"}}, r"tls\.client-ca: needs tls\.certificate"),
    ],
)
def test_a_wrong_setting_is_named(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        configs.load(None, settings)


def test_a_file_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.yaml: can not be read"):
        configs.load(tmp_path / "absent.yaml", {})
    (tmp_path / "list.yaml").write_text("[1]")
    with pytest.raises(ConfigError, match="must be a mapping of settings, is list"):
        configs.load(tmp_path / "list.yaml", {})
