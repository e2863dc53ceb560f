"""Prints tasks of the Flyte 2 SDK's plugins for warehouses, serialised: one line of JSON for each."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import absent

absent.stand_in("pyspark")

import flyte  # noqa: E402
from flyte._internal.runtime import task_serde  # noqa: E402
from flyte.io import DataFrame  # noqa: E402
from flyte.models import SerializationContext  # noqa: E402
from flyteplugins.bigquery import BigQueryConfig, BigQueryTask  # noqa: E402
from flyteplugins.databricks import Databricks  # noqa: E402
from google.cloud.bigquery import QueryJobConfig  # noqa: E402

INSTANCE = "dbc-1.cloud.databricks.com"
CLUSTER = {"spark_version": "13.3.x-scala2.12", "node_type_id": "m6i.large", "num_workers": 2}
CONTEXT = SerializationContext(version="v1", project="p", domain="d", root_dir=Path(__file__).parent)

query = BigQueryTask(
    "query",
    query_template="SELECT name FROM pets WHERE age > @least ORDER BY age",
    plugin_config=BigQueryConfig(ProjectID="acme", QueryJobConfig=QueryJobConfig(maximum_bytes_billed=10**12)),
    inputs={"least": int},
    output_dataframe_type=DataFrame,
    google_application_credentials="GCP_KEY",
)
statement = BigQueryTask(
    "statement",
    query_template="INSERT INTO pets VALUES ('ida', 1)",
    plugin_config=BigQueryConfig(ProjectID="acme", Location="US"),
)


def databricks(name: str, conf: dict[str, Any], token: str | None) -> Any:
    config = Databricks(databricks_conf=conf, databricks_instance=INSTANCE, databricks_token=token)
    environment = flyte.TaskEnvironment(name, image="ghcr.io/acme/spark:1", plugin_config=config)

    async def function(n: int) -> int:
        return n

    return environment.task(function)


for name, each in (("query", query), ("statement", statement)):
    flyte.TaskEnvironment.from_task(name, each)

for name, each in (
    ("query", query),
    ("statement", statement),
    ("with_token", databricks("with-token", {"run_name": "with-token", "new_cluster": CLUSTER}, "DATABRICKS_TOKEN")),
    ("without_token", databricks("without-token", {"existing_cluster_id": "1113-204018-tb9vr2fm"}, None)),
):
    template = task_serde.translate_task_to_wire(each, CONTEXT).task_template
    print(json.dumps({"name": name, "template": base64.b64encode(template.SerializeToString()).decode()}))
