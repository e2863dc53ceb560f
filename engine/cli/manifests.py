"""``propfan manifests``: what a cluster needs for ``propfan serve``."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import rich_click as click

from propfan.engine import config_file as config_files
from propfan.engine.cli.app import config_option, fail
from propfan.pluginmachinery.config import K8sConfig, decode_config
from propfan.pluginmachinery.errors import PropfanError


@click.command()
@config_option
@click.option("--namespace", default="propfan", show_default=True, metavar="NAME", help="Where the daemon runs.")
@click.option(
    "--tasks-namespace", "namespaces", multiple=True, metavar="NAME", help="Rights in these only; may be repeated."
)
@click.option(
    "--plugins", default="", metavar="ID,ID", help="Only these, and the rights that they need; all if absent."
)
@click.option("--image", metavar="IMAGE", help="Of the daemon; that of this version when absent.")
@click.option("--replicas", type=click.IntRange(1, 1000), default=2, show_default=True, help="Of the daemon.")
@click.option("--connectors", is_flag=True, help="With a connector service, which the engine is told of.")
@click.option(
    "--only", type=click.Choice(["crd", "daemon"]), help="The resource definition, or all but that; both if absent."
)
def manifests(
    *,
    config_file: Path | None,
    namespace: str,
    namespaces: Sequence[str],
    plugins: str,
    image: str | None,
    replicas: int,
    connectors: bool,
    only: str | None,
) -> None:
    """Prints Kubernetes manifests as YAML: definition, rights, settings, Deployment.

    The rights are those of the plugins that are enabled, no more.

    \b
    Examples:
      propfan manifests | kubectl apply -f -
      propfan manifests --plugins pod,ray --tasks-namespace flyte -c engine.yaml
      propfan manifests --connectors                  and what runs queries, batches, API calls
    """
    from propfan.engine import assembly
    from propfan.engine.daemon import preflight
    from propfan.engine.manifests import connectors as connector_manifests
    from propfan.engine.manifests import documents

    overrides: dict[str, Any] = {
        "namespaces": list(namespaces) or None,
        "namespace": namespaces[0] if namespaces else None,
        "enabled-plugins": [name.strip() for name in plugins.split(",")] if plugins else None,
    }
    try:
        config = config_files.load(config_file, overrides)
        settings = config_files.merged(config_file, overrides)
        config.webhook.check()
        k8s = decode_config(K8sConfig, config.plugins.get("k8s"), "plugins.k8s")
        registry = assembly.installed_plugins(config)
        needed = preflight.needed_rights(config, k8s, registry, config.sharding.namespace or namespace, namespace)
    except PropfanError as error:
        fail(error)
    installation = documents.Installation(
        namespace=namespace,
        image=image or f"propfan:{metadata.version('propfan')}",
        replicas=replicas,
        rights=needed,
        config={name: value for name, value in settings.items() if value is not None},
        drain_s=config.serving.drain_s,
        webhook=config.webhook,
    )
    if connectors:
        installation = connector_manifests.told(installation)
    found = [documents.definition()] if only != "daemon" else []
    if only != "crd":
        found += documents.all_documents(installation)
        found += connector_manifests.documents(installation) if connectors else []
    click.echo(documents.as_yaml(found), nl=False)
