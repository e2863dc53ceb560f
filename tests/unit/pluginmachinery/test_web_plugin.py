from __future__ import annotations

import msgspec
import pytest

from propfan.pluginmachinery.config import Duration, decode_config
from propfan.pluginmachinery.errors import ConfigError
from propfan.pluginmachinery.web_plugin import Caching, RateLimit, WebPhase, WebPluginConfig, WebPluginState


def test_configuration_is_read_by_its_keys() -> None:
    section = {
        "resourceQuotas": {"default": 10},
        "readRateLimiter": {"qps": 1, "burst": 5},
        "caching": {"resyncInterval": "1m", "maxSystemFailures": 2},
    }
    assert decode_config(WebPluginConfig, section, "plugins.web.webApi") == WebPluginConfig(
        resource_quotas={"default": 10},
        read_rate_limiter=RateLimit(1, 5),
        caching=Caching(resync_interval=Duration.parse("1m"), max_system_failures=2),
    )


def test_unknown_key_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"caching\.sise: no such setting, did you mean size"):
        decode_config(WebPluginConfig, {"caching": {"sise": 3}}, "plugins.web.webApi")


def test_only_the_last_three_phases_are_terminal() -> None:
    terminal = {phase for phase in WebPhase if phase.is_terminal}
    assert terminal == {WebPhase.SUCCEEDED, WebPhase.USER_FAILURE, WebPhase.SYSTEM_FAILURE}


def test_state_survives_json_with_any_bytes_in_it() -> None:
    state = WebPluginState(WebPhase.RESOURCES_CREATED, 2, b"\x00\xff", 1, error_message="down")
    assert msgspec.json.decode(msgspec.json.encode(state), type=WebPluginState) == state
