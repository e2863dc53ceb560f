"""``propfan up``: a control plane in one process."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Final

import anyio
import rich_click as click

from propfan.engine import config_file as config_files
from propfan.engine.cli.app import config_option, data_dir_option, fail, run_async
from propfan.pluginmachinery.errors import ConfigError

_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})

_FILE: Final = click.Path(dir_okay=False, path_type=Path)


@click.command()
@data_dir_option
@config_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option("--port", type=click.IntRange(0, 65535), default=8090, show_default=True, help="0 takes a free one.")
@click.option("--database", default="", metavar="URL", help="postgresql://user:password@host/name, in place of a file.")
@click.option(
    "--endpoint", default="", metavar="URL", help="Where tasks and clients reach it, when that is another address."
)
@click.option(
    "--store", metavar="URI", help="Where data goes (s3://, gs://, az://); below the data directory if absent."
)
@click.option(
    "--kubeconfig", metavar="PATH", help="Run tasks as pods of this cluster; they must reach --endpoint and --store."
)
@click.option("--context", metavar="NAME", help="Of the kubeconfig; its current one by default.")
@click.option("-n", "--namespace", metavar="NAME", help="Of the tasks' pods.")
@click.option(
    "--token-file", type=_FILE, help="Clients must show the token in it; needed to listen beyond this machine."
)
@click.option("--tls-cert", type=_FILE, help="Certificate (PEM) to serve https with.")
@click.option("--tls-key", type=_FILE, help="Its key (PEM).")
def up(
    *,
    data_dir: Path,
    config_file: Path | None,
    host: str,
    port: int,
    database: str,
    endpoint: str,
    store: str | None,
    kubeconfig: str | None,
    context: str | None,
    namespace: str | None,
    token_file: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
) -> None:
    """Serves Flyte 2's API on this machine; tasks run as local processes, or as pods of a cluster.

    \b
    Examples:
      propfan up
      propfan up --kubeconfig ~/.kube/config --store s3://bucket --endpoint http://10.0.0.5:8090
      flyte --endpoint localhost:8090 --insecure run hello.py main
    """
    if (tls_cert is None) != (tls_key is None):
        raise click.UsageError("--tls-cert and --tls-key go together")
    if host not in _LOOPBACK and token_file is None:
        raise click.UsageError(f"--host {host} can be reached from elsewhere: protect it with --token-file")
    from propfan.engine.control_plane import ControlPlaneConfig, serving  # no other command needs it

    try:
        overrides = {
            "data-dir": str(data_dir.absolute()),
            "store": store,
            "namespace": namespace,
            "keep-work": True,
            "kubernetes": {"kubeconfig": kubeconfig or "", "context": context or ""} if kubeconfig or context else None,
        }
        engine = config_files.load(config_file, overrides)
        config = ControlPlaneConfig(
            database=database,
            endpoint=endpoint,
            on_kubernetes=bool(kubeconfig or context),
            token=_token(token_file),
        )
    except ConfigError as error:
        fail(error)

    async def serve() -> int:
        listener = serving.Listener(host, port, tls_cert, tls_key)
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as stops:
            await serving.serve_until(engine, config, listener, stops, ready=lambda url: _say_ready(url, data_dir))
        return 0

    run_async(serve)


def _token(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("--token-file", f"{path} can not be read: {error}") from error
    if not token:
        raise ConfigError("--token-file", f"{path} is empty")
    return token


def _say_ready(url: str, data_dir: Path) -> None:
    insecure = " --insecure" if url.startswith("http:") else ""
    click.echo(f"Ready at {url}, data in {data_dir}. Ctrl-C stops it.")
    click.echo(f"Try: flyte --endpoint {url.partition('://')[2]}{insecure} run hello.py main")
