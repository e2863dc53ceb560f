"""Prints tasks of flytekit's plugins for warehouses, serialised: one line of JSON for each."""

from __future__ import annotations

import base64
import json
from collections import OrderedDict
from datetime import datetime
from typing import Any

import absent

absent.stand_in("pandas_gbq", "pyspark")

from flytekit import StructuredDataset, kwtypes, task  # noqa: E402
from flytekit.configuration import Image, ImageConfig, SerializationSettings  # noqa: E402
from flytekit.tools.translator import get_serializable  # noqa: E402
from flytekitplugins.bigquery import BigQueryConfig, BigQueryTask  # noqa: E402
from flytekitplugins.spark import DatabricksV2  # noqa: E402
from google.cloud.bigquery import QueryJobConfig, ScalarQueryParameter  # noqa: E402

INSTANCE = "dbc-1.cloud.databricks.com"
CLUSTER = {"spark_version": "13.3.x-scala2.12", "node_type_id": "m6i.large", "num_workers": 2}
IMAGE = Image("default", "ghcr.io/acme/spark", tag="1")
SETTINGS = SerializationSettings(
    image_config=ImageConfig(default_image=IMAGE), project="p", domain="d", version="v1", env={"STAGE": "test"}
)

query = BigQueryTask(
    name="query",
    inputs=kwtypes(least=int, names=list[str], since=datetime),
    query_template="SELECT name, age FROM pets WHERE age > @least AND @since > '2020' AND @names IS NOT NULL ORDER BY age",
    output_structured_dataset_type=StructuredDataset,
    task_config=BigQueryConfig(ProjectID="acme"),
)
configured = BigQueryTask(
    name="configured",
    query_template="SELECT name FROM pets WHERE age = @age",
    output_structured_dataset_type=StructuredDataset,
    task_config=BigQueryConfig(
        ProjectID="acme",
        Location="US",
        QueryJobConfig=QueryJobConfig(
            maximum_bytes_billed=10**12,
            use_query_cache=False,
            query_parameters=[ScalarQueryParameter("age", "INT64", 3)],
            destination="acme.results.pets",
        ),
    ),
)
statement = BigQueryTask(
    name="statement", query_template="INSERT INTO pets VALUES ('ida', 1)", task_config=BigQueryConfig("acme")
)


@task(
    task_config=DatabricksV2(
        spark_conf={"spark.driver.memory": "1g"},
        databricks_conf={
            "run_name": "on-new-cluster",
            "new_cluster": CLUSTER,
            "timeout_seconds": 3600,
            "max_retries": 1,
        },
        databricks_instance=INSTANCE,
    )
)
def on_new_cluster(n: int) -> int:
    return n


@task(
    task_config=DatabricksV2(
        databricks_conf={"environments": [{"environment_key": "mine", "spec": {"client": "2"}}]},
        databricks_instance=INSTANCE,
        databricks_service_credential_provider="lake",
    )
)
def serverless(n: int) -> int:
    return n


@task(
    task_config=DatabricksV2(
        databricks_conf={"existing_cluster_id": "1113-204018-tb9vr2fm"},
        notebook_path="/Users/somebody/report",
        notebook_base_parameters={"day": "2026-01-01"},
    )
)
def notebook() -> None: ...


def told(entity: Any) -> str:
    template = get_serializable(OrderedDict(), SETTINGS, entity).to_flyte_idl().template
    content = base64.b64encode(template.SerializeToString()).decode()
    return json.dumps({"name": template.id.name.rpartition(".")[2], "template": content})


for each in (query, configured, statement, on_new_cluster, serverless, notebook):
    print(told(each))
