"""``propfan serve``: drives the tasks of a Kubernetes cluster."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import anyio
import rich_click as click

from propfan.engine import config_file as config_files
from propfan.engine.cli.app import EXIT_INTERRUPTED, config_option, fail, run_async
from propfan.engine.cli.follow import interrupted
from propfan.engine.config import EngineConfig, LogFormat, LogLevel
from propfan.pluginmachinery.errors import PropfanError


@click.command()
@config_option
@click.option("--kubeconfig", metavar="PATH", help="Which cluster; by default as kubectl finds it, or the pod's own.")
@click.option("--context", metavar="NAME", help="Of the kubeconfig; its current one by default.")
@click.option(
    "-n", "--namespace", "namespaces", multiple=True, metavar="NAME", help="Only tasks in it; may be repeated."
)
@click.option("--shards", type=click.IntRange(1, 1024), help="Parts that replicas share; the same for all of them.")
@click.option("--replica", metavar="NAME", help="Name of this replica in Leases and logs; the host's by default.")
@click.option("--metrics-address", metavar="HOST:PORT", help="Of /metrics, /healthz and /readyz; '' serves none.")
@click.option("--log-format", type=click.Choice([form.value for form in LogFormat]), help="Of standard error.")
@click.option("--log-level", type=click.Choice([level.value for level in LogLevel]), help="What is logged at least.")
@click.option("--events-url", metavar="URL", help="Of Flyte's EventsProxyService.")
@click.option("--cache-url", metavar="URL", help="Of Flyte's CacheService.")
@click.option("--store", metavar="URI", help="Where records of cached outputs go when there is no CacheService.")
def serve(
    *,
    config_file: Path | None,
    kubeconfig: str | None,
    context: str | None,
    namespaces: Sequence[str],
    shards: int | None,
    replica: str | None,
    metrics_address: str | None,
    log_format: str | None,
    log_level: str | None,
    events_url: str | None,
    cache_url: str | None,
    store: str | None,
) -> None:
    """Drives the tasks of a Kubernetes cluster, alone or as one of several replicas.

    Replicas share the tasks by Leases: start as many as you like, stop any at any time. SIGTERM drains
    (rounds end, status is written, shards are given up) and exits with 0; a second one stops at once.

    \b
    Examples:
      propfan serve --kubeconfig ~/.kube/config --log-format console
      propfan serve -c engine.yaml
      propfan serve -n flyte --events-url http://flyte-backend:8090
    """
    overrides = {
        "namespaces": list(namespaces) or None,
        "store": store,
        "kubernetes": _given({"kubeconfig": kubeconfig, "context": context}),
        "sharding": _given({"shards": shards, "replica": replica}),
        "serving": _given({"metrics-address": metrics_address, "log-format": log_format, "log-level": log_level}),
        "flyte": _given({"events-url": events_url, "cache-url": cache_url}),
    }
    try:
        config = config_files.load(config_file, overrides)
    except PropfanError as error:
        fail(error)
    run_async(lambda: _serve(config))


def _given(options: Mapping[str, Any]) -> Mapping[str, Any] | None:
    return {name: value for name, value in options.items() if value is not None} or None


async def _serve(config: EngineConfig) -> int:
    from propfan.engine.daemon import logs
    from propfan.engine.daemon.daemon import Daemon

    logs.configure(config.serving)
    daemon = Daemon(config)
    async with interrupted() as interrupts, anyio.create_task_group() as tasks:

        async def drain() -> None:
            await interrupts.first.wait()
            daemon.stop()
            await interrupts.second.wait()
            sys.stderr.flush()
            os._exit(EXIT_INTERRUPTED)

        tasks.start_soon(drain)
        await daemon.run()
        tasks.cancel_scope.cancel()
    return 0
