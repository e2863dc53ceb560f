"""What is submitted for a task: the body of ``POST /api/2.1/jobs/runs/submit``.

A run has one task. What ``databricksConf`` says goes to where the API has it: compute and what is run into the
task, anything else (``run_name``, ``git_source``, ``timeout_seconds``, ...) to the run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from propfan.pluginmachinery.connector import TaskRequest
from propfan.pluginmachinery.errors import BadTaskSpecificationError

TASK_KEY: Final = "flyte"
"""Of the run's only task."""

_OF_THE_TASK: Final = frozenset({"new_cluster", "existing_cluster_id", "environment_key", "libraries"})
_DEFAULT_ENVIRONMENT: Final = "default"
_DEFAULT_ENVIRONMENT_VERSION: Final = "1"
_COMPUTE: Final = (
    "'new_cluster' or 'existing_cluster_id' for a cluster, 'environment_key' or 'environments' for serverless compute"
)


class Entrypoint(msgspec.Struct, frozen=True, rename="kebab"):
    """The script that runs a function on Databricks: it is called with the arguments of the task's container.

    Attributes:
        python_file: On clusters; a path in the repository, or of the workspace or a store without ``git_url``.
        serverless_python_file: The same on serverless compute.
        git_url: Of the repository; empty for none.
        git_commit: What of it; never a branch, whose scripts anybody could change.
    """

    python_file: str
    serverless_python_file: str
    git_url: str = "https://github.com/flyteorg/flytetools"
    git_provider: str = "gitHub"
    git_commit: str = ""


FLYTE1: Final = Entrypoint(
    "flytekitplugins/databricks/entrypoint.py",
    "flytekitplugins/databricks/entrypoint_serverless.py",
    git_commit="572298df1f971fb58c258398bd70a6372f811c96",
)
FLYTE2: Final = Entrypoint(
    "flyteplugins/databricks/entrypoint.py",
    "flyteplugins/databricks/entrypoint.py",
    git_commit="194364210c47c49ce66c419e8fb68d6f9c06fd7e",
)
"""What the SDKs' own connectors have Databricks run."""


class DatabricksSpec(msgspec.Struct, frozen=True, rename="camel"):
    """``custom`` of a task: ``SparkJob`` and what the SDKs add to it.

    Attributes:
        databricks_conf: As the Jobs API takes it, of a run of one task.
        databricks_token_secret: Name of the service's secret with the token.
    """

    databricks_conf: dict[str, Any] | None = None
    databricks_instance: str | None = None
    databricks_service_credential_provider: str | None = None
    databricks_token_secret: str | None = None
    databricks_auth_type: str | None = None
    databricks_client_id: str | None = None
    databricks_oauth_secret: str | None = None
    notebook_path: str | None = None
    notebook_base_parameters: dict[str, Any] | None = None
    spark_conf: dict[str, Any] | None = None


class Submission(msgspec.Struct, frozen=True):
    """A body, and whether what it runs writes ``outputs.pb`` or ``error.pb``, as the SDKs' functions do."""

    body: Mapping[str, Any]
    is_function: bool


def submission(task: TaskRequest, spec: DatabricksSpec, flyte1: Entrypoint, flyte2: Entrypoint) -> Submission:
    """The run for a task.

    Raises:
        BadTaskSpecificationError: ``databricksConf`` lacks something or contradicts itself; named.
    """
    run, of_task = _divided(spec.databricks_conf or {})
    environment = {entry.key: entry.value for entry in task.template.container.env} | {"FLYTE_FAIL_ON_ERROR": "true"}
    kinds = [key for key in of_task if key.endswith("_task")]
    if len({*kinds, *(["notebook_task"] if spec.notebook_path else [])}) > 1:
        raise _bad(f"has {' and '.join(kinds)}; a run does one thing, and notebookPath is one too")
    is_function = not spec.notebook_path and kinds in ([], ["spark_python_task"])
    is_serverless = _is_serverless(run, of_task)
    if is_serverless:
        _use_environment(run, of_task, environment)
    elif "new_cluster" in of_task:
        of_task["new_cluster"] = _cluster(task, spec, _object(of_task, "new_cluster"), environment)
    elif "existing_cluster_id" not in of_task and is_function:
        raise _bad(f"names no compute: give {_COMPUTE}")
    if spec.notebook_path:
        of_task["notebook_task"] = _notebook(spec, _object(of_task, "notebook_task"))
    elif is_function:
        entrypoint = flyte1 if _is_flyte1(task) else flyte2
        run, of_task = _with_function(task, spec, run, of_task, entrypoint, is_serverless=is_serverless)
    name = task.unique_name()
    body = {"run_name": name, **run, "idempotency_token": name, "tasks": [{"task_key": TASK_KEY, **of_task}]}
    return Submission(body, is_function)


def _divided(conf: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is the run's and what is its task's."""
    run = {key: value for key, value in conf.items() if value is not None}
    given = run.pop("tasks", None)
    of_task: dict[str, Any] = {}
    if given is not None:
        if not isinstance(given, list) or len(given) != 1 or not isinstance(given[0], dict):
            raise _bad("tasks must be a list of one object: a Flyte task is one task of a run")
        of_task = {key: value for key, value in given[0].items() if value is not None}
    for key in [key for key in run if key in _OF_THE_TASK or key.endswith("_task")]:
        of_task[key] = run.pop(key)
    of_task.pop("task_key", None)
    return run, of_task


def _is_serverless(run: Mapping[str, Any], of_task: Mapping[str, Any]) -> bool:
    clusters = [key for key in ("new_cluster", "existing_cluster_id") if key in of_task]
    if len(clusters) > 1 or (clusters and "environment_key" in of_task):
        raise _bad(f"names several kinds of compute: give one of {_COMPUTE}")
    return not clusters and ("environment_key" in of_task or "environments" in run)


def _use_environment(run: dict[str, Any], of_task: dict[str, Any], variables: Mapping[str, str]) -> None:
    """Names the task's environment, which is made when there is none of its name, and gives it the variables."""
    environments = run.get("environments", [])
    if not isinstance(environments, list) or not all(isinstance(each, dict) for each in environments):
        raise _bad("environments must be a list of objects")
    first = environments[0].get("environment_key") if environments else None
    key = of_task.get("environment_key") or first or _DEFAULT_ENVIRONMENT
    if not any(each.get("environment_key") == key for each in environments):
        environments = [*environments, {"environment_key": key}]
    of_task["environment_key"] = key
    run["environments"] = [
        {**each, "spec": _environment_spec(_object(each, "spec"), variables)}
        if each.get("environment_key") == key
        else each
        for each in environments
    ]


def _environment_spec(spec: Mapping[str, Any], variables: Mapping[str, str]) -> Mapping[str, Any]:
    has_version = "client" in spec or "environment_version" in spec
    version = {} if has_version else {"environment_version": _DEFAULT_ENVIRONMENT_VERSION}
    return {**version, **spec, "environment_vars": _variables(_object(spec, "environment_vars"), variables)}


def _cluster(
    task: TaskRequest, spec: DatabricksSpec, cluster: Mapping[str, Any], variables: Mapping[str, str]
) -> Mapping[str, Any]:
    image = task.template.container.image
    made = {
        **({"docker_image": {"url": image}} if image else {}),
        **cluster,
        "spark_env_vars": _variables(_object(cluster, "spark_env_vars"), variables),
    }
    spark_conf = {**(spec.spark_conf or {}), **_object(cluster, "spark_conf")}
    return {**made, "spark_conf": spark_conf} if spark_conf else made


def _variables(own: Mapping[str, Any], variables: Mapping[str, str]) -> Mapping[str, Any]:
    """The task's own win, but for the one by which a function's failure becomes the run's."""
    return {**variables, **own, "FLYTE_FAIL_ON_ERROR": "true"}


def _notebook(spec: DatabricksSpec, given: Mapping[str, Any]) -> Mapping[str, Any]:
    parameters = spec.notebook_base_parameters
    return {
        **given,
        "notebook_path": spec.notebook_path,
        **({"base_parameters": parameters} if parameters else {}),
    }


def _with_function(
    task: TaskRequest,
    spec: DatabricksSpec,
    run: Mapping[str, Any],
    of_task: Mapping[str, Any],
    entrypoint: Entrypoint,
    *,
    is_serverless: bool,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The run and its task with the script that runs the function."""
    given = _object(of_task, "spark_python_task")
    run = dict(run)
    own_file = run.pop("python_file", None) or given.get("python_file")
    if own_file is not None and not isinstance(own_file, str):
        raise _bad("python_file must be a text")
    file = own_file or (entrypoint.serverless_python_file if is_serverless else entrypoint.python_file)
    if not own_file and entrypoint.git_url and "git_source" not in run:
        run["git_source"] = {
            "git_url": entrypoint.git_url,
            "git_provider": entrypoint.git_provider,
            "git_commit": entrypoint.git_commit,
        }
    is_in_git = "git_source" in run and not file.startswith("/") and ":/" not in file
    arguments = list(task.template.container.args)
    if not arguments and "parameters" not in given:
        raise BadTaskSpecificationError(
            f"task '{task.template.id.name}': container.args is empty, so nothing can be run"
        )
    if provider := spec.databricks_service_credential_provider:
        arguments += [f"--flyte-credential-provider={provider}"] if is_serverless else []
    python_task = {
        "parameters": arguments,
        **given,
        "python_file": file,
        "source": given.get("source") or ("GIT" if is_in_git else "WORKSPACE"),
    }
    return run, {**of_task, "spark_python_task": python_task}


def _is_flyte1(task: TaskRequest) -> bool:
    """The SDK of Flyte 1 calls its programs ``pyflyte-execute`` and ``pyflyte-fast-execute``, that of Flyte 2 ``a0``."""
    arguments = task.template.container.args
    return bool(arguments) and arguments[0].startswith("pyflyte")


def _object(members: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = members.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _bad(f"{name} must be an object")
    return value


def _bad(problem: str) -> BadTaskSpecificationError:
    return BadTaskSpecificationError(f"custom.databricksConf {problem}")
