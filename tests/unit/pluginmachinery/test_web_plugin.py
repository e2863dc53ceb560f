from __future__ import annotations

import pytest

from propfan.pluginmachinery.config import Duration, decode_config
from propfan.pluginmachinery.errors import ConfigError, DecodeError
from propfan.pluginmachinery.web_plugin import (
    Caching,
    RateLimit,
    WebPhase,
    WebPluginConfig,
    WebPluginState,
    decode_state,
    encode_state,
)


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


@pytest.mark.parametrize("meta", [None, b"", b"\x00\xff"])
def test_state_survives_its_encoding_with_any_bytes_in_it(meta: bytes | None) -> None:
    state = WebPluginState(WebPhase.RESOURCES_CREATED, "key", meta, "default", 7, 1, "down")
    assert decode_state(encode_state(state)) == state


def test_state_of_a_young_job_is_short() -> None:
    assert len(encode_state(WebPluginState(WebPhase.CREATING, "k"))) < 16


@pytest.mark.parametrize("content", [b"", b"{}", b"\xc1", b"\x91\x63", b"\x92\x01\xa1\xff"])
def test_bytes_that_are_no_state_are_refused(content: bytes) -> None:
    with pytest.raises(DecodeError, match="state of a web API task"):
        decode_state(content)
