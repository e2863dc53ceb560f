"""The ``propfan`` command and what its sub-commands share."""

from __future__ import annotations

import importlib
import logging
import os
import shutil
import sys
from collections.abc import Callable, Coroutine, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Final, NoReturn

import anyio
import msgspec
import rich_click as click
import structlog
from rich.console import Console

from propfan.engine import memory
from propfan.pluginmachinery.errors import PropfanError

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_INTERRUPTED: Final = 130

_PLAIN_WIDTH: Final = 240
"""Columns of tables in files and pipes."""

click.rich_click.TEXT_MARKUP = "ansi"
click.rich_click.MAX_WIDTH = 100

_COMMANDS: Final = {
    "run": "propfan.engine.cli.run",
    "serve": "propfan.engine.cli.serve",
    "get": "propfan.engine.cli.inspect",
    "logs": "propfan.engine.cli.inspect",
    "explain": "propfan.engine.cli.inspect",
    "abort": "propfan.engine.cli.inspect",
    "plugins": "propfan.engine.cli.check",
    "check": "propfan.engine.cli.check",
    "connector": "propfan.engine.cli.connector",
    "up": "propfan.engine.cli.up",
    "manifests": "propfan.engine.cli.manifests",
    "node": "propfan.engine.cli.node",
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
@click.option(
    "-v", "--verbose", count=True, metavar="", help="Log what happens to standard error; twice (-vv) for all details."
)
def cli(verbose: int) -> None:
    """Runs plugin-backed tasks: on this machine, with no cluster, as local processes.

    Exit codes: 0 all went well, 1 a task failed, 2 a wrong argument, file or setting, 130 interrupted.

    \b
    Examples:
      propfan run hello.yaml -n 100     a hundred tasks, with live progress
      propfan get                       all tasks and how they stand
      propfan explain TASK              why one is where it is
      propfan logs TASK                 what it wrote
    """
    level = {0: logging.ERROR, 1: logging.INFO}.get(verbose, logging.DEBUG)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            ),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        # Each time anew: a live display puts a stream of its own in the place of standard error.
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
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
    memory.collect_less_often()
    try:
        code = anyio.run(body, backend_options={"use_uvloop": sys.platform != "win32"})
    except (PropfanError, OSError, BaseExceptionGroup) as error:
        code = _exit_code(error)
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    sys.exit(code)


def _exit_code(error: BaseException) -> int:
    """Says what went wrong in a line; what nobody foresaw is raised again, with its trace."""
    causes = _leaves(error)
    if any(isinstance(cause, BrokenPipeError) for cause in causes):  # e.g. "propfan get | head"
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    told = [cause for cause in causes if isinstance(cause, PropfanError | OSError)]
    if len(told) < len(causes):
        raise error
    # A hundred submissions that fail for one reason are told as one.
    click.echo(f"Error: {told[0]}" + (f" (and {len(told) - 1} more like it)" if len(told) > 1 else ""), err=True)
    return EXIT_USAGE


def _leaves(error: BaseException) -> Sequence[BaseException]:
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    return [leaf for inner in error.exceptions for leaf in _leaves(inner)]


def output(*, to_stderr: bool = False) -> Console:
    """Where results go; as wide as it needs to be when it is no terminal."""
    stream = sys.stderr if to_stderr else sys.stdout
    width = None if stream.isatty() else shutil.get_terminal_size((_PLAIN_WIDTH, 25)).columns
    return Console(file=stream, width=width, highlight=False, soft_wrap=False)


def print_json(value: object) -> None:
    """One line, there as soon as it is printed."""
    sys.stdout.buffer.write(msgspec.json.encode(value) + b"\n")
    sys.stdout.buffer.flush()


def fail(error: PropfanError) -> NoReturn:
    click.echo(f"Error: {error}", err=True)
    sys.exit(EXIT_USAGE)


def main() -> None:
    """Entry point of the ``propfan`` script."""
    cli(prog_name="propfan")
