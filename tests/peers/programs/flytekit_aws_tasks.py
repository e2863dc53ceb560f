"""Tasks of flytekit's plugins for AWS, as their SDK serialises them: ``python flytekit_aws_tasks.py FILE``."""

from __future__ import annotations

import base64
import json
import sys
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flytekit import kwtypes
from flytekit.configuration import Image, ImageConfig, SerializationSettings
from flytekit.tools.translator import get_serializable
from flytekit.types.schema import FlyteSchema
from flytekitplugins.athena import AthenaConfig, AthenaTask
from flytekitplugins.awssagemaker_inference import (
    BotoConfig,
    BotoTask,
    SageMakerDeleteEndpointTask,
    SageMakerEndpointTask,
    create_sagemaker_deployment,
)

QUERY = (
    "UNLOAD (SELECT * FROM t WHERE ds = '{{ .Inputs.ds }}') TO '{{ .rawOutputDataPrefix }}' WITH (format = 'PARQUET')"
)


def tasks() -> Iterator[Any]:
    deployment = create_sagemaker_deployment(
        name="shop",
        model_input_types=kwtypes(model_path=str, execution_role_arn=str),
        model_config={
            "ModelName": "shop",
            "PrimaryContainer": {
                "Image": "{images.primary_container_image}",
                "ModelDataUrl": "{inputs.model_path}",
            },
            "ExecutionRoleArn": "{inputs.execution_role_arn}",
        },
        endpoint_config_input_types=kwtypes(instance_type=str),
        endpoint_config_config={
            "EndpointConfigName": "shop",
            "ProductionVariants": [
                {
                    "VariantName": "v1",
                    "ModelName": "shop",
                    "InitialInstanceCount": 1,
                    "InstanceType": "{inputs.instance_type}",
                }
            ],
        },
        endpoint_config={"EndpointName": "shop", "EndpointConfigName": "shop"},
        images={"primary_container_image": "registry/shop:1"},
        region_at_runtime=True,
    )
    yield from (node.flyte_entity for node in deployment.nodes)
    config = {"EndpointName": "{inputs.name}"}
    yield SageMakerDeleteEndpointTask(name="delete", config=config, region="eu-west-1", inputs=kwtypes(name=str))
    config = {"EndpointName": "{inputs.name}", "EndpointConfigName": "{inputs.config}"}
    yield SageMakerEndpointTask(name="again", config=config, region="eu-west-1", inputs=kwtypes(name=str, config=str))
    boto = BotoConfig(service="sqs", method="create_queue", config={"QueueName": "{inputs.name}"}, region="us-east-1")
    yield BotoTask(name="queue", task_config=boto, inputs=kwtypes(name=str))
    athena = AthenaConfig(database="lake", workgroup="primary", catalog="AwsDataCatalog")
    inputs = kwtypes(ds=str)
    yield AthenaTask(
        name="query", query_template=QUERY, inputs=inputs, task_config=athena, output_schema_type=FlyteSchema
    )
    yield AthenaTask(name="statement", query_template="DROP TABLE t")


settings = SerializationSettings(
    project="p", domain="d", version="1", image_config=ImageConfig(Image("default", "none", "1"))
)
made = {}
for task in tasks():
    template = get_serializable(OrderedDict(), settings, task).template.to_flyte_idl()
    made[template.id.name] = base64.b64encode(template.SerializeToString()).decode()
Path(sys.argv[1]).write_text(json.dumps(made), encoding="utf-8")
