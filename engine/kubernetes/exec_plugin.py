"""Runs the exec plugin of a kubeconfig, a program that prints credentials.

The protocol is ``client.authentication.k8s.io/v1``, see
https://kubernetes.io/docs/reference/access-authn-authz/authentication/#client-go-credential-plugins.
The ``kubernetes`` package has one too, but it never ends a program that hangs and tells no error.
"""

from __future__ import annotations

import base64
import os
import subprocess
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import anyio
import msgspec

from propfan.pluginmachinery.errors import ConfigError

TIMEOUT_S: Final = 60.0
"""A plugin that hangs would hold every request."""

_EXTENSION: Final = "client.authentication.k8s.io/exec"
_MOST_CHARACTERS: Final = 500


class Variable(msgspec.Struct, frozen=True):
    name: str
    value: str


class Plugin(msgspec.Struct, frozen=True, rename="camel"):
    """The ``exec`` section of a user. Whether it may ask a person is not asked: nobody is there."""

    api_version: str
    command: str
    args: list[str] | None = None
    env: list[Variable] | None = None
    install_hint: str = ""
    provide_cluster_info: bool = False
    interactive_mode: str = "IfAvailable"


class Credential(msgspec.Struct, frozen=True, rename="camel"):
    """What the plugin gave: a token, or a certificate with its key (PEM)."""

    token: str = ""
    client_certificate_data: str = ""
    client_key_data: str = ""
    expiration_timestamp: datetime | None = None

    def as_user(self) -> Mapping[str, str]:
        """As a user of a kubeconfig has it."""
        if self.token:
            return {"token": self.token}
        return {
            "client-certificate-data": base64.b64encode(self.client_certificate_data.encode()).decode(),
            "client-key-data": base64.b64encode(self.client_key_data.encode()).decode(),
        }


class _Output(msgspec.Struct, rename="camel"):
    api_version: str
    status: Credential


async def run(section: Mapping[str, Any], cluster: Mapping[str, Any], folder: Path) -> Credential:
    """What the plugin prints.

    Args:
        section: ``exec`` of the user.
        cluster: Told to a plugin that wants to know it.
        folder: Of the kubeconfig; a command with a relative path is there.

    Raises:
        ConfigError: it can not be run, fails, hangs or prints something else; has what it wrote to stderr.
    """
    try:
        plugin = msgspec.convert(section, Plugin)
    except msgspec.ValidationError as error:
        raise ConfigError("users.exec", str(error)) from error
    if plugin.interactive_mode == "Always":
        raise _failed(plugin, "it wants to ask a person (interactiveMode: Always), and nobody is there")
    spec: dict[str, Any] = {"interactive": False}
    if plugin.provide_cluster_info:
        spec["cluster"] = _cluster_info(cluster)
    question = {"apiVersion": plugin.api_version, "kind": "ExecCredential", "spec": spec}
    environment = {
        **os.environ,
        **{variable.name: variable.value for variable in plugin.env or ()},
        "KUBERNETES_EXEC_INFO": msgspec.json.encode(question).decode(),
    }
    command = plugin.command
    if os.sep in command:
        command = str(folder / command)
    try:
        with anyio.fail_after(TIMEOUT_S):
            ended = await anyio.run_process(
                [command, *(plugin.args or ())], stdin=subprocess.DEVNULL, env=environment, check=False
            )
    except TimeoutError as error:
        raise _failed(plugin, f"it has not ended within {TIMEOUT_S:.0f} s") from error
    except (OSError, ValueError) as error:  # a ValueError is a zero byte in an argument
        raise _failed(plugin, f"it can not be run: {error}. {plugin.install_hint}".rstrip(". ")) from error
    if ended.returncode:
        said = ended.stderr.decode(errors="replace").strip()[-_MOST_CHARACTERS:]
        raise _failed(plugin, f"it ended with {ended.returncode}: {said}")
    return _credential(plugin, ended.stdout)


def _credential(plugin: Plugin, output: bytes) -> Credential:
    try:
        found = msgspec.json.decode(output, type=_Output)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _failed(plugin, f"it printed no ExecCredential: {error}") from error
    if found.api_version != plugin.api_version:
        raise _failed(plugin, f"it speaks {found.api_version}, not {plugin.api_version}")
    status = found.status
    if not status.token and not (status.client_certificate_data and status.client_key_data):
        raise _failed(plugin, "it gave neither a token nor a certificate with its key")
    return status


def _cluster_info(cluster: Mapping[str, Any]) -> Mapping[str, Any]:
    told = {key: cluster[key] for key in _TOLD_OF_CLUSTER if key in cluster}
    if "certificate-authority" in cluster and "certificate-authority-data" not in cluster:
        content = Path(cluster["certificate-authority"]).read_bytes()
        told["certificate-authority-data"] = base64.b64encode(content).decode()
    for extension in cluster.get("extensions") or ():
        if extension.get("name") == _EXTENSION:
            told["config"] = extension.get("extension")
    return told


_TOLD_OF_CLUSTER: Final = (
    "server",
    "tls-server-name",
    "insecure-skip-tls-verify",
    "certificate-authority-data",
    "proxy-url",
    "disable-compression",
)


def _failed(plugin: Plugin, problem: str) -> ConfigError:
    return ConfigError("users.exec", f"plugin {plugin.command}: {problem}")
