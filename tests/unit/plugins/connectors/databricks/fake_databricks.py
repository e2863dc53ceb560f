"""A Databricks workspace that runs on this machine.

Follows the published contract of the Jobs API, version 2.1 (https://docs.databricks.com/api/workspace/jobs):
``runs/submit`` with its idempotency tokens, ``runs/get``, ``runs/get-output`` and ``runs/cancel``, their error
codes, personal access tokens, and OAuth tokens of service principals (``/oidc/v1/token``). It refuses requests that the contract does not have: unknown fields, values of
other types, tasks without compute, environments that are not defined. Two fields it knows beside the contract, as
workspaces pass them over: ``max_retries`` of a run and ``environment_vars`` of an environment, which the SDK's users
and connectors send.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec
from aiohttp import BasicAuth, web

from propfan.plugins.connectors.databricks.submission import TASK_KEY
from tests.unit.plugins.connectors import loopback

RUN_FIELDS: Final[Mapping[str, type | tuple[type, ...]]] = {
    "access_control_list": list,
    "budget_policy_id": str,
    "email_notifications": dict,
    "environments": list,
    "git_source": dict,
    "health": dict,
    "idempotency_token": str,
    "max_retries": int,
    "notification_settings": dict,
    "queue": dict,
    "run_as": dict,
    "run_name": str,
    "tasks": list,
    "timeout_seconds": int,
    "webhook_notifications": dict,
}
TASK_FIELDS: Final[Mapping[str, type | tuple[type, ...]]] = {
    "depends_on": list,
    "description": str,
    "email_notifications": dict,
    "environment_key": str,
    "existing_cluster_id": str,
    "health": dict,
    "libraries": list,
    "new_cluster": dict,
    "notebook_task": dict,
    "notification_settings": dict,
    "python_wheel_task": dict,
    "run_if": str,
    "spark_jar_task": dict,
    "spark_python_task": dict,
    "sql_task": dict,
    "task_key": str,
    "timeout_seconds": int,
    "webhook_notifications": dict,
}
NOTEBOOK_FIELDS: Final = {"base_parameters": dict, "notebook_path": str, "source": str, "warehouse_id": str}
PYTHON_FIELDS: Final = {"parameters": list, "python_file": str, "source": str}
GIT_FIELDS: Final = {
    **dict.fromkeys(("git_branch", "git_commit", "git_provider", "git_tag", "git_url"), str),
    "git_snapshot": dict,
    "sparse_checkout": dict,
}
SPEC_FIELDS: Final = {
    **dict.fromkeys(("client", "environment_version", "base_environment"), str),
    "dependencies": list,
    "environment_vars": dict,
    "java_dependencies": list,
}
CLUSTER_TEXTS: Final = {
    *("cluster_name", "data_security_mode", "driver_instance_pool_id", "driver_node_type_id", "instance_pool_id"),
    *("kind", "node_type_id", "policy_id", "runtime_engine", "single_user_name", "spark_version"),
}
CLUSTER_OBJECTS: Final = {
    *("autoscale", "aws_attributes", "azure_attributes", "cluster_log_conf", "custom_tags", "docker_image"),
    *("gcp_attributes", "spark_conf", "spark_env_vars", "workload_type"),
}
CLUSTER_FIELDS: Final[Mapping[str, type | tuple[type, ...]]] = {
    **dict.fromkeys(CLUSTER_TEXTS, str),
    **dict.fromkeys(CLUSTER_OBJECTS, dict),
    **dict.fromkeys(("apply_policy_default_values", "enable_elastic_disk", "is_single_node", "use_ml_runtime"), bool),
    **dict.fromkeys(("init_scripts", "ssh_public_keys"), list),
    "autotermination_minutes": int,
    "num_workers": int,
}


class RefusalError(loopback.Refusal):
    """An error of the API."""

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.headers = status, code, dict(headers or {})

    def answer(self) -> web.Response:
        return web.json_response(
            {"error_code": self.code, "message": str(self)}, status=self.status, headers=self.headers
        )


def ended(
    result: str | None = "SUCCESS",
    code: str = "SUCCESS",
    kind: str = "SUCCESS",
    message: str = "",
    *,
    life: str = "TERMINATED",
) -> dict[str, Any]:
    """The last account of a run: ``state`` and ``status``."""
    details = {"code": code, "type": kind, "message": message}
    state = {"life_cycle_state": life, "state_message": message}
    if result is not None:
        state["result_state"] = result
    return {"state": state, "status": {"state": "TERMINATED", "termination_details": details}}


def live(state: str) -> dict[str, Any]:
    return {"state": {"life_cycle_state": state, "state_message": ""}, "status": {"state": state}}


CANCELLED: Final = ended("CANCELED", "USER_CANCELED", "CLIENT_ERROR", "Run cancelled.")


class FakeDatabricks:
    """Its runs are PENDING, RUNNING, TERMINATING and then over: one step for each look.

    Attributes:
        principals: Secrets of service principals, by client id.
        grants: Client ids that were given tokens.
        submissions: Bodies, by run.
        courses: What the runs of a name go through, each as ``runs/get`` tells it; else they succeed.
        outputs: What ``runs/get-output`` says of the runs of a name.
        work: Does what a run does, before it ends, and tells how it ended; else nothing is done.
        refusals: Answers to the next calls, in place of what they ask for; ``None`` lets one pass.
        cancelled: Runs that were asked to stop.
        asked: Host and token of each call.
    """

    def __init__(self, token: str) -> None:
        self.tokens: Final = {token}
        self.principals: Final[dict[str, str]] = {}
        self.grants: Final[list[str]] = []
        self.submissions: Final[dict[int, dict[str, Any]]] = {}
        self.courses: Final[dict[str, Sequence[Mapping[str, Any]]]] = {}
        self.outputs: Final[dict[str, Mapping[str, Any]]] = {}
        self.work: Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]] | None = None
        self.refusals: Final[deque[RefusalError | None]] = deque()
        self.cancelled: Final[list[int]] = []
        self.asked: Final[list[tuple[str, str]]] = []
        self.url = ""
        self._left: Final[dict[int, deque[Mapping[str, Any]]]] = {}
        self._by_token: Final[dict[str, int]] = {}
        self._numbers: Final = itertools.count(700_000_001, 2)

    def forget(self, run_id: int) -> None:
        """As the workspace does after 60 days."""
        del self.submissions[run_id], self._left[run_id]

    def application(self) -> web.Application:
        made = web.Application(middlewares=[loopback.refusing])
        made.router.add_post("/oidc/v1/token", self._token)
        made.router.add_post("/api/2.1/jobs/runs/submit", self._submit)
        made.router.add_get("/api/2.1/jobs/runs/get", self._get)
        made.router.add_get("/api/2.1/jobs/runs/get-output", self._get_output)
        made.router.add_post("/api/2.1/jobs/runs/cancel", self._cancel)
        return made

    async def _token(self, request: web.Request) -> web.Response:
        form = await request.post()
        try:
            given = BasicAuth.decode(request.headers["Authorization"])
        except (KeyError, ValueError):
            return web.json_response({"error": "invalid_client"}, status=401)
        if form.get("grant_type") != "client_credentials" or form.get("scope") != "all-apis":
            return web.json_response({"error": "unsupported_grant_type"}, status=400)
        if self.principals.get(given.login) != given.password:
            told = {"error": "invalid_client", "error_description": "Client authentication failed"}
            return web.json_response(told, status=401)
        self.grants.append(given.login)
        token = f"eyJ.{given.login}.{len(self.grants)}"
        self.tokens.add(token)
        return web.json_response(
            {"access_token": token, "expires_in": 3600, "scope": "all-apis", "token_type": "Bearer"}
        )

    def _enter(self, request: web.Request) -> None:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        self.asked.append((request.host, token))
        if scheme != "Bearer" or not token:
            raise RefusalError(401, "UNAUTHENTICATED", "Credential was not sent or was of an unsupported type")
        if token not in self.tokens and token.startswith("eyJ."):
            raise RefusalError(401, "UNAUTHENTICATED", "Token has expired")
        if token not in self.tokens:
            raise RefusalError(403, "PERMISSION_DENIED", "Invalid access token.")
        if self.refusals and (refusal := self.refusals.popleft()):
            raise refusal

    async def _submit(self, request: web.Request) -> web.Response:
        self._enter(request)
        body = await _body(request)
        _check_run(body)
        token = body.get("idempotency_token", "")
        if token in self._by_token:
            run_id = self._by_token[token]
            if run_id not in self.submissions:
                raise RefusalError(
                    400, "INVALID_PARAMETER_VALUE", f"Run {run_id} of this idempotency_token was deleted"
                )
            return web.json_response({"run_id": run_id})
        run_id = next(self._numbers)
        course = self.courses.get(body.get("run_name", ""))
        self._left[run_id] = deque(course or [live("PENDING"), live("RUNNING"), live("TERMINATING"), ended()])
        self.submissions[run_id] = body
        if token:
            self._by_token[token] = run_id
        return web.json_response({"run_id": run_id})

    async def _get(self, request: web.Request) -> web.Response:
        self._enter(request)
        run_id = self._run_id(request.query.get("run_id"))
        body, left = self.submissions[run_id], self._left[run_id]
        told = left[0]
        if len(left) > 1:
            left.popleft()
            if len(left) == 1 and self.work is not None:
                left[0] = await self.work(body)
        cluster = {"cluster_id": "1021-013622-bused793"}
        task = {"run_id": run_id + 1, "task_key": TASK_KEY, "cluster_instance": cluster}
        run = {
            "job_id": 5,
            "run_id": run_id,
            "run_name": body.get("run_name", "Untitled"),
            "run_page_url": f"https://dbc-1.cloud.databricks.com/#job/5/run/{run_id}",
            "tasks": [task],
            "format": "MULTI_TASK",
            "setup_duration": 2000,
            "execution_duration": 3000,
        }
        return web.json_response({**run, **told})

    async def _get_output(self, request: web.Request) -> web.Response:
        self._enter(request)
        asked = request.query.get("run_id", "")
        if asked.isdigit() and int(asked) in self.submissions:
            message = "Retrieving the output of runs with multiple tasks is not supported."
            raise RefusalError(400, "INVALID_PARAMETER_VALUE", message)
        run_id = self._run_id(str(int(asked) - 1) if asked.isdigit() else asked)
        output = self.outputs.get(self.submissions[run_id].get("run_name", ""), {})
        return web.json_response({"metadata": {"run_id": run_id + 1}, **output})

    async def _cancel(self, request: web.Request) -> web.Response:
        self._enter(request)
        body = await _body(request)
        _check(body, {"run_id": int}, "")
        run_id = self._run_id(str(body.get("run_id", "")))
        self.cancelled.append(run_id)
        left = self._left[run_id]
        if left[0]["state"]["life_cycle_state"] not in ("TERMINATED", "SKIPPED", "INTERNAL_ERROR"):
            left.clear()
            left.extend([live("TERMINATING"), CANCELLED])
        return web.json_response({})

    def _run_id(self, text: str | None) -> int:
        if not text or not text.isdigit():
            raise RefusalError(400, "INVALID_PARAMETER_VALUE", "Invalid run_id")
        if int(text) not in self.submissions:
            raise RefusalError(400, "INVALID_PARAMETER_VALUE", f"Run {text} does not exist.")
        return int(text)


@asynccontextmanager
async def opened(token: str = "dapi-service") -> AsyncIterator[FakeDatabricks]:
    """Serves it on loopback."""
    fake = FakeDatabricks(token)
    async with loopback.served(fake.application()) as fake.url:
        yield fake


async def _body(request: web.Request) -> dict[str, Any]:
    try:
        return msgspec.json.decode(await request.read(), type=dict[str, Any])
    except msgspec.DecodeError:
        raise RefusalError(400, "MALFORMED_REQUEST", "Invalid JSON given in the body of the request") from None


def _check(members: Any, fields: Mapping[str, Any], path: str) -> None:
    if not isinstance(members, dict):
        raise RefusalError(400, "MALFORMED_REQUEST", f"Could not parse request object: {path} must be an object")
    for name, value in members.items():
        if name not in fields:
            raise RefusalError(400, "MALFORMED_REQUEST", f"Could not parse request object: unknown field {path}{name}")
        if not isinstance(value, fields[name]) or (isinstance(value, bool) and fields[name] is int):
            message = f"Could not parse request object: Expected '{fields[name].__name__}' for field {path}{name}"
            raise RefusalError(400, "MALFORMED_REQUEST", message)


def _check_run(body: Mapping[str, Any]) -> None:
    _check(body, RUN_FIELDS, "")
    if len(body.get("idempotency_token", "")) > 64:
        raise RefusalError(400, "INVALID_PARAMETER_VALUE", "idempotency_token must have at most 64 characters")
    if not body.get("tasks"):
        raise RefusalError(400, "INVALID_PARAMETER_VALUE", "One of job_cluster_key, new_cluster, ... must be specified")
    environments = body.get("environments", [])
    for environment in environments:
        _check(environment, {"environment_key": str, "spec": dict}, "environments.")
        _check(environment.get("spec", {}), SPEC_FIELDS, "environments.spec.")
    if "git_source" in body:
        _check(body["git_source"], GIT_FIELDS, "git_source.")
    defined = {environment["environment_key"] for environment in environments}
    for task in body["tasks"]:
        _check_task(task, defined, has_git="git_source" in body)


def _check_task(task: Any, defined: set[str], *, has_git: bool) -> None:
    _check(task, TASK_FIELDS, "tasks.")
    key = task.get("task_key")
    if not key:
        raise RefusalError(400, "INVALID_PARAMETER_VALUE", "task_key must be specified")
    kinds = [name for name in task if name.endswith("_task")]
    if len(kinds) != 1:
        raise RefusalError(400, "INVALID_PARAMETER_VALUE", f"Task {key} must have exactly one of notebook_task, ...")
    compute = [name for name in ("new_cluster", "existing_cluster_id") if name in task]
    if len(compute) > 1:
        raise RefusalError(400, "INVALID_PARAMETER_VALUE", f"Task {key} has several kinds of compute")
    environment = task.get("environment_key")
    if environment is not None and environment not in defined:
        message = f"Job environment '{environment}' used by task {key} is not defined in field 'environments'."
        raise RefusalError(400, "INVALID_PARAMETER_VALUE", message)
    if not compute and environment is None and kinds == ["spark_python_task"]:
        raise RefusalError(400, "INVALID_PARAMETER_VALUE", f"An environment is required for serverless task {key}.")
    if "new_cluster" in task:
        _check(task["new_cluster"], CLUSTER_FIELDS, "new_cluster.")
        if "spark_version" not in task["new_cluster"]:
            raise RefusalError(400, "INVALID_PARAMETER_VALUE", "Missing required field: new_cluster.spark_version")
    fields = {"notebook_task": NOTEBOOK_FIELDS, "spark_python_task": PYTHON_FIELDS}.get(kinds[0])
    if fields is not None:
        _check(task[kinds[0]], fields, f"{kinds[0]}.")
    python = task.get("spark_python_task", {"python_file": "/x"})
    if "python_file" not in python or (python.get("source") == "GIT" and not has_git):
        raise RefusalError(400, "INVALID_PARAMETER_VALUE", "python_file needs a git_source to be taken from GIT")
