"""Asks both fakes by their vendors' own clients: ``warehouse_clients.py BIGQUERY_URL KEY DATABRICKS_URL TOKEN``; prints JSON."""

from __future__ import annotations

import json
import sys
from typing import Any

from databricks.sdk import WorkspaceClient
from databricks.sdk.errors import DatabricksError
from databricks.sdk.service import compute, jobs
from google.api_core.exceptions import BadRequest, Conflict, NotFound
from google.cloud import bigquery
from google.oauth2 import service_account

bigquery_url, key, databricks_url, token = sys.argv[1:]


def ask_bigquery() -> dict[str, Any]:
    credentials = service_account.Credentials.from_service_account_info(json.loads(key))
    client = bigquery.Client("acme", credentials, client_options={"api_endpoint": bigquery_url})
    least = [bigquery.ScalarQueryParameter("least", "INT64", 4)]
    config = bigquery.QueryJobConfig(query_parameters=least, maximum_bytes_billed=10**9, use_query_cache=False)
    told: dict[str, Any] = {"states": []}
    job = client.query("SELECT name FROM pets WHERE age > @least", config, job_id="job-1")
    while job.state != "DONE":
        told["states"].append(job.state)
        job.reload()
    told["destination"] = str(job.destination)
    told["bytes"] = job.total_bytes_processed
    try:
        client.query("SELECT 1", job_id="job-1", job_retry=None)
    except Conflict as error:
        told["duplicate"] = error.errors[0]["reason"]
    failed = client.query("SELECT colour FROM pets", job_id="job-2")
    while failed.state != "DONE":
        failed.reload()
    told["failed"] = failed.error_result["reason"]
    try:
        client.get_job("job-3", location="US")
    except NotFound as error:
        told["missing"] = error.errors[0]["reason"]
    bad = bigquery.QueryJobConfig()
    bad._properties["query"]["noSuchSetting"] = 1
    try:
        client.query("SELECT 1", bad, job_id="job-4")
    except BadRequest as error:
        told["unknown"] = error.errors[0]["reason"]
    told["cancelled"] = client.cancel_job(client.query("SELECT 1", job_id="job-5").job_id, location="US").state
    return told


def ask_databricks() -> dict[str, Any]:
    client = WorkspaceClient(host=databricks_url, token=token)
    cluster = compute.ClusterSpec(spark_version="13.3.x-scala2.12", node_type_id="m6i.large", num_workers=2)
    python = jobs.SparkPythonTask("/Workspace/run.py", parameters=["a"], source=jobs.Source.WORKSPACE)
    tasks = [jobs.SubmitTask("flyte", new_cluster=cluster, spark_python_task=python)]
    submitted = [client.jobs.submit(idempotency_token="t-1", run_name="r", tasks=tasks).response for _ in range(2)]
    told: dict[str, Any] = {"runs": [answer.run_id for answer in submitted], "states": []}
    while True:
        run = client.jobs.get_run(submitted[0].run_id)
        told["states"].append(run.state.life_cycle_state.value)
        if run.state.result_state is not None:
            break
    told["result"] = run.state.result_state.value
    told["code"] = run.status.termination_details.code.value
    told["page"] = run.run_page_url
    client.jobs.get_run_output(run.tasks[0].run_id)
    client.jobs.cancel_run(run.run_id)
    try:
        client.jobs.get_run(3)
    except DatabricksError as error:
        told["missing"] = type(error).__name__
    try:
        client.jobs.submit(tasks=[jobs.SubmitTask("flyte", environment_key="e", spark_python_task=python)])
    except DatabricksError as error:
        told["wrong"] = type(error).__name__
    return told


print(json.dumps({"bigquery": ask_bigquery(), "databricks": ask_databricks()}))
