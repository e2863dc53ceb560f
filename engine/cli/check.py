"""``propfan plugins`` and ``propfan check``: what this installation can do and how it is set up."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Final

import msgspec
import rich_click as click
import yaml
from rich.table import Table
from rich.text import Text

from propfan import _speedups
from propfan.engine import config_file as config_files
from propfan.engine.api import installed_plugins
from propfan.engine.cli.app import EXIT_FAILED, EXIT_USAGE, config_option, fail, output, print_json
from propfan.engine.config import EngineConfig
from propfan.engine.secrets import FileEnvSecrets
from propfan.engine.taskfiles import TaskFile, read_tasks
from propfan.pluginmachinery.config import Duration, K8sConfig, decode_config
from propfan.pluginmachinery.entries import SetupContext
from propfan.pluginmachinery.errors import ConfigError, PropfanError
from propfan.pluginmachinery.loglinks import LogsConfig
from propfan.pluginmachinery.registry import Registry

_SECRETS: Final = frozenset({"secret-access-key", "session-token", "account-key"})
"""Settings that are never printed."""


@click.command()
@config_option
@click.option("--json", "as_json", is_flag=True, help="One JSON line per plugin.")
def plugins(*, config_file: Path | None, as_json: bool) -> None:
    """Lists the plugins that are installed, and the task types that each runs."""
    try:
        registry = _loaded(config_files.load(config_file, {}))
    except PropfanError as error:
        fail(error)
    found = registry.describe()
    if as_json:
        for plugin in found:
            print_json(plugin)
    else:
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
        for column in ("PLUGIN", "CONTRACT", "TASK TYPES", "OBJECT", "FROM"):
            table.add_column(column, overflow="fold")
        for plugin in found:
            table.add_row(
                Text(plugin.id + (" (default)" if plugin.is_default else "")),
                plugin.contract,
                Text(", ".join(plugin.task_types)),
                plugin.watched,
                Text(plugin.error or plugin.origin),
                style="red" if plugin.error else "",
            )
        output().print(table)
    sys.exit(EXIT_FAILED if any(plugin.error for plugin in found) else 0)


@click.command()
@click.argument("files", nargs=-1, type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--inputs", type=click.Path(dir_okay=False, path_type=Path), help="Checked against each task's interface."
)
@config_option
def check(files: Sequence[Path], inputs: Path | None, config_file: Path | None) -> None:
    """Checks the settings, the plugins and task FILES.

    Without FILES it prints all settings as they are understood, as YAML that -c takes; secrets are left out.

    \b
    Examples:
      propfan check > engine.yaml
      propfan check -c engine.yaml
      propfan check hello.yaml --inputs inputs.json
    """
    problems: list[PropfanError] = []
    try:
        config = config_files.load(config_file, {})
        registry = _loaded(config)
    except PropfanError as error:
        fail(error)
    for path in files:
        try:
            for task in read_tasks(path, inputs=inputs):
                if refused := unserved([task], registry, config):
                    problems += refused
                else:
                    click.echo(f"{task.source}: {task.task_type} task {task.name}: good")
        except PropfanError as error:
            problems.append(error)
    if not files:
        sections = {
            "k8s": decode_config(K8sConfig, config.plugins.get("k8s"), "plugins.k8s"),
            "logs": decode_config(LogsConfig, config.plugins.get("logs"), "plugins.logs"),
        }
        shown = msgspec.structs.replace(config, plugins={**config.plugins, **sections})
        click.echo(yaml.safe_dump(_as_written(shown), sort_keys=False, allow_unicode=True).rstrip())
        click.echo("# speedups: " + ", ".join(f"{name} {kind}" for name, kind in _speedups.backends().items()))
    problems += [PropfanError(plugin.error) for plugin in registry.describe() if plugin.error]
    for problem in problems:
        click.echo(f"Error: {problem}", err=True)
    sys.exit(EXIT_USAGE if problems else 0)


def unserved(tasks: Sequence[TaskFile], registry: Registry, config: EngineConfig) -> Sequence[ConfigError]:
    """A refusal of each task whose type no plugin runs."""
    if config.default_plugin:
        return ()
    served = {task_type for plugin in registry.describe() for task_type in plugin.task_types if not plugin.error}
    return [
        ConfigError(f"{task.source}: type", f"no plugin runs '{task.task_type}'; there are {', '.join(sorted(served))}")
        for task in tasks
        if task.task_type not in served
    ]


def _loaded(config: EngineConfig) -> Registry:
    registry = installed_plugins(config)
    registry.load(
        SetupContext(
            decode_config(K8sConfig, config.plugins.get("k8s"), "plugins.k8s"),
            decode_config(LogsConfig, config.plugins.get("logs"), "plugins.logs"),
            FileEnvSecrets(os.environ),
            sections=config.plugins,
        )
    )
    return registry


def _as_written(value: object) -> object:
    """A setting as it stands in a file."""
    match value:
        case Duration() | Path():
            return str(value)
        case msgspec.Struct():
            names = zip(value.__struct_fields__, value.__struct_encode_fields__, strict=True)
            return {key: _as_written(getattr(value, name)) for name, key in names if key not in _SECRETS}
        case Mapping():
            return {key: _as_written(item) for key, item in value.items()}
        case list() | tuple():
            return [_as_written(item) for item in value]
        case Enum():
            return value.value
        case _:
            return value
