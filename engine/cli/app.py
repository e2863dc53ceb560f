"""The ``propfan`` command and what its sub-commands share."""

from __future__ import annotations

import importlib
import logging
import os
import shutil
import sys
from collections.abc import Callable, Coroutine
from importlib import metadata
from pathlib import Path
from typing import Any, Final, NoReturn

import anyio
import rich_click as click
import structlog
from rich.console import Console

from propfan.pluginmachinery.errors import PropfanError

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_INTERRUPTED: Final = 130

_PLAIN_WIDTH: Final = 240
"""Columns of tables in files and pipes."""

click.rich_click.TEXT_MARKUP = "markdown"


_COMMANDS: Final = {
    "run": "propfan.engine.cli.run",
    "get": "propfan.engine.cli.inspect",
    "logs": "propfan.engine.cli.inspect",
    "explain": "propfan.engine.cli.inspect",
    "abort": "propfan.engine.cli.inspect",
    "plugins": "propfan.engine.cli.check",
    "check": "propfan.engine.cli.check",
}


class _Commands(click.RichGroup):
    """Imports a command when it is called for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(_COMMANDS[cmd_name]), cmd_name)
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(metadata.version("propfan"), prog_name="propfan")
@click.option("-v", "--verbose", count=True, help="Log what happens to standard error; twice for every phase.")
def cli(verbose: int) -> None:
    """Runs plugin-backed tasks: on this machine, with no cluster, as local processes.

    Exit codes: 0 all went well, 1 a task failed, 2 a wrong argument, file or setting, 130 interrupted.
    """
    level = {0: logging.ERROR, 1: logging.INFO}.get(verbose, logging.DEBUG)
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def data_dir_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--data-dir",
        type=click.Path(file_okay=False, path_type=Path),
        envvar="PROPFAN_DATA_DIR",
        default=Path("propfan-data"),
        show_default=True,
        show_envvar=True,
        help="Where tasks, logs and outputs are kept.",
    )(command)


def config_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "-c",
        "--config",
        "config_file",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Settings as YAML; 'propfan check' prints them all.",
    )(command)


def run_async(body: Callable[[], Coroutine[Any, Any, int]]) -> NoReturn:
    """Runs a command to its end and leaves with its exit code; what the user did wrong is one clear line."""
    try:
        code = anyio.run(body, backend_options={"use_uvloop": sys.platform != "win32"})
    except PropfanError as error:
        fail(error)
    except BaseExceptionGroup as group:
        cause = _only_cause(group)
        if isinstance(cause, PropfanError):
            fail(cause)
        raise
    except BrokenPipeError:  # the reader of our output went away, e.g. "propfan get | head"
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = EXIT_FAILED
    sys.exit(code)


def output(*, to_stderr: bool = False) -> Console:
    """Where results go; as wide as it needs to be when it is no terminal."""
    stream = sys.stderr if to_stderr else sys.stdout
    return Console(file=stream, width=None if stream.isatty() else shutil.get_terminal_size((_PLAIN_WIDTH, 25)).columns)


def fail(error: PropfanError) -> NoReturn:
    click.echo(f"Error: {error}", err=True)
    sys.exit(EXIT_USAGE)


def _only_cause(group: BaseExceptionGroup[BaseException]) -> BaseException:
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup) and len(found.exceptions) == 1:
        found = found.exceptions[0]
    return found


def main() -> None:
    """Entry point of the ``propfan`` script."""
    cli(prog_name="propfan")
