"""The documents by themselves."""

from __future__ import annotations

import msgspec
import pytest
import yaml
from click.testing import CliRunner

from propfan.engine.cli.app import cli
from propfan.engine.config import EngineConfig
from propfan.engine.daemon import preflight
from propfan.engine.daemon.preflight import Right
from propfan.engine.manifests import documents
from propfan.engine.manifests.documents import Installation
from propfan.engine.webhook.config import WebhookSection
from propfan.pluginmachinery.taskaction import MAX_LENGTHS


def installation(*rights: Right) -> Installation:
    return Installation("home", "image:1", 2, rights, {"namespaces": ["a"]}, 20.0)


def test_the_definition_has_the_limits_that_the_engine_checks() -> None:
    schema = documents.definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    spec = schema["properties"]["spec"]["properties"]
    assert {name: spec[name]["maxLength"] for name in MAX_LENGTHS} == MAX_LENGTHS


def test_a_role_for_each_namespace_and_one_for_all() -> None:
    made = documents.all_documents(
        installation(Right("", "pods", "get", "a"), Right("", "pods", "get", "b"), Right("g", "things", "list"))
    )
    roles = {(d["kind"], d["metadata"].get("namespace", "")): d["rules"] for d in made if d["kind"].endswith("Role")}
    assert set(roles) == {("Role", "a"), ("Role", "b"), ("ClusterRole", "")}
    assert roles["ClusterRole", ""] == [{"apiGroups": ["g"], "resources": ["things"], "verbs": ["list"]}]


def test_resources_with_the_same_verbs_share_a_rule() -> None:
    rights = [Right("g", kind, verb) for kind in ("x", "y") for verb in ("get", "list")]
    assert documents.rules(rights) == [{"apiGroups": ["g"], "resources": ["x", "y"], "verbs": ["get", "list"]}]


def test_pods_get_longer_to_end_than_the_daemon_takes_to_drain() -> None:
    deployment = next(d for d in documents.all_documents(installation()) if d["kind"] == "Deployment")
    assert deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > 20


def test_the_command_prints_what_can_be_read_again() -> None:
    done = CliRunner().invoke(cli, ["manifests", "--plugins", "pod", "--tasks-namespace", "flyte"])
    kinds = [document["kind"] for document in yaml.safe_load_all(done.output)]
    assert (kinds[0], kinds[-1]) == ("CustomResourceDefinition", "Service")


@pytest.mark.parametrize("arguments", [["--plugins", "nope"], ["--replicas", "0"]])
def test_what_can_not_be_is_refused(arguments: list[str]) -> None:
    assert CliRunner().invoke(cli, ["manifests", *arguments]).exit_code == 2


def test_the_webhook_has_a_service_a_port_and_rights_to_no_more_than_it_needs() -> None:
    settings = WebhookSection(enabled=True, address=":9443")
    made = documents.all_documents(msgspec.structs.replace(installation(), webhook=settings))
    service = made[-1]
    assert (service["metadata"]["name"], service["spec"]["ports"][0]["targetPort"]) == ("propfan-webhook", "webhook")
    deployment = next(d for d in made if d["kind"] == "Deployment")
    ports = deployment["spec"]["template"]["spec"]["containers"][0]["ports"]
    assert {"name": "webhook", "containerPort": 9443} in ports
    config = EngineConfig(webhook=settings, namespaces=("flyte",))
    rights = preflight.webhook_rights(config, "home")
    assert {right.verb for right in rights if right.resource == "secrets"} == {"get", "create", "patch"}
    assert Right("", "secrets", "get", "home", "propfan-webhook") in rights
    assert Right("", "secrets", "get", "home") not in rights
    cluster_wide = {right for right in rights if not right.namespace}
    assert {right.resource for right in cluster_wide} == {"mutatingwebhookconfigurations"}
    assert {right.name for right in cluster_wide if right.verb != "create"} == {"propfan-webhook.home"}
    assert documents.rules([Right("", "secrets", "get", "home", "one"), Right("", "secrets", "create", "home")]) == [
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["create"]},
        {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["one"], "verbs": ["get"]},
    ]


def test_without_a_webhook_there_is_nothing_of_it() -> None:
    assert "webhook" not in documents.as_yaml(documents.all_documents(installation()))
