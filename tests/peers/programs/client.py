"""How every program here meets its control plane: the endpoint is the first argument, the answer is a line of JSON."""

from __future__ import annotations

import json
import sys
import urllib.request
import uuid
from typing import Any

import flyte
from flyte.remote import Action

PROJECT, DOMAIN = "demo", "development"


def connect() -> None:
    flyte.init(endpoint=sys.argv[1], insecure=True, project=PROJECT, domain=DOMAIN)


def outputs(task: Any, *args: Any, **kwargs: Any) -> Any:
    """Runs a task to its end; what it returned, or its phase where it has failed."""
    run = flyte.run(task, *args, **kwargs)
    run.wait(quiet=True)
    if str(run.phase) != "ActionPhase.SUCCEEDED":
        return {"phase": str(run.phase).rpartition(".")[2], "error": error_of(run)}
    returned = tuple(run.outputs())
    return returned[0] if len(returned) == 1 else list(returned)


def error_of(run: Any) -> dict[str, str]:
    info = run.details().action_details.error_info
    return {"code": info.code, "message": info.message} if info is not None else {}


def phases(run: str) -> dict[str, str]:
    """Of the run's actions, by name."""
    return {action.name: str(action.phase).rpartition(".")[2] for action in Action.listall(for_run_name=run)}


def answer(value: Any) -> None:
    print(json.dumps(value))


def new_name(prefix: str) -> str:
    """A run's name that nobody has had."""
    return f"{prefix}-{uuid.uuid4().hex[:12]}"


def report_of(run: str) -> str:
    """The report of a run's first attempt, by the link that the control plane gives."""
    from flyteidl2.dataproxy import dataproxy_service_pb2
    from flyteidl2.dataproxy.dataproxy_service_connect import DataProxyServiceClientSync

    request = dataproxy_service_pb2.CreateDownloadLinkRequest(
        artifact_type=dataproxy_service_pb2.ARTIFACT_TYPE_REPORT,
    )
    request.action_attempt_id.action_id.run.name = run
    request.action_attempt_id.action_id.name = "a0"
    request.action_attempt_id.attempt = 1
    urls = DataProxyServiceClientSync(f"http://{sys.argv[1]}").create_download_link(request)
    with urllib.request.urlopen(urls.pre_signed_urls.signed_url[0]) as response:
        return response.read().decode()
