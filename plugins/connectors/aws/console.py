"""Addresses of AWS's console."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

from propfan.pluginmachinery.phases import TaskLog

_HOSTS: Final[Mapping[str, str]] = {
    "aws": "console.aws.amazon.com",
    "aws-cn": "console.amazonaws.cn",
    "aws-us-gov": "console.amazonaws-us-gov.com",
}
"""By partition."""


def link(client: Any, name: str, service: str, fragment: str) -> TaskLog:
    """A page of a service's console, in the client's region.

    Args:
        fragment: The page, with all that comes from outside quoted.
    """
    region = quote(client.meta.region_name)
    host = _HOSTS.get(client.meta.partition, _HOSTS["aws"])
    return TaskLog(f"https://{region}.{host}/{service}/home?region={region}#{fragment}", name, ready=True)


def log_group(client: Any, group: str) -> TaskLog:
    """A log group of CloudWatch, whose console wants names quoted twice, with ``$`` for ``%``."""
    name = quote(quote(group, safe=""), safe="").replace("%", "$")
    return link(client, "CloudWatch logs", "cloudwatch", f"logsV2:log-groups/log-group/{name}")
