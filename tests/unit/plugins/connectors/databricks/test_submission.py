"""What is asked of the Jobs API for what a task says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from propfan.pluginmachinery.errors import BadTaskSpecificationError
from propfan.plugins.connectors.databricks.submission import (
    FLYTE1,
    FLYTE2,
    DatabricksSpec,
    Entrypoint,
    Submission,
    submission,
)
from tests.unit.plugins.connectors.databricks.rig import ARGUMENTS, CLUSTER, function

SERVERLESS: Mapping[str, Any] = {
    "environments": [{"environment_key": "mine", "spec": {"client": "2", "dependencies": ["polars"]}}]
}


def made(conf: Mapping[str, Any] | None = None, *, flyte1: Entrypoint = FLYTE1, **more: Any) -> Submission:
    task = function(conf, **more)
    return submission(task, task.custom(DatabricksSpec), flyte1, FLYTE2)


def of_task(made: Submission) -> Mapping[str, Any]:
    (task,) = made.body["tasks"]
    found: Mapping[str, Any] = task
    return found


def test_run_is_named_by_the_attempt() -> None:
    body = made().body
    assert body["idempotency_token"] == body["run_name"] == function().unique_name()
    assert made({"run_name": "nightly", "idempotency_token": "own", **CLUSTERED}).body["run_name"] == "nightly"
    assert made({"idempotency_token": "own", **CLUSTERED}).body["idempotency_token"] == function().unique_name()


CLUSTERED: Mapping[str, Any] = {"new_cluster": dict(CLUSTER)}


def test_new_cluster_gets_image_variables_and_spark_settings() -> None:
    conf = {"new_cluster": {**CLUSTER, "spark_env_vars": {"STAGE": "own"}, "spark_conf": {"spark.a": "own"}}}
    cluster = of_task(made(conf, sparkConf={"spark.a": "1", "spark.b": "2"}))["new_cluster"]
    assert cluster == {
        **CLUSTER,
        "docker_image": {"url": "ghcr.io/acme/spark:1"},
        "spark_env_vars": {"STAGE": "own", "FLYTE_FAIL_ON_ERROR": "true"},
        "spark_conf": {"spark.a": "own", "spark.b": "2"},
    }


def test_own_image_of_the_cluster_stays() -> None:
    cluster = {**CLUSTER, "docker_image": {"url": "own:1", "basic_auth": {"username": "u"}}}
    assert of_task(made({"new_cluster": cluster}))["new_cluster"]["docker_image"] == cluster["docker_image"]


@pytest.mark.parametrize(
    ("arguments", "entrypoint"),
    [(ARGUMENTS, FLYTE1), (("pyflyte-fast-execute", "--x"), FLYTE1), (("a0", "--inputs", "x"), FLYTE2)],
)
def test_function_is_run_by_the_script_of_its_sdk(arguments: tuple[str, ...], entrypoint: Entrypoint) -> None:
    submitted = made({"existing_cluster_id": "c-1"}, arguments=arguments)
    assert of_task(submitted) == {
        "task_key": "flyte",
        "existing_cluster_id": "c-1",
        "spark_python_task": {
            "python_file": entrypoint.python_file,
            "source": "GIT",
            "parameters": list(arguments),
        },
    }
    assert submitted.body["git_source"]["git_commit"] == entrypoint.git_commit
    assert submitted.is_function


@pytest.mark.parametrize("file", ["/Workspace/run.py", "dbfs:/run.py", "s3://bucket/run.py"])
def test_script_of_the_operator_needs_no_repository(file: str) -> None:
    submitted = made({"existing_cluster_id": "c"}, flyte1=Entrypoint(file, file, git_url=""))
    assert of_task(submitted)["spark_python_task"]["source"] == "WORKSPACE"
    assert "git_source" not in submitted.body


def test_script_of_the_task_goes_before_the_operators() -> None:
    git = {"git_url": "https://example.com/own", "git_provider": "gitLab", "git_branch": "main"}
    submitted = made({"existing_cluster_id": "c", "python_file": "run.py", "git_source": git})
    python = of_task(submitted)["spark_python_task"]
    assert (python["python_file"], python["source"], submitted.body["git_source"]) == ("run.py", "GIT", git)
    assert "python_file" not in submitted.body
    submitted = made({"existing_cluster_id": "c", "python_file": "/Workspace/run.py"})
    assert of_task(submitted)["spark_python_task"]["source"] == "WORKSPACE"
    assert "git_source" not in submitted.body


def test_serverless_function_runs_in_the_environment_that_it_defines() -> None:
    submitted = made(SERVERLESS, databricksServiceCredentialProvider="lake")
    task = of_task(submitted)
    assert task["environment_key"] == "mine"
    assert task["spark_python_task"]["python_file"] == FLYTE1.serverless_python_file
    assert task["spark_python_task"]["parameters"][-1] == "--flyte-credential-provider=lake"
    (environment,) = submitted.body["environments"]
    variables = {"STAGE": "test", "FLYTE_FAIL_ON_ERROR": "true"}
    assert environment["spec"] == {"client": "2", "dependencies": ["polars"], "environment_vars": variables}


def test_serverless_environment_that_is_named_only_is_made() -> None:
    submitted = made({"environment_key": "e", **SERVERLESS})
    assert of_task(submitted)["environment_key"] == "e"
    assert [each["environment_key"] for each in submitted.body["environments"]] == ["mine", "e"]
    assert submitted.body["environments"][0] == SERVERLESS["environments"][0]
    assert submitted.body["environments"][1]["spec"]["environment_version"] == "1"


def test_notebook_runs_with_its_parameters_and_writes_no_outputs() -> None:
    submitted = made(
        {"existing_cluster_id": "c", "timeout_seconds": 60},
        notebookPath="/Users/a/n",
        notebookBaseParameters={"k": "v"},
    )
    task = of_task(submitted)
    assert task["notebook_task"] == {"notebook_path": "/Users/a/n", "base_parameters": {"k": "v"}}
    assert "spark_python_task" not in task
    assert "git_source" not in submitted.body
    assert submitted.body["timeout_seconds"] == 60
    assert not submitted.is_function


def test_run_that_is_written_with_tasks_is_completed() -> None:
    submitted = made(
        {"tasks": [{"task_key": "mine", "existing_cluster_id": "c", "libraries": [{"jar": "s3://x.jar"}]}]}
    )
    assert of_task(submitted)["libraries"] == [{"jar": "s3://x.jar"}]
    assert of_task(submitted)["spark_python_task"]["parameters"] == list(ARGUMENTS)


@pytest.mark.parametrize(
    ("conf", "problem"),
    [
        ({}, "names no compute"),
        ({"run_name": "r"}, "names no compute"),
        ({"existing_cluster_id": "c", **CLUSTERED}, "several kinds of compute"),
        ({"existing_cluster_id": "c", "environment_key": "e"}, "several kinds of compute"),
        ({"new_cluster": "large"}, "new_cluster must be an object"),
        ({"new_cluster": {"spark_env_vars": []}}, "spark_env_vars must be an object"),
        ({"environments": {}}, "environments must be a list"),
        ({"existing_cluster_id": "c", "tasks": []}, "tasks must be a list of one object"),
        ({"tasks": [{}, {}]}, "tasks must be a list of one object"),
        ({"existing_cluster_id": "c", "sql_task": {}, "notebook_task": {}}, "a run does one thing"),
        ({"existing_cluster_id": "c", "python_file": 7}, "python_file must be a text"),
    ],
)
def test_configuration_that_can_not_work_is_refused_by_its_field(conf: Mapping[str, Any], problem: str) -> None:
    with pytest.raises(BadTaskSpecificationError, match=rf"custom\.databricksConf .*{problem}"):
        made(conf)


def test_function_without_arguments_is_refused() -> None:
    with pytest.raises(BadTaskSpecificationError, match=r"container\.args is empty"):
        made({"existing_cluster_id": "c"}, arguments=())
