"""The documents by themselves."""

from __future__ import annotations

import pytest
import yaml
from click.testing import CliRunner

from propfan.engine.cli.app import cli
from propfan.engine.daemon.preflight import Right
from propfan.engine.manifests import documents
from propfan.engine.manifests.documents import Installation
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
