"""Tasks of the Flyte 2 SDK's plugins that connectors run; run by ``recorder.py``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import absent

absent.stand_in(*absent.COMPUTE, *absent.CLIENTS)

import flyte  # noqa: E402
from flyte._internal.runtime import task_serde  # noqa: E402
from flyte.io import DataFrame  # noqa: E402
from flyte.models import SerializationContext  # noqa: E402
from flyteplugins import bigquery, databricks, snowflake  # noqa: E402
from google.cloud.bigquery import QueryJobConfig  # noqa: E402

CONTEXT = SerializationContext(version="v1", project="p", domain="d", root_dir=Path(__file__).parent)
SNOWFLAKE = snowflake.SnowflakeConfig(user="u", account="org-acc", database="db", schema="PUBLIC", warehouse="wh")
INSTANCE = "acc.cloud.databricks.com"


def of_snowflake() -> Iterator[tuple[str, str, Any]]:
    package = "flyteplugins-snowflake"
    yield package, "snowflake-default", snowflake.Snowflake("insert", "INSERT INTO t VALUES (1)", SNOWFLAKE)
    yield (
        package,
        "snowflake-full",
        snowflake.Snowflake(
            "select",
            "SELECT * FROM t WHERE day = %(day)s LIMIT %(limit)s",
            snowflake.SnowflakeConfig(
                user="u",
                account="org-acc",
                database="db",
                schema="PUBLIC",
                warehouse="wh",
                connection_kwargs={"role": "ANALYST", "login_timeout": 30},
            ),
            inputs={"day": str, "limit": int},
            output_dataframe_type=DataFrame,
            secret_group="team-a",
            snowflake_private_key="snowflake_key",
            snowflake_private_key_passphrase="snowflake_passphrase",
        ),
    )
    yield (
        package,
        "snowflake-batch",
        snowflake.Snowflake(
            "batch",
            "INSERT INTO t (n, name) VALUES (%(n)s, %(name)s)",
            SNOWFLAKE,
            inputs={"n": list[int], "name": list[str]},
            snowflake_private_key="snowflake_key",
            batch=True,
        ),
    )


def of_bigquery() -> Iterator[tuple[str, str, Any]]:
    package = "flyteplugins-bigquery"
    yield package, "bigquery-default", bigquery.BigQueryTask("q1", "SELECT 1", bigquery.BigQueryConfig("proj"))
    settings = QueryJobConfig(dry_run=False, use_query_cache=False, maximum_bytes_billed=10**9, labels={"team": "a"})
    yield (
        package,
        "bigquery-full",
        bigquery.BigQueryTask(
            "q2",
            "SELECT * FROM t WHERE n > @n AND name = @name",
            bigquery.BigQueryConfig("proj", "EU", settings),
            inputs={"n": int, "name": str, "share": float, "flag": bool},
            output_dataframe_type=DataFrame,
            google_application_credentials="gcp_key",
        ),
    )


def of_databricks() -> Iterator[tuple[str, str, Any]]:
    package = "flyteplugins-databricks"
    cluster = {
        "spark_version": "13.3.x-scala2.12",
        "node_type_id": "m6i.large",
        "num_workers": 2,
        "aws_attributes": {"availability": "SPOT_WITH_FALLBACK"},
    }
    existing = databricks.Databricks(databricks_conf={"existing_cluster_id": "c-1"}, databricks_instance=INSTANCE)
    new = databricks.Databricks(
        spark_conf={"spark.driver.memory": "1g"},
        executor_path="/databricks/python3/bin/python",
        applications_path="dbfs:///FileStore/entrypoint.py",
        databricks_conf={"run_name": "own", "new_cluster": cluster, "timeout_seconds": 3600, "max_retries": 1},
        databricks_instance=INSTANCE,
        databricks_token="databricks_token",
    )
    for name, config in (("databricks-cluster", existing), ("databricks-new-cluster", new)):
        environment = flyte.TaskEnvironment(
            name.replace("-", "_"),
            image="img:1",
            resources=flyte.Resources(cpu=1, memory="500Mi"),
            plugin_config=config,
        )
        yield package, name, environment.task(double)


def double(number: int) -> int:
    return number * 2


def templates() -> Iterator[tuple[str, str, bytes]]:
    """Package, name and serialised ``core.TaskTemplate`` of each task."""
    for family in (of_snowflake, of_bigquery, of_databricks):
        for package, name, made in family():
            spec = task_serde.translate_task_to_wire(made, CONTEXT)
            yield package, name, spec.task_template.SerializeToString(deterministic=True)
