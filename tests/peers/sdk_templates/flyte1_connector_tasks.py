"""Tasks of flytekit and its plugins that connectors run, or that run a container of their own; run by ``recorder.py``."""

from __future__ import annotations

import datetime as dt
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import absent

absent.stand_in(*absent.COMPUTE, *absent.CLIENTS)

from flytekit import Resources, StructuredDataset, kwtypes, task  # noqa: E402
from flytekit.configuration import Image, ImageConfig, SerializationSettings  # noqa: E402
from flytekit.extras.sqlite3.task import SQLite3Config, SQLite3Task  # noqa: E402
from flytekit.extras.webhook import WebhookTask  # noqa: E402
from flytekit.models.security import Secret  # noqa: E402
from flytekit.sensor.base_sensor import BaseSensor  # noqa: E402
from flytekit.sensor.file_sensor import FileSensor  # noqa: E402
from flytekit.tools.translator import get_serializable  # noqa: E402
from flytekit.types.schema import FlyteSchema  # noqa: E402
from flytekitplugins import athena, awssagemaker_inference, bigquery, openai, slurm, snowflake, spark  # noqa: E402
from flytekitplugins import awssagemaker_batch_transform as transforms  # noqa: E402
from flytekitplugins import awssagemaker_hyperparameter_tuning as tunings  # noqa: E402
from flytekitplugins import awssagemaker_inference_recommender as recommenders  # noqa: E402
from flytekitplugins import awssagemaker_processing as processing_jobs  # noqa: E402
from flytekitplugins import awssagemaker_training as training_jobs  # noqa: E402
from flytekitplugins import sqlalchemy as sqlalchemy_plugin  # noqa: E402
from google.cloud.bigquery import QueryJobConfig  # noqa: E402
from mashumaro.mixins.json import DataClassJSONMixin  # noqa: E402

SETTINGS = SerializationSettings(
    image_config=ImageConfig(default_image=Image("default", "img", tag="1")), project="p", domain="d", version="v1"
)
SMALL = Resources(cpu="1", mem="500Mi")
SNOWFLAKE = snowflake.SnowflakeConfig(user="u", account="org-acc", database="db", schema="PUBLIC", warehouse="wh")
SSH = {"host": "login.example.com", "username": "u", "client_keys": ["~/.ssh/id_rsa"]}
INSTANCE = "acc.cloud.databricks.com"
TOKEN = Secret(group="db", key="password", mount_requirement=Secret.MountType.ENV_VAR)
KEY = Secret(group="openai", key="api_key")


@dataclass
class Bucket(DataClassJSONMixin):
    bucket: str


class BucketSensor(BaseSensor):  # type: ignore[misc]
    """A sensor as users write them."""

    def __init__(self, name: str, **kwargs: Any) -> None:
        super().__init__(name=name, sensor_config=Bucket("b"), **kwargs)

    async def poke(self, key: str, minimum: int) -> bool:
        return bool(key) and minimum > 0


def webhooks_and_sensors() -> Iterator[tuple[str, str, Any]]:
    yield "flytekit", "webhook-default", WebhookTask("notify", "https://hooks.example.com/a")
    yield (
        "flytekit",
        "webhook-full",
        WebhookTask(
            "notify-full",
            "https://hooks.example.com/{inputs.channel}",
            headers={"Authorization": "Bearer {inputs.token}", "Content-Type": "application/json"},
            data={"text": "{inputs.text}", "nested": {"n": 1}},
            dynamic_inputs=kwtypes(channel=str, token=str, text=str),
            show_data=True,
            show_url=True,
            description="tells a channel",
            timeout=dt.timedelta(seconds=30),
        ),
    )
    yield "flytekit", "webhook-get", WebhookTask("look", "https://hooks.example.com/a", method="GET", data={"q": "x"})
    yield "flytekit", "sensor-file", FileSensor("file", timeout=600)
    yield "flytekit", "sensor-own", BucketSensor("bucket")


def of_openai() -> Iterator[tuple[str, str, Any]]:
    package = "flytekitplugins-openai"
    model = {"model": "gpt-4o", "temperature": 0.7, "max_tokens": 64}
    yield package, "chatgpt", openai.ChatGPTTask("chat", model, "org-1")
    yield package, "openai-batch-default", openai.BatchEndpointTask("batch", {})
    yield (
        package,
        "openai-batch-full",
        openai.BatchEndpointTask(
            "batch-full",
            {"completion_window": "24h", "endpoint": "/v1/embeddings", "metadata": {"team": "a"}},
            "org-1",
        ),
    )
    config = openai.OpenAIFileConfig(KEY, "org-1")
    yield package, "openai-upload", openai.UploadJSONLFileTask("upload", config)
    yield package, "openai-download", openai.DownloadJSONFilesTask("download", config)


def of_aws() -> Iterator[tuple[str, str, Any]]:
    package = "flytekitplugins-awssagemaker"
    sagemaker = awssagemaker_inference
    model = {
        "ModelName": "{inputs.name}-{idempotence_token}",
        "PrimaryContainer": {"Image": "{images.serving}", "ModelDataUrl": "s3://b/model.tar.gz"},
        "ExecutionRoleArn": "arn:aws:iam::123456789012:role/r",
    }
    images = {"serving": "123456789012.dkr.ecr.us-east-2.amazonaws.com/serving:1"}
    yield (
        package,
        "boto-model",
        sagemaker.SageMakerModelTask("model", model, region="us-east-2", images=images, inputs=kwtypes(name=str)),
    )
    variant = {
        "VariantName": "v",
        "ModelName": "{inputs.name}",
        "InitialInstanceCount": 1,
        "InstanceType": "ml.m4.xlarge",
    }
    config = {
        "EndpointConfigName": "{inputs.name}",
        "ProductionVariants": [variant],
        "AsyncInferenceConfig": {"OutputConfig": {"S3OutputPath": "s3://b/out"}},
    }
    yield (
        package,
        "boto-endpoint-config",
        sagemaker.SageMakerEndpointConfigTask("endpoint-config", config, "us-east-2", inputs=kwtypes(name=str)),
    )
    endpoint = {"EndpointName": "{inputs.name}", "EndpointConfigName": "{inputs.name}"}
    yield (
        package,
        "sagemaker-endpoint",
        sagemaker.SageMakerEndpointTask("endpoint", endpoint, "us-east-2", inputs=kwtypes(name=str)),
    )
    yield (
        package,
        "boto-delete",
        sagemaker.SageMakerDeleteEndpointTask(
            "delete", {"EndpointName": "{inputs.name}"}, "us-east-2", kwtypes(name=str)
        ),
    )
    yield (
        package,
        "boto-invoke",
        sagemaker.SageMakerInvokeEndpointTask(
            "invoke",
            {"EndpointName": "e", "InputLocation": "{inputs.location}"},
            "us-east-2",
            inputs=kwtypes(location=str),
        ),
    )
    yield (
        package,
        "boto-without-region",
        sagemaker.BotoTask(
            "queues", sagemaker.BotoConfig("sqs", "create_queue", {"QueueName": "q"}), inputs=kwtypes(region=str)
        ),
    )
    package = "flytekitplugins-athena"
    yield package, "athena-default", athena.AthenaTask("select-one", "select 1", athena.AthenaConfig())
    yield (
        package,
        "athena-full",
        athena.AthenaTask(
            "select-many",
            "insert into t select * from other where day = '{{ .Inputs.day }}'",
            athena.AthenaConfig("flyte", "primary", "AwsDataCatalog"),
            inputs=kwtypes(day=str),
            output_schema_type=FlyteSchema,
        ),
    )


def of_sagemaker_jobs() -> Iterator[tuple[str, str, Any]]:
    package = "flytekitplugins-awssagemaker"
    name, role, region = "{inputs.name}-{idempotence_token}", "arn:aws:iam::123456789012:role/r", "us-east-2"
    cluster = {"InstanceCount": 1, "InstanceType": "ml.m5.large", "VolumeSizeInGB": 30}
    training = {
        "TrainingJobName": name,
        "AlgorithmSpecification": {"TrainingImage": "{images.training}", "TrainingInputMode": "File"},
        "OutputDataConfig": {"S3OutputPath": "s3://b/out"},
        "ResourceConfig": cluster,
        "RoleArn": role,
        "StoppingCondition": {"MaxRuntimeInSeconds": 3600},
    }
    processing = {
        "ProcessingJobName": name,
        "AppSpecification": {"ImageUri": "{images.training}"},
        "ProcessingResources": {"ClusterConfig": cluster},
        "RoleArn": role,
    }
    source = {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": "s3://b/in"}}
    transform = {
        "TransformJobName": name,
        "ModelName": "m",
        "TransformInput": {"DataSource": source},
        "TransformOutput": {"S3OutputPath": "s3://b/out"},
        "TransformResources": {"InstanceCount": 1, "InstanceType": "ml.m5.large"},
    }
    bounds = {"MaxNumberOfTrainingJobs": 4, "MaxParallelTrainingJobs": 2}
    tuning = {
        "HyperParameterTuningJobName": name,
        "HyperParameterTuningJobConfig": {"Strategy": "Random", "ResourceLimits": bounds},
        "TrainingJobDefinition": {key: value for key, value in training.items() if key != "TrainingJobName"},
    }
    recommending = {
        "JobName": name,
        "JobType": "Default",
        "RoleArn": role,
        "InputConfig": {"ModelPackageVersionArn": "arn:aws:sagemaker:us-east-2:123456789012:model-package/m/1"},
    }
    named = kwtypes(name=str)
    images = {"training": "123456789012.dkr.ecr.us-east-2.amazonaws.com/training:1"}
    yield (
        package,
        "sagemaker-training-job",
        training_jobs.SageMakerTrainingJobTask("t", training, region, images, named),
    )
    yield (
        package,
        "sagemaker-processing-job",
        processing_jobs.SageMakerProcessingJobTask("p", processing, region, images, named),
    )
    yield package, "sagemaker-transform-job", transforms.SageMakerTransformJobTask("b", transform, region, named)
    yield (
        package,
        "sagemaker-tuning-job",
        tunings.SageMakerHyperParameterTuningJobTask("h", tuning, region, images, named),
    )
    yield (
        package,
        "sagemaker-recommender-job",
        recommenders.SageMakerInferenceRecommenderJobTask("r", recommending, region, named),
    )
    function = training_jobs.SageMakerTraining(role, region, environment={"A": "1"}, tags={"team": "a"})
    yield package, "sagemaker-training-task", task(task_config=function, container_image=images["training"])(double)
    function = processing_jobs.SageMakerProcessing(role, region, environment={"A": "1"}, tags={"team": "a"})
    yield package, "sagemaker-processing-task", task(task_config=function, container_image=images["training"])(double)


def of_slurm() -> Iterator[tuple[str, str, Any]]:
    package = "flytekitplugins-slurm"
    options = {"partition": "debug", "job-name": "tiny", "output": "/home/u/out.txt", "requeue": ""}
    script = slurm.SlurmScriptConfig(SSH, options, ["a", "b c"], "/home/u/job.slurm")
    yield package, "slurm-script", slurm.SlurmTask("script", script)
    shell = "#!/bin/bash\necho $SLURM_JOB_ID\n"
    yield package, "slurm-shell", slurm.SlurmShellTask("shell", slurm.SlurmConfig({"host": "login"}, options), shell)

    function = slurm.SlurmFunctionConfig(SSH, options, "#!/bin/bash\nsource env.sh\n{task.fn}\n")
    yield package, "slurm-function", task(task_config=function)(double)


def of_queries() -> Iterator[tuple[str, str, Any]]:
    package = "flytekitplugins-snowflake"
    select = "SELECT * FROM t WHERE day = '{{ .Inputs.day }}' LIMIT {{ .Inputs.limit }}"
    inputs = kwtypes(day=str, limit=int)
    yield package, "snowflake-default", snowflake.SnowflakeTask("insert", "INSERT INTO t VALUES (1)", SNOWFLAKE)
    yield (
        package,
        "snowflake-full",
        snowflake.SnowflakeTask("select", select, SNOWFLAKE, inputs=inputs, output_schema_type=StructuredDataset),
    )
    package = "flytekitplugins-bigquery"
    yield package, "bigquery-default", bigquery.BigQueryTask("q1", "SELECT 1", bigquery.BigQueryConfig("proj"))
    settings = QueryJobConfig(dry_run=False, use_query_cache=False, maximum_bytes_billed=10**9, labels={"team": "a"})
    yield (
        package,
        "bigquery-full",
        bigquery.BigQueryTask(
            "q2",
            "SELECT * FROM t WHERE n > @n AND name = @name",
            bigquery.BigQueryConfig("proj", "EU", settings),
            inputs=kwtypes(n=int, name=str, share=float, flag=bool),
            output_structured_dataset_type=StructuredDataset,
        ),
    )
    package = "flytekit"
    archive = SQLite3Config("https://files.example.com/chinook.zip", compressed=True)
    yield (
        package,
        "sqlite-default",
        SQLite3Task("rows", "select count(*) from t", task_config=SQLite3Config("file.db"), output_schema_type=None),
    )
    yield (
        package,
        "sqlite-full",
        SQLite3Task(
            "tracks",
            "select TrackId, Name from tracks limit {{ .inputs.limit }}",
            task_config=archive,
            inputs=kwtypes(limit=int),
            output_schema_type=FlyteSchema[kwtypes(TrackId=int, Name=str)],
        ),
    )
    package = "flytekitplugins-sqlalchemy"
    made = sqlalchemy_plugin
    yield (
        package,
        "sqlalchemy-default",
        made.SQLAlchemyTask("read", "select 1 as n", made.SQLAlchemyConfig("sqlite:///x")),
    )
    yield (
        package,
        "sqlalchemy-full",
        made.SQLAlchemyTask(
            "write",
            "insert into t values ({{ .inputs.n }})",
            made.SQLAlchemyConfig(
                "postgresql+psycopg://u@db/x",
                connect_args={"connect_timeout": 5},
                secret_connect_args={"password": TOKEN},
            ),
            inputs=kwtypes(n=int),
            output_schema_type=None,
        ),
    )


def of_databricks() -> Iterator[tuple[str, str, Any]]:
    package = "flytekitplugins-spark"
    cluster = {
        "spark_version": "13.3.x-scala2.12",
        "node_type_id": "m6i.large",
        "num_workers": 2,
        "aws_attributes": {"availability": "SPOT_WITH_FALLBACK"},
    }
    environments = [{"environment_key": "default", "spec": {"client": "1"}}]
    configurations = (
        (
            "databricks-new-cluster",
            spark.DatabricksV2(
                spark_conf={"spark.driver.memory": "1g"},
                databricks_conf={"run_name": "own", "new_cluster": cluster, "timeout_seconds": 3600, "max_retries": 1},
                databricks_instance=INSTANCE,
                databricks_token_secret="databricks-team-a",
            ),
        ),
        (
            "databricks-cluster",
            spark.DatabricksV2(databricks_conf={"existing_cluster_id": "c-1"}, databricks_instance=INSTANCE),
        ),
        (
            "databricks-serverless",
            spark.DatabricksV2(
                databricks_conf={"environment_key": "default", "environments": environments},
                databricks_instance=INSTANCE,
                databricks_service_credential_provider="provider",
            ),
        ),
        (
            "databricks-oauth",
            spark.DatabricksV2(
                databricks_conf={"existing_cluster_id": "c-1"},
                databricks_instance=INSTANCE,
                databricks_auth_type="oauth_m2m",
                databricks_client_id="client",
                databricks_oauth_secret="databricks-oauth",
            ),
        ),
        (
            "databricks-federation",
            spark.DatabricksV2(
                databricks_conf={"existing_cluster_id": "c-1"},
                databricks_instance=INSTANCE,
                databricks_auth_type="oidc_federation",
                databricks_client_id="client",
                databricks_oidc_token_file="/var/run/secrets/databricks/token",
                databricks_oidc_audience="databricks",
            ),
        ),
        (
            "databricks-notebook",
            spark.DatabricksV2(
                databricks_conf={"existing_cluster_id": "c-1"},
                databricks_instance=INSTANCE,
                notebook_path="/Users/u/notebook",
                notebook_base_parameters={"day": "1"},
            ),
        ),
    )
    for name, config in configurations:
        yield package, name, task(task_config=config, requests=SMALL)(double)


def double(number: int) -> int:
    return number * 2


def templates() -> Iterator[tuple[str, str, bytes]]:
    """Package, name and serialised ``core.TaskTemplate`` of each task."""
    for family in (webhooks_and_sensors, of_openai, of_aws, of_sagemaker_jobs, of_slurm, of_queries, of_databricks):
        for package, name, made in family():
            spec = get_serializable(OrderedDict(), SETTINGS, made)
            yield package, name, spec.template.to_flyte_idl().SerializeToString(deterministic=True)
