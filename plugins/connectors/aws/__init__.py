"""Amazon Web Services: any call by boto3, SageMaker endpoints, and queries of Athena."""

from propfan.plugins.connectors.aws.athena import AthenaConnector
from propfan.plugins.connectors.aws.calls import BotoConnector
from propfan.plugins.connectors.aws.endpoints import SageMakerEndpointConnector
from propfan.plugins.connectors.extras import offered

connectors = offered("aws", "boto3", BotoConnector, SageMakerEndpointConnector, AthenaConnector)
