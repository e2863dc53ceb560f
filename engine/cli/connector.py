"""``propfan connector``: serves connectors, lists them, and runs a task through one of them."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

import anyio
import msgspec
import rich_click as click
import structlog
from rich.table import Table
from rich.text import Text

from propfan.engine.cli.app import EXIT_FAILED, EXIT_INTERRUPTED, fail, output, print_json, run_async
from propfan.pluginmachinery.connector import ConnectorMetadata, RemotePhase, Resource, SyncConnector, values
from propfan.pluginmachinery.connector.registry import NotOffered
from propfan.pluginmachinery.errors import ConfigError, PropfanError

logger = structlog.get_logger(__name__)

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
_NEEDS: Final = "needs the extra 'connectors': pip install 'propfan[connectors]'"


def _options(command: Any) -> Any:
    """What finds connectors."""
    for option in (
        click.option(
            "-m", "--module", "modules", multiple=True, metavar="NAME", help="Module with connectors; may be repeated."
        ),
        click.option("--installed/--no-installed", "entry_points", default=None, help="Take installed connectors."),
        click.option(
            "-c",
            "--config",
            "config_file",
            type=click.Path(dir_okay=False, path_type=Path),
            help="Settings of the connector service as YAML.",
        ),
    ):
        command = option(command)
    return command


@click.group()
def connector() -> None:
    """Serves connectors to Flyte's control planes, lists them, and tries them out.

    \b
    Examples:
      propfan connector serve                          what is installed, on 127.0.0.1:8000
      propfan connector serve -m my_connectors         and a module of your own
      propfan connector list --endpoint host:8000      what a running service serves
      propfan connector run task.yaml -m my_connectors one task, here and now
    """
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))


@connector.command()
@_options
@click.option("--host", help="Address to listen on.  [default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65_535), help="0 takes a free one.  [default: 8000]")
@click.option(
    "--metrics-port", type=click.IntRange(0, 65_535), help="Of Prometheus' /metrics; 0 for none.  [default: 9090]"
)
@click.option("--tls-certificate", metavar="FILE", help="PEM with the service's certificate and its chain.")
@click.option("--tls-key", metavar="FILE", help="PEM with its key.")
@click.option("--client-ca", metavar="FILE", help="PEM; only callers with a certificate of it are served.")
@click.option(
    "--drain", "drain_s", type=float, metavar="SECONDS", help="For calls to end after SIGTERM.  [default: 30]"
)
@click.option(
    "--log-format",
    type=click.Choice(["console", "json"]),
    default="console",
    show_default=True,
    help="Of the log, which goes to standard error.",
)
@click.pass_context
def serve(
    ctx: click.Context,
    *,
    modules: Sequence[str],
    entry_points: bool | None,
    config_file: Path | None,
    host: str | None,
    port: int | None,
    metrics_port: int | None,
    tls_certificate: str | None,
    tls_key: str | None,
    client_ca: str | None,
    drain_s: float | None,
    log_format: str,
) -> None:
    """Serves connectors over gRPC until SIGTERM, which lets calls end; a second one does not wait.

    Exit codes: 0 after SIGTERM or Ctrl-C, 2 a wrong setting or connector, 130 when it was not let to end.
    """
    overrides = {
        "host": host,
        "port": port,
        "metrics-port": metrics_port,
        "tls": {"certificate": tls_certificate, "key": tls_key, "client-ca": client_ca},
        "drain-s": drain_s,
    }
    config = _config(config_file, modules, entry_points=entry_points, overrides=overrides)
    _log_as(log_format, verbose=ctx.find_root().params.get("verbose", 0))

    async def body() -> int:
        from propfan.engine.connector_service import server

        with anyio.open_signal_receiver(*_SIGNALS) as signals:
            async with server.opened(config, os.environ) as service:
                names = ", ".join(each.name for each in service.connectors) or "no connectors"
                click.echo(f"serving {names} on {service.address}")
                logger.info(
                    "serving",
                    address=service.address,
                    metrics_port=service.metrics_port,
                    tls=config.tls.is_on,
                    connectors=[each.name for each in service.connectors],
                    flyte_1=service.serves_v1,
                )
                await anext(aiter(signals))
                logger.info("draining", at_most_s=config.drain_s)
                async with anyio.create_task_group() as tasks:

                    async def end_at_once() -> None:
                        await anext(aiter(signals))
                        logger.warning("stopped at once")
                        sys.stdout.flush()
                        os._exit(EXIT_INTERRUPTED)  # whatever threads of connectors are still doing

                    tasks.start_soon(end_at_once)
                    await service.drain()
                    tasks.cancel_scope.cancel()
        logger.info("stopped")
        return 0

    _run(body)


@connector.command("list")
@_options
@click.option("--endpoint", metavar="HOST:PORT", help="Ask a running service, in place of looking here.")
@click.option("--ca", metavar="FILE", help="PEM of authorities that the service is trusted by; with it TLS is used.")
@click.option("--json", "as_json", is_flag=True, help="One JSON line per connector.")
def list_(
    *,
    modules: Sequence[str],
    entry_points: bool | None,
    config_file: Path | None,
    endpoint: str | None,
    ca: str | None,
    as_json: bool,
) -> None:
    """Lists connectors and the task types that each runs: those found here, or those of a running service.

    Those that need a library which is not installed are listed with what installs it, but not as JSON.
    """
    config = _config(config_file, modules, entry_points=entry_points)

    async def body() -> int:
        if endpoint:
            from propfan.engine.connector_service import asking

            found: Sequence[ConnectorMetadata] = await asking.list_connectors(endpoint, ca=Path(ca) if ca else None)
            refused: Sequence[PropfanError] = ()
            not_offered: Sequence[NotOffered] = ()
        else:
            from propfan.engine.connector_service import local_runs

            async with local_runs.opened(config, os.environ) as here:
                found, refused, not_offered = here.registry.list_connectors(), here.refused, here.not_offered
        _show(found, not_offered, as_json=as_json)
        _tell_refused(refused)
        return EXIT_FAILED if refused else 0

    _run(body)


@connector.command("run")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@_options
@click.option(
    "--inputs",
    type=click.Path(dir_okay=False, path_type=Path),
    help="JSON or YAML of name: value, or an inputs.pb.",
)
@click.option("--timeout", "timeout_s", type=click.FloatRange(0, min_open=True), metavar="SECONDS", help="Of the task.")
@click.option("--output-prefix", default="", metavar="URI", help="For outputs that the job writes itself.")
def run(
    *,
    file: Path,
    modules: Sequence[str],
    entry_points: bool | None,
    config_file: Path | None,
    inputs: Path | None,
    timeout_s: float | None,
    output_prefix: str,
) -> None:
    """Runs the task in FILE by its connector, here and now, and prints its outputs as JSON.

    Ctrl-C deletes the job. A secret that custom.secrets names is taken from the environment.
    """
    config = _config(config_file, modules, entry_points=entry_points)

    async def body() -> int:
        from flyteidl2.core import tasks_pb2
        from flyteidl2.task import common_pb2

        from propfan.engine.connector_service import local_runs
        from propfan.engine.taskfiles import read_tasks

        tasks = read_tasks(file, inputs=inputs)
        if len(tasks) != 1:
            raise ConfigError(str(file), f"holds {len(tasks)} tasks: one is run at a time")
        template = tasks_pb2.TaskTemplate.FromString(tasks[0].template)
        literals = common_pb2.Inputs.FromString(tasks[0].inputs or b"")
        async with local_runs.opened(config, os.environ) as here:
            _tell_refused(here.refused)
            try:
                outcome = await local_runs.run(
                    here, template, literals, output_prefix=output_prefix, timeout_s=timeout_s, on_look=_Told().tell
                )
            except TimeoutError as error:
                click.echo(f"Error: {error}", err=True)
                return EXIT_FAILED
        if outcome.resource.phase != RemotePhase.SUCCEEDED:
            click.echo(f"Error: {tasks[0].name}: {outcome.resource.message or 'failed without a message'}", err=True)
            return EXIT_FAILED
        if outcome.outputs is not None:
            inputs_of = common_pb2.Inputs(literals=outcome.outputs.literals)
            print_json(values.to_natives(inputs_of))
        return 0

    _run(body)


def _tell_refused(refused: Sequence[PropfanError]) -> None:
    for error in refused:
        click.echo(f"Error: {error}", err=True)


class _Told:
    """Phases as they change, one line each."""

    def __init__(self) -> None:
        self._last: tuple[int, str] | None = None
        self._began_at: Final = time.monotonic()

    def tell(self, resource: Resource) -> None:
        now = (int(resource.phase), resource.message)
        if now == self._last:
            return
        links = "".join(f"  {link.uri}" for link in resource.log_links) if self._last is None else ""
        self._last = now
        phase = RemotePhase(resource.phase).name.replace("_", " ").lower()
        after_s = time.monotonic() - self._began_at
        click.echo(f"{after_s:6.1f} s  {phase}{resource.message and ': ' + resource.message}{links}", err=True)


def _show(found: Sequence[ConnectorMetadata], not_offered: Sequence[NotOffered], *, as_json: bool) -> None:
    if as_json:
        for each in found:
            print_json(each)
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("CONNECTOR", "KIND", "TASK TYPES", *(["NEEDS"] if not_offered else [])):
        table.add_column(column, overflow="fold")
    rows: list[tuple[ConnectorMetadata, str]] = [(each, "") for each in found]
    for absent in not_offered:
        for kind in absent.connectors:
            line = ConnectorMetadata(kind.name, tuple(kind.categories), issubclass(kind, SyncConnector))
            rows.append((line, absent.way_out))
    for each, needs in rows:
        types = ", ".join(f"{category.name} ({category.version})" for category in each.categories)
        kinds = "sync" if each.is_sync else "async"
        cells = [Text(each.name), Text(kinds), Text(types), *([Text(needs)] if not_offered else [])]
        table.add_row(*cells, style="dim" if needs else None)
    output().print(table)


def _config(
    config_file: Path | None,
    modules: Sequence[str],
    *,
    entry_points: bool | None,
    overrides: Mapping[str, Any] | None = None,
) -> Any:
    try:
        from propfan.engine.connector_service import config as configs
    except ModuleNotFoundError as error:
        _missing(error)
    try:
        config = configs.load(config_file, {"entry-points": entry_points, **(overrides or {})})
    except PropfanError as error:
        fail(error)
    return msgspec.structs.replace(config, modules=(*config.modules, *modules))


def _run(body: Any) -> None:
    try:
        run_async(body)
    except ModuleNotFoundError as error:
        _missing(error)


def _missing(error: ModuleNotFoundError) -> NoReturn:
    if (error.name or "").partition(".")[0] not in (
        "aiohttp",
        "grpc",
        "grpc_health",
        "grpc_reflection",
        "prometheus_client",
    ):
        raise error
    fail(ConfigError("propfan connector", f"{_NEEDS} ({error.name} is missing)"))


def _log_as(log_format: str, *, verbose: int) -> None:
    """A service tells what it does; the command line's other programs only do so when they are asked."""
    import logging

    processors: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso"),
    ]
    if log_format == "json":
        processors += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:
        processors.append(
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)
        )
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG if verbose > 1 else logging.INFO),
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
    )
