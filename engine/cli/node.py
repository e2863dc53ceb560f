"""``propfan node``: this machine as a node of a Kubernetes cluster."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import anyio
import rich_click as click

from propfan.engine import config_file as config_files
from propfan.engine.cli.app import EXIT_INTERRUPTED, config_option, data_dir_option, fail, run_async
from propfan.engine.cli.follow import interrupted
from propfan.engine.config import EngineConfig, LogFormat, LogLevel
from propfan.engine.node.config import NodeConfig, default_name
from propfan.pluginmachinery.errors import ConfigError, PropfanError


@click.command()
@data_dir_option
@config_option
@click.option("--kubeconfig", metavar="PATH", help="Which cluster; by default as kubectl finds it, or the pod's own.")
@click.option("--context", metavar="NAME", help="Of the kubeconfig; its current one by default.")
@click.option("--name", metavar="NAME", help="Of the node; the host's by default.")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="Of the node; may be repeated.")
@click.option("--no-taint", is_flag=True, help="Let pods come that do not tolerate propfan.dev/process.")
@click.option("--cpu", metavar="QUANTITY", help="What pods may request together; the machine's own by default.")
@click.option("--memory", metavar="QUANTITY", help="Likewise.")
@click.option("--pods", type=click.IntRange(1), metavar="NUMBER", help="How many may run at once; 110 by default.")
@click.option(
    "--resource", "resources", multiple=True, metavar="NAME=QUANTITY", help="Another resource, e.g. nvidia.com/gpu=1."
)
@click.option("--detach", is_flag=True, help="Leave processes running at the end; the next start takes them over.")
@click.option(
    "--grace", "grace_s", type=click.FloatRange(0), default=30.0, show_default=True, help="Seconds for pods to end in."
)
@click.option(
    "--lease",
    "lease_s",
    type=click.FloatRange(1, 3600),
    default=40.0,
    show_default=True,
    help="Seconds without a sign of life after which the cluster takes the node for lost.",
)
@click.option("--log-format", type=click.Choice([form.value for form in LogFormat]), help="Of standard error.")
@click.option("--log-level", type=click.Choice([level.value for level in LogLevel]), help="How much is logged.")
def node(
    *,
    data_dir: Path,
    config_file: Path | None,
    kubeconfig: str | None,
    context: str | None,
    name: str | None,
    labels: Sequence[str],
    no_taint: bool,
    cpu: str | None,
    memory: str | None,
    pods: int | None,
    resources: Sequence[str],
    detach: bool,
    grace_s: float,
    lease_s: float,
    log_format: str | None,
    log_level: str | None,
) -> None:
    """Makes this machine a node of a cluster: pods that are bound to it run as processes, without containers.

    Only pods come that tolerate the taint propfan.dev/process:NoSchedule; select the node by its label
    propfan.dev/runtime=process. Ctrl-C cordons the node and ends its pods, a second one kills them; with --detach
    they run on, and the next start of the same --data-dir takes them over, as it does after a crash.

    \b
    Examples:
      propfan node --kubeconfig ~/.kube/config
      propfan node --name worker-1 --label disk=ssd --cpu 4 --memory 8Gi
    """
    try:
        capacity = {"cpu": cpu, "memory": memory, "pods": pods, "resources": _pairs("--resource", resources) or None}
        given = {key: value for key, value in capacity.items() if value is not None}
        overrides = {
            "capacity": given or None,
            "kubernetes": {"kubeconfig": kubeconfig or "", "context": context or ""} if kubeconfig or context else None,
            "serving": {
                key: value for key, value in (("log-format", log_format), ("log-level", log_level)) if value is not None
            }
            or None,
        }
        config = config_files.load(config_file, overrides)
        wanted = NodeConfig(
            name=name or default_name(), labels=_pairs("--label", labels), is_tainted=not no_taint, lease_s=lease_s
        )
    except PropfanError as error:
        fail(error)
    run_async(lambda: _serve(config, wanted, data_dir / "node", grace_s, detach=detach))


def _pairs(option: str, texts: Sequence[str]) -> Mapping[str, str]:
    """Raises ``ConfigError`` for a text that is no pair."""
    found = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not (key and equals):
            raise ConfigError(option, f"{text!r} is not of the form KEY=VALUE")
        found[key] = value
    return found


async def _serve(config: EngineConfig, wanted: NodeConfig, data_dir: Path, grace_s: float, *, detach: bool) -> int:
    from propfan.engine.daemon import logs
    from propfan.engine.node.serving import Node

    logs.configure(config.serving)
    served = Node(config, wanted, data_dir=data_dir, grace_s=grace_s, detach=detach)
    async with interrupted() as interrupts, anyio.create_task_group() as tasks:

        async def drain() -> None:
            await interrupts.first.wait()
            served.stop()
            await interrupts.second.wait()
            if detach:
                sys.stderr.flush()
                os._exit(EXIT_INTERRUPTED)
            served.hurry()

        tasks.start_soon(drain)
        await served.run()
        tasks.cancel_scope.cancel()
    return 0
