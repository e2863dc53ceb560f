"""Tasks of flytekit's SQL plugins: prints them serialised, or reads what they have as outputs.

``tasks URI FILE``: one line of JSON for each task, which talk to the database at URI and to the SQLite FILE.
``read FILE``: the rows behind the literals of a JSON file, name to base64; Snowflake's driver only says what it
is asked for.
"""

from __future__ import annotations

import base64
import datetime as dt
import json
import os
import sys
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import snowflake.connector
from flyteidl.core import literals_pb2
from flytekit import FlyteContextManager, Secret, StructuredDataset, kwtypes
from flytekit.configuration import Image, ImageConfig, SerializationSettings
from flytekit.core.type_engine import TypeEngine
from flytekit.extras.sqlite3.task import SQLite3Config, SQLite3Task
from flytekit.models.literals import Literal
from flytekit.tools.translator import get_serializable
from flytekit.types.schema import FlyteSchema
from flytekitplugins.snowflake import SnowflakeConfig, SnowflakeTask
from flytekitplugins.sqlalchemy import SQLAlchemyConfig, SQLAlchemyTask

PLACE = {"account": "org-acct", "user": "me", "database": "DB", "schema": "PUBLIC", "warehouse": "WH"}


def tasks(uri: str, file: str) -> Iterator[SQLAlchemyTask | SQLite3Task | SnowflakeTask]:
    database = SQLAlchemyConfig(
        uri,
        connect_args={"connect_timeout": 5},
        secret_connect_args={"application_name": Secret(group="db", key="name")},
    )
    inputs = kwtypes(least=int, name=str, day=dt.datetime)
    select = """
        select name, age, current_setting('application_name') as asked_by from pets
        where age > {{ .inputs.least }} and name <> '{{ .inputs.name }}' and {{.inputs.day}} > '2020-01-01'
        order by age
    """
    yield SQLAlchemyTask("typed", select, database, inputs, FlyteSchema[kwtypes(name=str, age=float)])
    yield SQLAlchemyTask("untyped", select, database, inputs)
    insert = "insert into pets values ('{{.inputs.name}}', 1)"
    yield SQLAlchemyTask("insert", insert, database, kwtypes(name=str), output_schema_type=None)
    unpacked = SQLite3Config(uri=file, compressed=True)
    yield SQLite3Task("tracks", "select * from tracks limit {{.inputs.n}}", kwtypes(n=int), unpacked)
    config = SnowflakeConfig(**PLACE)
    select = "select name from pets where age > %(least)s"
    yield SnowflakeTask("snowflake", select, config, kwtypes(least=int), StructuredDataset)
    yield SnowflakeTask("statement", "insert into pets values ('ida', 1)", config)


def serialised(*arguments: str) -> None:
    image = ImageConfig(Image("default", "none", "1"))
    settings = SerializationSettings(project="p", domain="d", version="1", image_config=image)
    for task in tasks(*arguments):
        template = get_serializable(OrderedDict(), settings, task).template.to_flyte_idl()
        content = base64.b64encode(template.SerializeToString()).decode()
        print(json.dumps({"name": template.id.name, "template": content}))


class Driver:
    """Snowflake's, as far as the SDK's decoder goes."""

    def __init__(self, **arguments: object) -> None:
        self.told = {name: value for name, value in arguments.items() if name != "private_key"}

    def cursor(self) -> Driver:
        return self

    def get_results_from_sfqid(self, query_id: str) -> None:
        self.told["query"] = query_id

    def fetch_pandas_all(self) -> pd.DataFrame:
        return pd.DataFrame([self.told])


def read(file: str) -> None:
    snowflake.connector.connect = Driver
    context = FlyteContextManager.current_context()
    for name, content in json.loads(Path(file).read_text()).items():
        message = literals_pb2.Literal.FromString(base64.b64decode(content))
        kind = FlyteSchema if message.scalar.HasField("schema") else pd.DataFrame
        value = TypeEngine.to_python_value(context, Literal.from_flyte_idl(message), kind)
        frame = value.open().all() if isinstance(value, FlyteSchema) else value
        types = {column: str(kind) for column, kind in frame.dtypes.items()}
        print(json.dumps({"name": name, "rows": frame.to_dict("records"), "types": types}, default=str))


if __name__ == "__main__":
    os.environ["_FSEC_PRIVATE-KEY_SNOWFLAKE"] = os.environ.get("PRIVATE_KEY", "")
    {"tasks": serialised, "read": read}[sys.argv[1]](*sys.argv[2:])
