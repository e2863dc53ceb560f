"""The connector service that ``propfan manifests --connectors`` adds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from propfan.engine.cli.app import cli
from propfan.engine.config import EngineConfig
from propfan.engine.connector_service import config as configs
from propfan.pluginmachinery.config import decode_config
from propfan.plugins.connector.config import ConnectorServiceConfig

NAME = "propfan-connectors"


def printed(*arguments: str) -> list[dict[str, Any]]:
    done = CliRunner().invoke(cli, ["manifests", "--plugins", "pod,connector-service", *arguments])
    assert done.exit_code == 0, done.output
    return list(yaml.safe_load_all(done.output))


@pytest.fixture(scope="module")
def documents() -> dict[str, dict[str, Any]]:
    """Those of the service, by kind."""
    made = {document["kind"]: document for document in printed("--connectors") if document["metadata"]["name"] == NAME}
    assert {document["metadata"]["namespace"] for document in made.values()} == {"propfan"}
    return made


def pod_of(documents: dict[str, dict[str, Any]]) -> dict[str, Any]:
    pod: dict[str, Any] = documents["Deployment"]["spec"]["template"]["spec"]
    return pod


def test_it_is_printed_only_where_it_is_asked_for(documents: dict[str, dict[str, Any]]) -> None:
    without = printed()
    assert NAME not in yaml.safe_dump_all(without)
    with_it = printed("--connectors")
    assert [one for one in with_it if one["metadata"]["name"] != NAME and one["kind"] != "ConfigMap"] == [
        one for one in without if one["kind"] != "ConfigMap"
    ]
    assert [one["kind"] for one in with_it[len(without) :]] == list(documents)


def test_it_has_no_rights_and_no_token(documents: dict[str, dict[str, Any]]) -> None:
    assert not [kind for kind in documents if "Role" in kind]
    assert documents["ServiceAccount"]["automountServiceAccountToken"] is False
    assert pod_of(documents)["automountServiceAccountToken"] is False
    assert pod_of(documents)["serviceAccountName"] == NAME


def test_its_settings_are_what_the_service_reads(documents: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(documents["ConfigMap"]["data"]["config.yaml"])
    config = configs.load(tmp_path / "config.yaml", {})
    (container,) = pod_of(documents)["containers"]
    assert config.host == "0.0.0.0"
    assert {port["name"]: port["containerPort"] for port in container["ports"]} == {
        "grpc": config.port,
        "metrics": config.metrics_port,
    }
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts["secrets"] == config.secrets.folder
    assert f"{mounts['config']}/config.yaml" in container["args"]
    assert pod_of(documents)["terminationGracePeriodSeconds"] > config.drain_s
    assert container["livenessProbe"]["failureThreshold"] * container["livenessProbe"]["periodSeconds"] > config.drain_s


def test_its_command_is_one_of_propfan(documents: dict[str, dict[str, Any]]) -> None:
    arguments = [*pod_of(documents)["containers"][0]["args"], "--help"]
    assert CliRunner().invoke(cli, arguments).exit_code == 0


def test_only_the_engine_reaches_it(documents: dict[str, dict[str, Any]]) -> None:
    engine = next(
        one for one in printed("--connectors") if one["kind"] == "Deployment" and one["metadata"]["name"] == "propfan"
    )
    labels = engine["spec"]["template"]["metadata"]["labels"]
    grpc, metrics = documents["NetworkPolicy"]["spec"]["ingress"]
    assert grpc == {"from": [{"podSelector": {"matchLabels": labels}}], "ports": [{"port": "grpc"}]}
    assert metrics == {"ports": [{"port": "metrics"}]}
    own = documents["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert documents["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == own
    assert documents["Service"]["spec"]["selector"] == own
    assert own != labels


def test_the_engine_sends_its_tasks_there(documents: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    def told(*arguments: str) -> ConnectorServiceConfig:
        made = next(one for one in printed("--connectors", *arguments) if one["kind"] == "ConfigMap")
        config = decode_config(EngineConfig, yaml.safe_load(made["data"]["config.yaml"]), "")
        return decode_config(ConnectorServiceConfig, config.plugins["connector-service"], "")

    port = documents["Service"]["spec"]["ports"][0]["port"]
    assert told().default_connector.endpoint == f"{NAME}.propfan:{port}"
    assert told("--namespace", "home").default_connector.endpoint == f"{NAME}.home:{port}"
    (tmp_path / "engine.yaml").write_text(
        "plugins: {connector-service: {pollInterval: 3s, defaultConnector: {endpoint: 'mine:1'}}}"
    )
    own = told("-c", str(tmp_path / "engine.yaml"))
    assert (own.default_connector.endpoint, own.poll_interval.seconds) == ("mine:1", 3.0)
