"""Tasks of the Flyte 2 SDK's plugin for Snowflake: prints them serialised, or reads what they have as outputs.

``tasks``: one line of JSON for each task.
``read FILE``: the rows behind the literals of a JSON file, name to base64; Snowflake's driver only says what it
is asked for.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import flyte
import pandas as pd
import snowflake.connector
from flyte._internal.runtime import task_serde
from flyte.models import SerializationContext
from flyte.types import TypeEngine
from flyteidl2.core import literals_pb2
from flyteplugins.snowflake import Snowflake, SnowflakeConfig

PLACE = {"account": "org-acct", "user": "me", "database": "DB", "schema": "PUBLIC", "warehouse": "WH"}
KEY = {"snowflake_private_key": "my-key", "snowflake_private_key_passphrase": "phrase", "secret_group": "team"}


def tasks() -> Iterator[Snowflake]:
    config = SnowflakeConfig(**PLACE, connection_kwargs={"role": "ANALYST"})
    query = "select name, '100%%' as p from pets where age > %(least)s and name <> %(name)s"
    inputs = {"least": int, "name": str}
    yield Snowflake("query", query, config, inputs, pd.DataFrame, **KEY)
    insert = "insert into pets (name, age) values (%(name)s, %(age)s)"
    inputs = {"name": list[str], "age": list[int]}
    yield Snowflake("batch", insert, SnowflakeConfig(**PLACE), inputs, batch=True, **KEY)


def serialised() -> None:
    context = SerializationContext(version="v1", project="p", domain="d", org="o")
    for task in tasks():
        flyte.TaskEnvironment.from_task(task.name, task)
        template = task_serde.translate_task_to_wire(task, context).task_template
        content = base64.b64encode(template.SerializeToString()).decode()
        print(json.dumps({"name": task.name, "template": content}))


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
    for name, content in json.loads(Path(file).read_text()).items():
        message = literals_pb2.Literal.FromString(base64.b64decode(content))
        frame = asyncio.run(TypeEngine.to_python_value(message, pd.DataFrame))
        print(json.dumps({"name": name, "rows": frame.to_dict("records")}, default=str))


if __name__ == "__main__":
    os.environ["SNOWFLAKE_PRIVATE_KEY"] = os.environ.get("PRIVATE_KEY", "")
    {"tasks": serialised, "read": read}[sys.argv[1]](*sys.argv[2:])
